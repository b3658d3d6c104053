"""Which right context this machine keeps up with.

A step of R + 1 frames has (R + 1) · 80 ms. On a CPU a large model is bound by reading its weights
once a step, so a longer chunk costs little more and lasts longer: the smallest that fits is chosen.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from voice_agent.engine.chunks import Chunks
from voice_agent.engine.recognizer import SAMPLE_RATE
from voice_agent.engine.runner import EngineRunner

SHARE = 0.7
"""Of a chunk's length that a step may take; the rest is for everything else and a bad moment."""
_STEPS = 3


def step_s(
    runner: EngineRunner, right: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds of one stream's step, the longest of a few after one to warm up.

    Args:
        runner: with slot 0 free.
        right: right context.
        clock: monotonic seconds.
    """
    chunks = Chunks.of(runner.config, right)
    pcm = np.random.default_rng(0).standard_normal((1, chunks.window_samples)).astype(np.float32)
    runner.reset(0)
    taken = []
    for step in range(_STEPS + 1):
        began = clock()
        runner.step([0], [step * chunks.frames], 0.1 * pcm, right)
        taken.append(clock() - began)
    return max(taken[1:])


def smallest_sustained(
    runner: EngineRunner, clock: Callable[[], float] = time.perf_counter
) -> tuple[int, str]:
    """The shortest look-ahead at which one stream keeps up with real time, measured now.

    Args:
        runner: with slot 0 free.
        clock: monotonic seconds.

    Returns:
        The right context (the widest there is, where none fits), and a sentence that says why.
    """
    tried = []
    rights = runner.config.encoder.right_contexts
    for right in rights:
        chunks = Chunks.of(runner.config, right)
        chunk_s = chunks.samples / SAMPLE_RATE
        took = step_s(runner, right, clock)
        tried.append(f"a chunk of {1000 * chunk_s:.0f} ms took {1000 * took:.0f} ms")
        if took <= SHARE * chunk_s:
            return right, f"right context {right}: {', '.join(tried)}"
    return rights[-1], f"no right context keeps up with real time here: {', '.join(tried)}"
