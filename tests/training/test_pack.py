"""What is packed for a machine without a network is what is unpacked there, piece by piece."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
from onnx import TensorProto, helper, numpy_helper

from training.pack import digest, human, write_pieces
from training.splice import read_aligned
from training.unpack import restore_human, restore_joe, unpack

LIMIT = 40_000


@pytest.fixture
def packed(tmp_path):
    """A tree of small files, one of them longer than a piece, and its pieces."""
    rng = np.random.default_rng(0)
    tree = tmp_path / "tree"
    for name, size in (("files/kokoro/kokoro.onnx", 90_000), ("wheels/a.whl", 900), ("b.npz", 1)):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(rng.bytes(size))
    (tree / "speech/text").mkdir(parents=True)
    (tree / "speech/text/book.txt").write_text("again and again\n" * 5000)
    pieces = write_pieces(tree, tmp_path / "pieces", LIMIT)
    return tree, pieces


def test_pieces_may_come_one_after_another_and_in_any_order(packed, tmp_path):
    tree, pieces = packed
    assert len(pieces) > 2 and all(piece.stat().st_size <= LIMIT for piece in pieces)
    came, into = tmp_path / "came", tmp_path / "into"
    came.mkdir()
    shutil.copy(pieces[0].parent / "manifest.json", came)
    for piece in reversed(pieces):
        assert unpack(came, into)
        shutil.copy(piece, came)
    for _ in range(2):  # again: nothing is lost
        assert unpack(came, into) == []
    for path in tree.rglob("*"):
        if path.is_file():
            assert digest(into / path.relative_to(tree)) == digest(path)
    assert sorted(p.suffix for p in (into / ".parts").iterdir()) == [".done"] * len(pieces)


def test_the_first_piece_is_what_work_can_begin_with(packed, tmp_path):
    _, pieces = packed
    came = tmp_path / "came"
    came.mkdir()
    shutil.copy(pieces[0].parent / "manifest.json", came)
    shutil.copy(pieces[0], came)
    missing = unpack(came, tmp_path / "into")
    assert {"wheels/a.whl", "speech/text/book.txt"}.isdisjoint(missing)


def test_a_damaged_piece_is_named(packed, tmp_path):
    _, pieces = packed
    content = bytearray(pieces[1].read_bytes())
    content[700] ^= 1
    pieces[1].write_bytes(content)
    with pytest.raises(ValueError, match=r"02\.tar is damaged"):
        unpack(pieces[0].parent, tmp_path / "into")


def test_human_clips_come_back_with_their_words_in_their_places(tmp_path):
    (tmp_path / "human").mkdir()
    tone = (8000 * np.sin(np.arange(16_000) * 0.2)).astype(np.int16)
    level = (256.0 - 28.0) / 250.0
    clip = tmp_path / "human/00000.opus"
    soundfile.write(clip, tone, 16000, "OPUS", format="OGG", compression_level=level)
    known = {
        "phones": [["aa", 8000], ["s", 16_000]],
        "words": [["ah", 0, 8000], ["so", 8000, 16_000]],
    }
    row = {"clip": clip.name, "samples": 16_000, "text": "ah so", "voice": "reading/1"} | known
    (tmp_path / "human/rows.json").write_text(json.dumps([row]))
    assert restore_human(tmp_path, tmp_path / "pool") == pytest.approx(1 / 3600)
    (clip_read,) = read_aligned(tmp_path / "pool")
    assert clip_read.words == [("ah", 0, 8000), ("so", 8000, 16_000)]
    assert np.corrcoef(clip_read.audio, tone)[0, 1] > 0.95


def test_joes_weights_are_wide_again(tmp_path):
    weight = numpy_helper.from_array(np.full((40, 40), 0.5, np.float16), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 40])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 40])],
        [weight],
    )
    onnx.save(helper.make_model(graph), str(tmp_path / "joe.half"))
    restore_joe(tmp_path)
    (read,) = onnx.load(str(tmp_path / "joe.onnx")).graph.initializer
    assert read.data_type == TensorProto.FLOAT and (numpy_helper.to_array(read) == 0.5).all()


def test_the_stages_script_parses_and_says_how_it_is_called():
    script = Path(__file__).parents[2] / "training/gpu_run.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True)
    assert done.returncode == 2 and "watch SECONDS" in done.stdout


def test_clips_are_brought_as_opus_and_what_was_brought_is_not_brought_again(tmp_path):
    source, tree = tmp_path / "speech", tmp_path / "made/tree"
    rows = []
    for name in ("ls100_a.flac", "pvcmd_b.flac"):
        (source / "train").mkdir(parents=True, exist_ok=True)
        tone = (0.3 * np.sin(np.arange(16_000) * 0.2)).astype(np.float32)
        soundfile.write(source / "train" / name, tone, 16000)
        rows.append({"audio": name, "text": "Ah, so.", "lang": "en", "speaker": "1"})
    (source / "train/manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    human(tree, source, align=False, clips=1)
    first = tree / "human/00000.opus"
    made = first.stat().st_mtime_ns
    human(tree, source, align=False, clips=None)
    told = json.loads((tree / "human/rows.json").read_text())
    assert [row["voice"] for row in told] == ["reading/1", "orders/1"]
    assert first.stat().st_mtime_ns == made
    assert restore_human(tree, tmp_path / "pool") == pytest.approx(2 / 3600)


def test_a_long_file_fills_the_room_that_a_piece_has_left(packed):
    _, pieces = packed
    assert all(piece.stat().st_size > 0.7 * LIMIT for piece in pieces[1:-1])
