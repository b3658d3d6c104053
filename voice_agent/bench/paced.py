"""Many streams at the pace of speech: how long each chunk waits for its events.

    python -m voice_agent.bench.paced --streams 8192 --seconds 20 --step-ms 10

runs the host alone, over a device that only takes time; `voice-agent bench engine --paced N` does
the same with a model. Feeder threads hand every stream its next chunk when a microphone would,
through the public API:

    spread     the streams' chunks end at times spread evenly over a chunk's length
    lockstep   all chunks end at once: the worst case

    lag        from the moment at which a chunk's audio ends on the streams' clock (not from the
               call that hands it over, which comes later where the feeders are late) until the
               events of the step that computed it have been posted; every chunk counts, also
               those that say nothing, and the flush at a segment's end
    miss       a lag longer than the chunk
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np

from voice_agent.bench.paced_feeders import Feeder, Tally
from voice_agent.engine.interpreter import prompt
from voice_agent.engine.recognizer import (
    SAMPLE_RATE,
    Recognizer,
    StreamOptions,
)
from voice_agent.engine.scheduler import Recorder

Phases = Literal["spread", "lockstep"]
_PHASES = 80  # distinct phases over a chunk: 1 ms apart at 80 ms


class Recording(Recognizer, Protocol):
    """A recogniser that tells the lag of every chunk."""

    def record_lags(self, recorder: Recorder | None) -> None:
        """See `NemotronRecognizer.record_lags`."""
        ...

    def chunk_s(self, right_context: int | None = None) -> float:
        """Seconds of a chunk."""
        ...


@dataclass(frozen=True)
class PacedResult:
    """What a paced run measured, after its warm-up. Milliseconds end in `_ms`.

    Attributes:
        streams: fed at once.
        seconds: measured.
        phases: how the streams' clocks lay.
        chunk_ms: of audio.
        chunks: computed.
        batch: lanes a step, on average.
        lag_p50_ms: see the module's docstring.
        lag_p95_ms: the same.
        lag_p99_ms: the same.
        lag_max_ms: the same.
        misses: chunks whose lag was longer than a chunk.
        partials: events.
        finals: events.
        final_p50_ms: from `finish()` to the final's posting.
        final_p99_ms: the same.
        failed: what ended a stream, if anything did; then nothing else counts.
        feeder_late_p99_ms: by how much feeders were behind their clock; part of the lag.
        feeder_late_max_ms: the same. Where it is a chunk or more the feeders could not keep the
            pace, and lags are told too short: see `valid`.
        overflows: times that a ring was full, since the engine started.
        cpu_cores: of the whole process, on average.
        engine_cores: of the engine thread.
        feeder_cores: of all feeders.
        gpu_bytes: most that torch has held; None without a GPU.
    """

    streams: int
    seconds: float
    phases: Phases
    chunk_ms: float
    chunks: int
    batch: float
    lag_p50_ms: float
    lag_p95_ms: float
    lag_p99_ms: float
    lag_max_ms: float
    misses: int
    partials: int
    finals: int
    final_p50_ms: float
    final_p99_ms: float
    failed: str | None
    feeder_late_p99_ms: float
    feeder_late_max_ms: float
    overflows: int
    cpu_cores: float
    engine_cores: float
    feeder_cores: float
    gpu_bytes: int | None

    @property
    def valid(self) -> bool:
        """Whether the feeders kept the pace, and every stream lived."""
        return self.failed is None and self.feeder_late_max_ms < self.chunk_ms

    def __str__(self) -> str:
        lines = [
            f"{self.streams} streams, {self.phases}, {self.chunk_ms:.0f} ms chunks, "
            f"{self.seconds:.0f} s: {self.chunks} chunks, {self.batch:.0f} a step",
            f"lag p50 {self.lag_p50_ms:.1f}  p95 {self.lag_p95_ms:.1f}  p99 {self.lag_p99_ms:.1f}  "
            f"max {self.lag_max_ms:.1f} ms; {self.misses} missed",
            f"finals {self.finals}: p50 {self.final_p50_ms:.1f}  p99 {self.final_p99_ms:.1f} ms; "
            f"partials {self.partials}; rings overflowed {self.overflows} times",
            f"cores: process {self.cpu_cores:.2f}, engine thread {self.engine_cores:.2f}, "
            f"feeders {self.feeder_cores:.2f} (late p99 {self.feeder_late_p99_ms:.1f}, "
            f"max {self.feeder_late_max_ms:.1f} ms)",
        ]
        if self.gpu_bytes is not None:
            lines.append(f"GPU memory {self.gpu_bytes / 2**30:.1f} GiB")
        if self.failed:
            lines.append(f"FAILED: {self.failed}")
        elif not self.valid:
            lines.append("NOT VALID: the feeders fell behind by a chunk; this machine is too busy")
        return "\n".join(lines)


def run_paced(
    recognizer: Recording,
    streams: int,
    seconds: float,
    phases: Phases = "spread",
    *,
    audio: np.ndarray | None = None,
    right_context: int | None = None,
    final_pass: Literal["stream", "full"] = "stream",
    segment_s: float = 5.0,
    feeders: int = 1,
    warmup_s: float = 2.0,
) -> PacedResult:
    """Feed many streams on a real-time clock, and measure the lag of every chunk.

    Args:
        recognizer: loaded; with that many free slots.
        streams: opened for the run, and closed after it.
        seconds: to measure.
        phases: how the streams' clocks lie to each other.
        audio: int16 or float32, shape (n,), fed over and over; None for noise.
        right_context: of all streams; None for the recogniser's default.
        final_pass: of all streams.
        segment_s: after how long a stream finishes its segment, each at its own time; 0 for never.
        feeders: threads that feed.
        warmup_s: fed and not measured.

    Raises:
        EngineFull: not that many slots.
        ValueError: a number that makes no run.
    """
    if streams < 1 or seconds <= 0 or feeders < 1:
        raise ValueError("a paced run takes one stream or more, one feeder or more, and some time")
    period_s = recognizer.chunk_s(right_context)
    tally = Tally(streams, period_s)
    loop = asyncio.new_event_loop()
    consumer = threading.Thread(target=loop.run_forever, name="consumer", daemon=True)
    consumer.start()
    options = StreamOptions(right_context=right_context, final_pass=final_pass)
    opened: list[Any] = []
    try:
        for _ in range(streams):
            stream = recognizer.open(
                tally.on_event, deliver=loop.call_soon_threadsafe, options=options
            )
            opened.append(stream)
        with prompt():  # as in the engine process of a server
            return _run(recognizer, opened, tally, seconds, phases, _pieces(audio, period_s),
                        period_s, round(segment_s / period_s), feeders, warmup_s)  # fmt: skip
    finally:
        recognizer.record_lags(None)
        for stream in opened:
            stream.close()
        _wait_for_slots(recognizer)
        loop.call_soon_threadsafe(loop.stop)
        consumer.join()
        loop.close()


def _wait_for_slots(recognizer: Any) -> None:
    """Until the engine thread has taken the slots back, so that the next run finds them."""
    deadline = time.monotonic() + 10
    while recognizer.stats.open_streams and time.monotonic() < deadline:
        time.sleep(0.01)


def _pieces(audio: np.ndarray | None, period_s: float) -> list[np.ndarray]:
    """Audio cut into chunks; noise where there is none."""
    size = round(period_s * SAMPLE_RATE)
    if audio is None:
        noise = np.random.default_rng(0).standard_normal(size * 13) * 2000
        audio = noise.astype(np.int16)
    if len(audio) < size:
        raise ValueError(f"the audio is shorter than a chunk of {period_s * 1000:.0f} ms")
    return [audio[at : at + size].copy() for at in range(0, len(audio) - size + 1, size)]


def _run(
    recognizer: Recording,
    streams: Sequence[Any],
    tally: Tally,
    seconds: float,
    phases: Phases,
    audio: Sequence[np.ndarray],
    period_s: float,
    segment_chunks: int,
    feeders: int,
    warmup_s: float,
) -> PacedResult:
    phase_by_slot = np.zeros(max(s.slot for s in streams) + 1)
    plans: list[list[tuple[float, Sequence[Any]]]] = [[] for _ in range(feeders)]
    count = _PHASES if phases == "spread" else feeders
    for number in range(min(count, len(streams))):
        # Feeders take turns, each with all streams of a moment: the fewest calls. In lockstep they
        # share the one moment.
        phase = number * period_s / count if phases == "spread" else 0.0
        mine = streams[number::count]
        plans[number % feeders].append((phase, mine))
        phase_by_slot[[s.slot for s in mine]] = phase
    threads = [Feeder(plan, audio, period_s, segment_chunks) for plan in plans if plan]
    zero = time.monotonic() + 0.2
    tally.clocks(phase_by_slot, zero)
    recognizer.record_lags(tally.record)
    for thread in threads:
        thread.zero = zero
        thread.count_from = zero + warmup_s
        thread.stop_at = zero + warmup_s + seconds
        thread.start()
    stats: Any = getattr(recognizer, "stats", None)
    time.sleep(max(zero + warmup_s - time.monotonic(), 0.0))
    began, cpu = time.monotonic(), time.process_time()
    tally.counting = True
    for thread in threads:
        thread.join()
    tally.counting = False
    wall = time.monotonic() - began
    cpu = time.process_time() - cpu
    failures = [str(thread.error) for thread in threads if thread.error]
    late = [thread.late for thread in threads]
    lags, finals = tally.lags, tally.finals
    return PacedResult(
        streams=len(streams),
        seconds=wall,
        phases=phases,
        chunk_ms=period_s * 1000,
        chunks=tally.chunks,
        batch=tally.chunks / max(tally.steps, 1),
        lag_p50_ms=lags.percentile_s(50) * 1000,
        lag_p95_ms=lags.percentile_s(95) * 1000,
        lag_p99_ms=lags.percentile_s(99) * 1000,
        lag_max_ms=lags.longest_s * 1000,
        misses=lags.over(period_s),
        partials=tally.partials,
        finals=len(finals),
        final_p50_ms=finals.percentile_s(50) * 1000,
        final_p99_ms=finals.percentile_s(99) * 1000,
        failed=tally.failed or (failures[0] if failures else None),
        feeder_late_p99_ms=max(each.percentile_s(99) for each in late) * 1000,
        feeder_late_max_ms=max(each.longest_s for each in late) * 1000,
        overflows=stats.overflows,
        cpu_cores=cpu / wall,
        engine_cores=tally.engine_s / wall,
        feeder_cores=sum(thread.cpu_s for thread in threads) / wall,
        gpu_bytes=_gpu_bytes(),
    )


def _gpu_bytes() -> int | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.max_memory_allocated())


def main(argv: Sequence[str] | None = None) -> None:
    """The host alone, from the command line."""
    from voice_agent.bench.hollow import HollowRecognizer

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--streams", type=int, default=8192)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--phases", choices=("spread", "lockstep"), default="spread")
    parser.add_argument("--feeders", type=int, default=1)
    parser.add_argument("--segment-s", type=float, default=5.0)
    parser.add_argument("--step-ms", type=float, default=10.0, help="of the device, whatever lanes")
    parser.add_argument("--lane-us", type=float, default=0.0, help="of the device, for each lane")
    parser.add_argument("--final-pass", choices=("stream", "full"), default="stream")
    parser.add_argument("--json", action="store_true")
    a = parser.parse_args(argv)
    recognizer = HollowRecognizer(slots=a.streams, fixed_s=a.step_ms / 1000, lane_s=a.lane_us / 1e6)
    result = run_paced(
        recognizer, a.streams, a.seconds, a.phases, segment_s=a.segment_s, feeders=a.feeders,
        final_pass=a.final_pass,
    )  # fmt: skip
    recognizer.close()
    print(json.dumps(asdict(result) | {"valid": result.valid}) if a.json else result)


if __name__ == "__main__":
    main()
