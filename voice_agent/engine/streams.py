"""A caller's stream: its handle on the caller's side, its segments on the engine's.

`EngineStream`'s public methods run on the caller's thread and only post requests; everything
that starts with an underscore belongs to the engine thread. A request names its segment by
number, so that audio fed after `finish()` and events of a cancelled segment find their place.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from voice_agent.engine.chunks import Chunks
from voice_agent.engine.errors import EngineClosed, StreamClosed
from voice_agent.engine.recognizer import (
    Deliver,
    OnEvent,
    StreamOptions,
    as_float32,
)

if TYPE_CHECKING:
    from voice_agent.engine.boosting import PhraseBoost
    from voice_agent.engine.text import Transcript

Kind = Literal["feed", "finish", "cancel", "close"]


@dataclass(slots=True)
class Request:
    """What a caller asked for, in the order it was asked."""

    kind: Kind
    stream: EngineStream
    segment: int
    time: float
    pcm: np.ndarray | None = None


class PcmBuffer:
    """The samples of one segment that are still needed, by their index in the segment."""

    def __init__(self) -> None:
        self._data = np.empty(0, dtype=np.float32)
        self._start = 0  # index of the first sample held
        self.end = 0

    def append(self, pcm: np.ndarray) -> None:
        """Add samples at the end; grows by doubling."""
        held = self.end - self._start
        if held + len(pcm) > len(self._data):
            grown = np.empty(max(2 * (held + len(pcm)), 8192), dtype=np.float32)
            grown[:held] = self._data[:held]
            self._data = grown
        self._data[held : held + len(pcm)] = pcm
        self.end += len(pcm)

    def read(self, start: int, stop: int, out: np.ndarray) -> None:
        """Copy samples [start, stop) into `out`; zeros where the segment has none."""
        out[:] = 0.0
        first, last = max(start, self._start), min(stop, self.end)
        if first < last:
            out[first - start : last - start] = self._data[first - self._start : last - self._start]

    def drop_before(self, index: int) -> None:
        """Forget samples before `index`, once they are half of what is held."""
        gone = index - self._start
        held = self.end - self._start
        if gone > held // 2 and gone > 4096:
            keep = max(held - gone, 0)
            self._data[:keep] = self._data[gone : gone + keep].copy()
            self._start = self.end - keep


@dataclass(slots=True)
class Segment:
    """One segment on its way through the engine (engine thread only).

    Attributes:
        number: which of the stream's segments.
        chunks: geometry of its steps; the widest once it is decoded again for its final.
        transcript: what was heard so far.
        pcm: its audio, as far as it is still needed.
        chunk: the next chunk to compute.
        finished_at: when the caller finished it.
        keep: all audio stays, for a second pass.
    """

    number: int
    chunks: Chunks
    transcript: Transcript
    keep: bool
    pcm: PcmBuffer = field(default_factory=PcmBuffer)
    chunk: int = 0
    finished_at: float | None = None
    arrivals: deque[tuple[int, float]] = field(default_factory=deque)  # (samples so far, time)

    def ready(self) -> bool:
        """Whether the next chunk can be computed."""
        if self.finished_at is None:
            return self.pcm.end >= self.chunks.needed(self.chunk)
        return self.chunk < self.chunks.total(self.pcm.end)

    def due(self) -> float:
        """When the audio of the next chunk was there."""
        needed = self.chunks.needed(self.chunk)
        while len(self.arrivals) > 1 and self.arrivals[0][0] < needed:
            self.arrivals.popleft()
        arrived = self.arrivals[0][1] if self.arrivals else 0.0
        return arrived if self.finished_at is None else min(arrived, self.finished_at)


class EngineStream:
    """One caller. See `voice_agent.engine.recognizer.Stream`."""

    def __init__(
        self,
        post: Callable[[Request], None],
        on_event: OnEvent,
        deliver: Deliver,
        options: StreamOptions,
        chunks: Chunks,
        slot: int,
        boost: PhraseBoost | None = None,
    ) -> None:
        self._post = post
        self._on_event = on_event
        self._deliver = deliver
        self._options = options
        self._chunks = chunks
        self._slot = slot
        self._boost = boost
        self._segments: deque[Segment] = deque()
        self._number = 0
        self._cancelled: set[int] = set()
        self._closed = False

    def _ask(self, kind: Kind, pcm: np.ndarray | None = None) -> None:
        if self._closed:
            raise StreamClosed(f"{kind} after close(): open a new stream")
        self._post(Request(kind, self, self._number, time.monotonic(), pcm))

    def feed(self, pcm: np.ndarray) -> None:
        """Append audio to the current segment; see `Stream.feed`."""
        samples = as_float32(pcm)
        if len(samples):
            self._ask("feed", samples)

    def finish(self) -> None:
        """End the current segment; see `Stream.finish`."""
        self._ask("finish")
        self._number += 1

    def cancel(self) -> None:
        """Drop the current segment; see `Stream.cancel`."""
        self._cancelled.add(self._number)
        self._ask("cancel")
        self._number += 1

    def close(self) -> None:
        """Give the slot back; see `Stream.close`."""
        if not self._closed:
            with contextlib.suppress(EngineClosed):  # the slot went with the engine
                self._ask("close")
            self._closed = True

    def _wants(self, segment: int) -> bool:
        """Whether the caller still wants events of this segment; asked on the caller's thread."""
        return not self._closed and segment not in self._cancelled
