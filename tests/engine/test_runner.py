"""The step put together: what it runs on, 8 bits, and the right context that a CPU can keep up."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from voice_agent.bench.engine_audio import noise, samples_for, windows
from voice_agent.bench.engine_random import calibrated
from voice_agent.bench.shapes import random_checkpoint
from voice_agent.engine import loading
from voice_agent.engine import runner as runner_module
from voice_agent.engine.chunks import Chunks
from voice_agent.engine.errors import EngineError, OutOfRange
from voice_agent.engine.runner import EngineRunner
from voice_agent.engine.sustain import SHARE, smallest_sustained


@pytest.fixture(scope="module")
def toy():
    return calibrated(random_checkpoint("toy"), right=0)[0]


def stream(runner: EngineRunner, lanes: list[int], steps: int = 25) -> dict[int, list[int]]:
    """Tokens by lane; a lane hears the same in any company."""
    chunks = Chunks.of(runner.config, 0)
    audio = noise(24, samples_for(chunks, steps), np.random.default_rng(0))
    tokens: dict[int, list[int]] = {lane: [] for lane in lanes}
    for step, pcm in enumerate(windows(audio, chunks, steps)):
        said = runner.step(lanes, [step] * len(lanes), pcm[lanes], 0)
        for i, lane in enumerate(lanes):
            tokens[lane] += said.tokens_of(i)
    return tokens


@pytest.mark.parametrize("weights", [None, "int8"])
def test_a_stream_says_the_same_alone_and_in_company(toy, weights):
    runner = EngineRunner(toy, slots=24, weights=weights)
    together = stream(runner, list(range(24)))
    for lane in (0, 7, 23):
        assert stream(runner, [lane])[lane] == together[lane]
    assert sum(map(len, together.values())) > 50


def test_8_bit_weights_move_an_encoder_frame_by_little(toy):
    frames = []
    for weights in (None, "int8"):
        runner = EngineRunner(toy, slots=2, weights=weights)
        mel = torch.randn(2, 16, 80, generator=torch.Generator().manual_seed(0))
        slots, pos = torch.arange(2), torch.zeros(2, dtype=torch.int64)
        with torch.inference_mode():
            frames.append(runner.encode(mel, slots, pos, 1))
    cosine = torch.nn.functional.cosine_similarity(*frames, dim=-1)
    assert 0.995 < cosine.min() < 1 - 1e-7, "near the float weights' and not equal to it"


def test_numbers_that_overflow_float16_are_refused_by_name(toy):
    weights = dict(toy.weights)
    name = "encoder.layers.1.feed_forward1.linear1.weight"
    weights[name] = weights[name] * 1e6
    large = replace(toy, weights=weights)
    with pytest.raises(OutOfRange, match="overflow in torch.float16; compute it in bfloat16"):
        EngineRunner(large, slots=1, dtype=torch.float16)
    EngineRunner(large, slots=1, dtype=torch.bfloat16)
    EngineRunner(toy, slots=1, dtype=torch.float16)


@pytest.mark.parametrize(
    "device, asked, fits, used",
    [
        ("cpu", None, True, torch.float32),
        ("cuda", None, True, torch.float16),
        ("cuda", None, False, torch.bfloat16),
        ("cuda", "bfloat16", True, torch.bfloat16),
    ],
)
def test_a_gpu_computes_in_float16_where_the_numbers_fit(
    toy, monkeypatch, device, asked, fits, used
):
    def make(checkpoint, *, dtype, **options):
        if dtype == torch.float16 and not fits:
            raise OutOfRange("toy", "overflows")
        return dtype

    monkeypatch.setattr(runner_module, "EngineRunner", make)
    where = torch.device(device)
    made = loading._runner("engine", toy, Path(), where, 1, asked, None, None)
    assert made is used


def test_8_bit_keys_without_the_kernels_are_refused(toy):
    with pytest.raises(EngineError, match="8-bit K and V need the engine's GPU kernels"):
        EngineRunner(toy, slots=1, kv="int8")


def test_a_runner_says_once_that_it_has_no_graphs(toy, caplog):
    runner_module._say_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger=runner_module.__name__):
        runners = [EngineRunner(toy, slots=1) for _ in range(2)]
    assert [r.mode for r in runners] == ["eager", "eager"]
    assert runners[0].reason == "the device is a CPU"
    assert [record.message for record in caplog.records] == [
        "the engine computes step by step, without CUDA graphs: the device is a CPU"
    ]


@pytest.mark.parametrize(
    "took_s, right, because",
    [
        (SHARE * 0.079, 0, "right context 0: a chunk of 80 ms took 55 ms"),
        (0.1, 1, "right context 1: a chunk of 80 ms took 100 ms, a chunk of 160 ms took 100 ms"),
        (9.0, 13, "no right context keeps up with real time here: a chunk of 80 ms took 9000 ms"),
    ],
)
def test_the_smallest_right_context_that_fits_is_chosen_and_says_why(toy, took_s, right, because):
    times = iter(np.arange(1000) * took_s)
    found, why = smallest_sustained(EngineRunner(toy, slots=1), clock=lambda: next(times))
    assert found == right and why.startswith(because)
