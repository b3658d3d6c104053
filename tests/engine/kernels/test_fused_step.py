"""The kernels together, as a GPU runs them, beside the plain modules: state and tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="the GPU kernels need Triton")

from tests.engine.kernels.small import small_checkpoint, small_config  # noqa: E402
from voice_agent.engine import graphs  # noqa: E402
from voice_agent.engine.boosting import PhraseBoost  # noqa: E402
from voice_agent.engine.chunks import Chunks  # noqa: E402
from voice_agent.engine.kernels import linear  # noqa: E402
from voice_agent.engine.runner import EngineRunner  # noqa: E402

SLOTS = 5


def pair(config, **kwargs):
    """A runner of kernels whose pool is poison, and a plain one, of the same weights."""
    checkpoint = small_checkpoint(config)
    fused = EngineRunner(checkpoint, slots=SLOTS, kernels=True, **kwargs)
    poison(fused)
    return fused, EngineRunner(checkpoint, slots=SLOTS, kernels=False)


def poison(runner) -> None:
    for tensor in vars(runner.pool).values():
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
            tensor.fill_(float("nan"))


@pytest.fixture(scope="module")
def one_pair():
    """One for all tests that ask for nothing special: an interpreter takes seconds to make it."""
    return pair(small_config())


@pytest.fixture
def runners(one_pair):
    poison(one_pair[0])
    return one_pair


def assert_same_steps(fused, plain, right: int, steps, asked=None, searched=None) -> int:
    """Step both over noise.

    By slot, `asked` is what a segment asks for, and `searched` the chunks of one that is searched.
    How much was said.
    """
    asked = asked or {}
    chunks = Chunks.of(plain.config, right)
    rng = np.random.default_rng(right)
    said = 0
    at = dict.fromkeys(range(SLOTS), 0)
    for began, slots in steps:
        for slot in began:
            at[slot] = 0
            for runner in (fused, plain):
                runner.reset(slot, **asked.get(slot, {}))
                if slot in (searched or {}):
                    runner.search(slot, searched[slot])
        pcm = rng.standard_normal((len(slots), chunks.window_samples)).astype(np.float32)
        pos = [at[slot] for slot in slots]
        got = fused.step(slots, pos, pcm, right)
        want = plain.step(slots, pos, pcm, right)
        for name in ("lanes", "tokens", "frames"):
            assert getattr(got, name).tolist() == getattr(want, name).tolist(), name
        np.testing.assert_allclose(got.probs, want.probs, atol=1e-4)
        for slot in slots:
            at[slot] += chunks.frames
        said += len(got)
        for name in ("lstm_h", "lstm_c", "pred", "mel", "sub1", "sub2"):
            a, b = (getattr(runner.pool, name)[slots] for runner in (fused, plain))
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    return said


# (slots whose segment begins, slots of the step's lanes)
STEPS = [([3, 1], [3, 1]), ([4], [4, 3, 1]), ([1], [1, 3])]


@pytest.mark.parametrize("right", [0, 1])
def test_kernels_step_as_the_plain_modules_do(runners, right):
    fused, plain = runners
    assert fused.mode == "eager" and "CPU" in fused.reason
    assert assert_same_steps(fused, plain, right, STEPS[: 3 if right == 0 else 2]) > 1


def test_prompts_scaling_two_layers_and_a_checkpoint_without_zero_frames():
    config = small_config(rights=(0,), layers=2, prompt=True, xscaling=True, zero_frames=False)
    fused, plain = pair(config)
    assert assert_same_steps(fused, plain, 0, STEPS[:2], {3: {"language": "en"}}) > 1


def test_a_lane_with_phrases_is_decoded_by_the_host_and_its_mates_on_the_device(runners):
    surfaces = [f" {chr(97 + i)}" for i in range(22)]
    boost = PhraseBoost({"d": 20.0, "k": 15.0}, surfaces)
    fused, plain = runners
    assert assert_same_steps(fused, plain, 1, STEPS[:2], {3: {"boost": boost}}) > 1


def test_a_searched_lane_is_told_with_its_last_chunk_and_its_mates_as_ever(runners):
    fused, plain = runners
    assert assert_same_steps(fused, plain, 1, STEPS[:2], searched={3: 2}) > 1


def test_a_lane_searched_as_it_speaks_tells_what_is_agreed_on_and_then_the_rest(runners):
    fused, plain = runners
    assert assert_same_steps(fused, plain, 1, STEPS[:2], searched={3: None}) > 1
    ends = [runner.rest(3) for runner in runners]
    assert ends[0][:2] == ends[1][:2]
    assert len(fused.rest(3)[0]) == 0  # it is over


def test_a_cancelled_search_does_not_hear_into_the_next_segment(runners):
    fused, plain = runners
    chunks = Chunks.of(plain.config, 1)
    rng = np.random.default_rng(4)
    first, second = rng.standard_normal((2, 1, chunks.window_samples)).astype(np.float32)
    fused.reset(2)
    fused.search(2, None)
    flying = fused.launch([2], [0], first, 1)
    fused.reset(2)  # while that is under way
    fused.search(2, 1)
    plain.reset(2)
    plain.search(2, 1)
    said = fused.step([2], [0], second, 1)
    assert said.tokens.tolist() == plain.step([2], [0], second, 1).tokens.tolist()
    assert fused.collect(flying) is not None


def test_lanes_that_talk_on_get_more_rounds(monkeypatch):
    monkeypatch.setattr(graphs, "rounds_of", lambda chunk, lanes: 2)
    fused, plain = pair(small_config(rights=(1,)))
    assert assert_same_steps(fused, plain, 1, STEPS[:2]) > 1


def test_long_sums_in_parts_step_as_the_plain_modules_do(monkeypatch):
    monkeypatch.setattr(linear, "LONG", 192)
    fused, plain = pair(small_config(rights=(0,), ff_expansion_factor=8))
    assert fused.graphs.step.layers[0].ff1[1].parts == 4
    assert assert_same_steps(fused, plain, 0, STEPS[:3]) > 0


def test_a_batch_larger_than_the_largest_step_is_cut():
    fused, plain = pair(small_config(rights=(0,)), max_batch=2)
    fused.graphs.lanes[0] = 2
    assert fused.max_batch == 2
    assert assert_same_steps(fused, plain, 0, [([4, 3, 1], [4, 3, 1])]) > 0


def test_the_next_step_may_be_launched_before_the_last_is_collected(runners):
    fused, plain = runners
    samples = Chunks.of(plain.config, 0).window_samples
    noise = np.random.default_rng(0).integers(-20000, 20000, (2, 2, samples), np.int16)
    tickets = []
    for i in range(2):
        pcm = fused.staging(2, samples)  # where the device fetches it
        pcm[:] = noise[i]
        tickets.append(fused.launch([0, 2], [i, i], pcm, 0))
    want = [plain.step([0, 2], [i, i], noise[i] / np.float32(32768), 0) for i in range(2)]
    assert [fused.collect(t).tokens.tolist() for t in tickets] == [w.tokens.tolist() for w in want]
    assert any(len(w) for w in want)


def test_what_a_step_said_outlives_a_next_one_that_is_cut(runners, monkeypatch):
    fused, plain = runners
    monkeypatch.setitem(fused.graphs.lanes, 0, 1)
    samples = Chunks.of(plain.config, 0).window_samples
    noise = np.random.default_rng(1).standard_normal((6, 4, samples)).astype(np.float32)
    said = 0
    for i, pcm in enumerate(noise):
        first = fused.launch([1], [i], pcm[:1], 0)
        second = fused.launch([0, 2, 3], [i, i, i], pcm[1:], 0)
        got = [fused.collect(t) for t in (first, second)]
        want = [plain.step([1], [i], pcm[:1], 0), plain.step([0, 2, 3], [i, i, i], pcm[1:], 0)]
        assert [(e.lanes.tolist(), e.tokens.tolist()) for e in got] == [
            (e.lanes.tolist(), e.tokens.tolist()) for e in want
        ]
        said += len(want[0])
    assert said
