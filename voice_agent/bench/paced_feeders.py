"""The threads that feed paced streams, and what is counted of what comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from voice_agent.engine.recognizer import Event, Failed, Final, Stream
from voice_agent.engine.stats import LagHistogram
from voice_agent.engine.streams import EngineStream
from voice_agent.engine.together import Together


class Tally:
    """Lags by chunk, on the engine thread; events, on the consumer's loop."""

    def __init__(self, streams: int, period_s: float) -> None:
        self.lags, self.finals = LagHistogram(), LagHistogram()
        self.partials = self.finals_seen = self.chunks = self.steps = 0
        self.failed: str | None = None
        self.counting = False
        self.engine_s = 0.0
        self._phase = np.zeros(0)
        self._period_s = period_s
        self._zero = 0.0
        self._engine_from: float | None = None

    def clocks(self, phase_by_slot: np.ndarray, zero: float) -> None:
        """When each slot's chunks end: `zero` + phase + a whole number of periods."""
        self._phase, self._zero = phase_by_slot, zero

    def record(self, slots: np.ndarray, arrived: np.ndarray, now: float) -> None:
        """See `scheduler.Recorder`."""
        if not self.counting:
            self._engine_from = None
            return
        spent = time.thread_time()
        if self._engine_from is None:
            self._engine_from = spent
        self.engine_s = spent - self._engine_from
        behind = (arrived - self._zero - self._phase[slots]) % self._period_s
        self.lags.add(now - arrived + behind)
        self.chunks += len(slots)
        self.steps += 1

    def on_event(self, event: Event) -> None:
        """Count what a stream was told."""
        if isinstance(event, Failed):
            self.failed = self.failed or str(event.error)
        elif self.counting:
            if isinstance(event, Final):
                self.finals.add(np.array([event.decode_ms / 1000]))
            else:
                self.partials += 1


class Feeder(threading.Thread):
    """Feeds its streams when their clocks say so, all streams of a phase by one call."""

    def __init__(
        self,
        groups: Sequence[tuple[float, Sequence[Stream]]],
        audio: Sequence[np.ndarray],
        period_s: float,
        segment_chunks: int,
    ) -> None:
        """Plan.

        Args:
            groups: phase in seconds, and the streams that have it, in the order of phases.
            audio: chunks that are fed in turn.
            period_s: of a chunk.
            segment_chunks: after how many a stream finishes its segment; 0 for never.
        """
        super().__init__(name="feeder", daemon=True)
        self.late = LagHistogram()
        self.zero = 0.0
        self.stop_at = self.count_from = float("inf")
        self.cpu_s = 0.0
        self.error: BaseException | None = None
        self._audio = audio
        self._period_s = period_s
        self._segment = segment_chunks
        self._groups = [(phase, _feed(streams, audio[0].dtype)) for phase, streams in groups]
        # Who finishes after which chunk: spread over the segment's length.
        self._finishing: list[list[list[Stream]]] = []
        for _, streams in groups:
            turns: list[list[Stream]] = [[] for _ in range(max(segment_chunks, 1))]
            if segment_chunks:
                for at, stream in enumerate(streams):
                    turns[at % segment_chunks].append(stream)
            self._finishing.append(turns)

    def run(self) -> None:
        """Feed until `stop_at`; what goes wrong is in `error` afterwards."""
        try:
            self._run()
        except BaseException as error:
            self.error = error

    def _run(self) -> None:
        clock, sleep, audio = time.monotonic, time.sleep, self._audio
        counting_from: float | None = None
        late: list[float] = []
        chunk = 0
        while True:
            piece = audio[chunk % len(audio)]
            began = self.zero + (chunk + 1) * self._period_s  # the audio has to be spoken first
            if began >= self.stop_at:
                break
            for (phase, feed), turns in zip(self._groups, self._finishing, strict=True):
                due = began + phase
                if (left := due - clock()) > 0:
                    sleep(left)
                if due >= self.count_from:
                    if counting_from is None:
                        counting_from = time.thread_time()
                    late.append(clock() - due)
                feed(piece)
                for stream in turns[chunk % len(turns)]:
                    stream.finish()
                if late:
                    late.append(clock() - due)  # of the group's last stream
            chunk += 1
        self.late.add(np.array(late))
        self.cpu_s = time.thread_time() - (counting_from or 0.0)


def _feed(streams: Sequence[Stream], dtype: np.dtype) -> Callable[[np.ndarray], None]:
    """What feeds all of these."""
    if dtype == np.int16 and all(isinstance(stream, EngineStream) for stream in streams):
        return Together(cast("Sequence[EngineStream]", streams)).feed

    def feed(pcm: np.ndarray) -> None:
        for stream in streams:
            stream.feed(pcm)

    return feed
