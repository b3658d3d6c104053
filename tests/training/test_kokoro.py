"""Kokoro in batches, but for its weights, which no test has: what is done to and around them."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from training.align import UNKNOWN
from training.casual import casual
from training.foreign import foreign, foreign_words
from training.kokoro import ipa_phones, read_styles, spoken_lines, to_16k, whole_durations
from training.onnx_torch import OnnxOnTorch
from training.pool import PHONES


@pytest.mark.parametrize(
    "spoken, phones",
    [
        ("ðˈeɪ", [("dh", 1), ("ey", 4)]),
        ("tʃˈiːz.", [("ch", 2), ("iy", 5), ("z", 6), ("pau", 7)]),
        ("ə ɹ", [("ah", 1), (UNKNOWN, 2), ("r", 3)]),
        ("nɡ!ǃ", [("n", 1), ("g", 2), ("pau", 3), (UNKNOWN, 4)]),
    ],
)
def test_phonemes_become_phones_that_end_where_their_last_symbol_does(spoken, phones):
    assert ipa_phones(spoken, range(1, len(spoken) + 1)) == phones
    assert {p for p, _ in phones} <= {*PHONES, UNKNOWN}


def test_people_say_it_otherwise_but_never_as_nothing():
    said = "ðə mˈæn ænd hɪz wˈaɪf wɛnt tə ðə lˈæst wˈɪndoʊ"
    ways = {casual(said, random.Random(seed)) for seed in range(60)}
    assert said in ways and len(ways) > 20
    assert all(len(way.split()) == len(said.split()) for way in ways)
    known = set(said) | set("ɑɐɾdtoaəiɛɪnː")
    assert set("".join(ways)) <= known


def test_an_accent_is_one_voices_and_keeps_the_words():
    said = "ðə vˈɛɹi θˈɪŋ ænd wiː dʒˈʌdʒ hɪz zˈiːbɹəz"
    ways = Counter(foreign(said, random.Random(seed)) for seed in range(400))
    assert 0.6 < ways[said] / 400 < 0.8 and len(ways) > 50
    assert all(len(way.split()) == len(said.split()) for way in ways)
    # One language swallows h and others harden what a word ends with: nobody does both.
    his = {way.split()[6] for way in ways}
    assert {"ɪz", "hɪs"} < his and not {"ɪs", "is"} & his
    assert any(way.startswith("zə") and " viː " in way for way in ways)
    words = [["dh", "ah"], ["w", "er", "d", "z"], ["hh"]]
    found = [foreign_words(words, random.Random(seed)) for seed in range(200)]
    assert 0.6 < found.count(words) / 200 < 0.85
    assert {phone for line in found for word in line for phone in word} <= {*PHONES}
    assert all(len(line) == 3 and all(line) for line in found)


@pytest.mark.parametrize("frames", [7, 40, 300])
def test_durations_become_whole_frames_that_fill_the_batchs_length(frames):
    natural = torch.tensor([[0.2, 9.0, 30.0, 0.0, 0.0, 1.0, 2.0], [5.0] * 7, [0.0] * 6 + [90.0]])
    found = whole_durations(natural, frames)
    assert found.sum(1).tolist() == [frames] * 3 and int(found.min()) >= 1
    if frames == 300:
        torch.testing.assert_close(found[1].float(), torch.full((7,), 300 / 7), atol=1.0, rtol=0)
        assert found[0].argmax() == 2 and found[2].argmax() == 6


def test_resampling_keeps_what_16_khz_can_hold_and_drops_the_rest():
    time = torch.arange(24_000) / 24_000
    for hertz, kept in ((440.0, 1.0), (3000.0, 1.0), (9500.0, 0.0)):
        out = to_16k(torch.sin(2 * math.pi * hertz * time)[None])[0, 500:-500]
        loud = float(out.square().mean().sqrt() * 2**0.5)
        assert loud == pytest.approx(kept, abs=0.02)
        if kept:
            at = (torch.arange(500, 500 + len(out))) / 16_000
            torch.testing.assert_close(out, torch.sin(2 * math.pi * hertz * at), atol=0.03, rtol=0)


def test_english_voices_count_more(tmp_path):
    np.savez(tmp_path / "v.npz", **{n: np.ones((3, 256), np.float16) for n in ("af_x", "zm_y")})
    styles, weights = read_styles(tmp_path / "v.npz")
    assert styles.shape == (2, 3, 256) and weights.tolist() == [1.0, 0.3]


class Mute:
    """Notes the batches that it is asked to speak; runs out of memory once, on more than two."""

    accent = "en-us"

    def __init__(self) -> None:
        self.spoken: list[list[str]] = []
        self.failed = False

    def symbols(self, text: str, r: random.Random) -> list[str]:
        return list(text)

    def speak(self, lines, r):
        if len(lines) > 2 and not self.failed:
            self.failed = True
            raise torch.OutOfMemoryError
        self.spoken.append(["".join(line) for line in lines])
        return [(np.zeros(9, np.int16), [("pau", 9)]) for _ in lines]


def test_lines_are_spoken_with_others_of_their_length_and_none_is_lost():
    texts = ["aaa", "bbbb", "ccc", "dddd", "eee", "x" * 300]
    left, mute = iter(texts), Mute()
    source = spoken_lines(mute, lambda: next(left), random.Random(1), draw=24)
    heard = [next(source) for _ in range(5)]
    assert sorted(text for _, text, _, _ in heard) == sorted(texts[:5])  # the last is too long
    assert mute.failed and all(len({len(t) for t in batch}) == 1 for batch in mute.spoken)
    assert {voice for _, _, voice, _ in heard} == {"kokoro/en-us"}


def quantised_graph(path):
    """x @ W as a quantising exporter writes it, then a shape made of constants, then tanh."""
    rng = np.random.default_rng(0)
    weight = rng.integers(0, 255, (6, 4)).astype(np.uint8)
    constants = {
        "W": weight,
        "W_zero": np.array(120, np.uint8),
        "W_scale": np.array(0.013, np.float32),
        "bias": rng.normal(size=4).astype(np.float32),
        "one": np.array([1], np.int64),
        "two": np.array([2], np.int64),
    }
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "W", "z", "W_zero"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=1),
        helper.make_node("Mul", ["s", "W_scale"], ["ss"]),
        helper.make_node("Mul", ["f", "ss"], ["m"]),
        helper.make_node("Add", ["bias", "m"], ["a"]),
        helper.make_node("Concat", ["one", "two", "two"], ["shape"], axis=0),
        helper.make_node("Reshape", ["a", "shape"], ["r"]),
        helper.make_node("Tanh", ["r"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 2])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(path))


def test_a_simplified_graph_computes_what_onnxruntime_does(tmp_path):
    import onnxruntime

    quantised_graph(tmp_path / "g.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "g.onnx"))
    ours = OnnxOnTorch(tmp_path / "g.onnx", torch.device("cpu"))
    assert [node.op for node in ours.nodes] == ["Linear", "Reshape", "Tanh"]
    x = torch.randn(1, 6)
    (wanted,) = session.run(None, {"x": x.numpy()})
    torch.testing.assert_close(ours(x=x), torch.from_numpy(wanted), atol=0.05, rtol=0)


def test_a_part_of_a_graph_runs_from_an_inner_value_and_a_reshape_can_be_left_out(tmp_path):
    quantised_graph(tmp_path / "g.onnx")
    plain = OnnxOnTorch(tmp_path / "g.onnx", torch.device("cpu"))
    batched = OnnxOnTorch(tmp_path / "g.onnx", torch.device("cpu"), {"r": "a"})
    x = torch.randn(3, 6)
    (inner,) = batched.run(["a"], {"x": x})
    (out,) = batched.run(["y"], {"a": inner})
    assert out.shape == (3, 4)
    for row in range(3):
        torch.testing.assert_close(plain(x=x[row : row + 1]).flatten(), out[row])
