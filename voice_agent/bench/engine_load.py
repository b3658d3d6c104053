"""Streams at real-time pace over our engine, and the search for the largest number that holds."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from voice_agent.bench.engine_systems import make_runner, release
from voice_agent.engine.errors import EngineError

if TYPE_CHECKING:
    from voice_agent.bench.engine_run import Plan
    from voice_agent.engine.checkpoint import Checkpoint

Phases = Literal["spread", "lockstep"]
Outcome = dict[str, Any]
_SPARE_BYTES = 2**30  # for what a step allocates


class Load:
    """One recogniser with many slots, loaded once for several numbers of streams."""

    def __init__(self, plan: Plan, checkpoint: Checkpoint, slots: int) -> None:
        """Load it.

        Args:
            plan: precision and device.
            checkpoint: weights, with a tokenizer.
            slots: the largest number of streams.
        """
        from voice_agent.engine.nemotron import NemotronRecognizer

        runner = make_runner(
            checkpoint, slots=slots, device=plan.device, dtype=plan.torch_dtype(),
            threads=plan.threads, weights=plan.weights, kv=plan.kv,
        )  # fmt: skip
        self.slots = slots
        self._recognizer = NemotronRecognizer(
            checkpoint, runner, slots=slots, device=str(plan.device), right_context=plan.right
        )

    @classmethod
    def fitting(cls, plan: Plan, checkpoint: Checkpoint, slots: int, least: int) -> Load:
        """Load it with as many slots as the device's memory has room for.

        Args:
            plan: precision and device.
            checkpoint: weights.
            slots: that are wanted; fewer, in steps of a tenth, where they do not fit.
            least: slots without which there is nothing to measure.

        Raises:
            EngineError: not even those fit.
        """
        import torch

        while True:
            try:
                load = cls(plan, checkpoint, slots)
                if plan.device.type != "cuda" or torch.cuda.mem_get_info()[0] > _SPARE_BYTES:
                    return load
                load.close()
            except torch.OutOfMemoryError:
                pass
            release(plan.device)
            if slots <= least:
                raise EngineError(f"{least:,} streams do not fit the memory of {plan.device}")
            slots = max(least, slots * 9 // 10)

    def run(self, streams: int, seconds: float, phases: Phases) -> Outcome:
        """Feed so many streams for so long; see `voice_agent.bench.paced.PacedResult`.

        Raises:
            EngineError: a stream or the engine failed.
        """
        import numpy as np

        from voice_agent.bench.engine_audio import int16_of, noise
        from voice_agent.bench.paced import run_paced

        pcm = int16_of(noise(1, 16_000 * 5, np.random.default_rng())[0])
        feeders = min(2, max(1, (os.cpu_count() or 1) // 4))  # they share one interpreter lock
        result = run_paced(self._recognizer, streams, seconds, phases, audio=pcm, feeders=feeders)
        return {**asdict(result), "valid": result.valid}

    def close(self) -> None:
        """Stop the thread and give the memory back."""
        self._recognizer.close()
        del self._recognizer
        gc.collect()


def holds(outcome: Outcome, max_lag_ms: float) -> bool:
    """Whether every chunk came within its own length, and 99 % of them within the limit."""
    return bool(outcome["valid"] and outcome["misses"] == 0 and outcome["lag_p99_ms"] <= max_lag_ms)


def find_capacity(
    run: Callable[[int], Outcome],
    *,
    first: int,
    most: int,
    max_lag_ms: float,
    step: int,
    time_left: Callable[[], bool],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Bisect for the largest number of streams that holds.

    Args:
        run: feeds so many streams.
        first: where to begin.
        most: slots.
        max_lag_ms: that the 99th percentile may have.
        step: how near the answer is wanted.
        time_left: whether another run may begin.
        say: tells a person how far it is.

    Returns:
        `holds`: the largest number that held; 0 where none did. `fails`: the smallest that did
        not; None where none did. `complete`: whether they are within `step` of each other, or
        every slot held. `runs`: by streams, what was seen.
    """
    low, high = 0, None
    runs: list[Outcome] = []
    streams = min(first, most)
    while streams > 0 and time_left():
        outcome = run(streams)
        good = holds(outcome, max_lag_ms)
        runs.append({**outcome, "holds": good})
        say(
            f"{streams:,} streams: p99 lag {outcome['lag_p99_ms']:.1f} ms, "
            f"{outcome['misses']} missed: {'holds' if good else 'does not hold'}"
        )
        low, high = (streams, high) if good else (low, streams)
        if low == most or (high is not None and high - low <= step):
            break
        streams = (low + high) // 2 if high is not None else min(2 * low, most)
    complete = low == most or (high is not None and high - low <= step)
    return {"holds": low, "fails": high, "complete": complete, "max_lag_ms": max_lag_ms,
            "runs": runs}  # fmt: skip


def need_paced() -> None:
    """Fail early where the paced run is not to be had.

    Raises:
        EngineError: it is not there.
    """
    from importlib.util import find_spec

    if find_spec("voice_agent.bench.paced") is None:
        raise EngineError("this version has no voice_agent.bench.paced, so it cannot pace streams")
