"""The feeder's side of a ring: what is fed goes straight into it, and nobody waits for the engine.

Samples are counted over the stream's whole life, and a segment is a stretch of that count, so
that audio fed after a segment's end needs no second buffer:

    |--- segment 0 ---|------ segment 1 ------|-- segment 2 ...
    0              finish                  cancel         written

What the ring has no room for waits in a list and follows when the engine has read on; nothing
that was accepted is lost.

    Feeding   one stream's; a stream of the engine's process is one (`EngineStream`), and a stream
              that is fed by another process has one there (`voice_agent.link.ways`)

What all of a process's feeders share, `Feeders`, lies in `voice_agent.engine.feeders`.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

import numpy as np

from voice_agent.engine.chunks import Chunks
from voice_agent.engine.errors import StreamClosed
from voice_agent.engine.feeders import Feeders
from voice_agent.engine.recognizer import checked
from voice_agent.engine.rings import ARRIVALS, SCALE

_INT16 = np.dtype(np.int16)


@dataclass(frozen=True, slots=True)
class End:
    """Where a segment ends, by its feeder's counts.

    Attributes:
        samples: of the stream up to there.
        ordinal: chunks of the stream up to there, those of the flush among them.
        time: when it was ended, monotonic seconds.
        due: when all of it had been spoken, where it came faster than that; else the same.
    """

    samples: int = 0
    ordinal: int = 0
    time: float = 0.0
    due: float = 0.0


class Feeding:
    """One stream's feeder. Its methods may be called from any thread."""

    # In the order in which `feed` touches them: with thousands of streams every line is a miss.
    __slots__ = (
        "_lock", "_slot", "_written", "_clear", "_closed", "_samples", "_row", "_mask", "_fence",
        "_next", "_step", "_ordinal", "_arrivals", "_clock", "_asleep", "_need",
        "_base", "_chunks", "_feeders", "_float", "_keeps", "_serial", "_size", "_spill",
        "_spilled", "_tail",
    )  # fmt: skip

    def __init__(
        self,
        feeders: Feeders,
        chunks: Chunks,
        slot: int,
        *,
        keeps: bool = False,
    ) -> None:
        """Feed a slot that nobody else feeds, from its stream's first sample.

        Args:
            feeders: of this process.
            chunks: geometry.
            slot: of the stream.
            keeps: call `_keep` for all audio.
        """
        rings = feeders.rings
        self._feeders = feeders
        self._chunks = chunks
        self._slot = slot
        self._lock = threading.Lock()  # feed, finish, cancel, close; and the refill
        self._fence = feeders.fence
        self._samples = feeders.int16_view
        self._written = feeders.written_view
        self._clear, self._next = feeders.clear_view, feeders.next_view
        self._ordinal, self._arrivals = feeders.ordinal_view, feeders.arrivals_view
        self._need, self._asleep = feeders.need_view, feeders.asleep_view
        self._clock = feeders.clock
        self._row = slot * rings.row  # where the slot's row begins in `_samples`
        self._size = rings.sizes[chunks.right]
        self._mask = self._size - 1
        self._tail = rings.windows[chunks.right]
        self._step = chunks.samples
        self._base = 0  # samples of the stream before the current segment
        self._spill: deque[np.ndarray] = deque()
        self._spilled = 0  # samples in there
        self._keeps = keeps
        self._float = False
        self._closed = False
        feeders.clear[slot] = -1
        feeders.next[slot] = chunks.needed(0)
        feeders.ordinal[slot] = 0
        feeders.step[slot], feeders.mask[slot] = chunks.samples, self._mask
        feeders.right[slot], feeders.plain[slot] = chunks.right, not keeps
        feeders.serial[slot] += 1
        self._serial = int(feeders.serial[slot])

    # What is done about it is for those who know the engine

    def _check(self, what: str) -> None:
        """Raise if the stream takes nothing any more."""
        if self._closed:
            raise StreamClosed(f"{what} after close(): open a new stream")

    def _keep(self, pcm: np.ndarray) -> None:
        """Audio of the current segment."""

    def _ring_is_full(self) -> None:
        """Audio waits outside of the ring: `refill` is to be called until it says False."""
        raise NotImplementedError

    def _wake(self) -> None:
        """A chunk is complete, and the engine sleeps."""
        raise NotImplementedError

    # Feeding

    @property
    def slot(self) -> int:
        """The stream's place in the engine, as `Recorder` names it; another's after `close()`."""
        return self._slot

    def feed(self, pcm: np.ndarray) -> None:
        """Append audio to the current segment; see `Stream.feed`."""
        with self._lock:
            slot = self._slot
            if type(pcm) is np.ndarray and pcm.dtype is _INT16 and pcm.ndim == 1:
                begin = self._written[slot]
                end = begin + len(pcm)
                if end <= self._clear[slot] and not self._closed:
                    at = self._row + (begin & self._mask)
                    self._samples[at : at + len(pcm)] = pcm
                    if end >= (due := self._next[slot]):
                        if end < due + self._step:  # one chunk more, as a rule
                            ordinal = self._ordinal[slot]
                            self._arrivals[slot * ARRIVALS + ordinal % ARRIVALS] = self._clock()
                            self._ordinal[slot] = ordinal + 1
                            self._next[slot] = due + self._step
                        else:
                            self._note_arrivals(end)
                    if self._fence is not None:
                        with self._fence:
                            pass
                    self._written[slot] = end
                    if self._asleep[0] and end >= self._need[slot]:
                        self._wake()
                    return
            self._check("feed")
            self._feed(checked(pcm))

    @property
    def _accepted(self) -> int:
        """Samples of the stream."""
        return self._written[self._slot] + self._spilled

    def _feed(self, pcm: np.ndarray) -> None:
        """Any audio, wherever the ring stands."""
        if self._keeps:
            self._keep(pcm.copy())
        if pcm.dtype != _INT16 and not self._float:
            self._feeders.rings.to_float(self._slot)
            self._samples = self._feeders.float32_view
            self._float = True
            self._feeders.plain[self._slot] = False
        if (accepted := self._accepted + len(pcm)) >= self._next[self._slot]:
            self._note_arrivals(accepted)
        rest = pcm if self._spill else self._write(pcm)
        if len(rest):
            if not self._spill:
                self._ring_is_full()
            self._spill.append(rest.copy())
            self._spilled += len(rest)
            self._clear[self._slot] = -1
            self._feeders.plain[self._slot] = False
        if self._asleep[0] and self._written[self._slot] >= self._need[self._slot]:
            self._wake()

    def _write(self, pcm: np.ndarray) -> np.ndarray:
        """Put what fits into the ring; returns the rest."""
        slot, row, size = self._slot, self._row, self._size
        written = self._written[slot]
        limit = self._feeders.read_view[slot] + size
        left = min(len(pcm), max(limit - written, 0))
        rest = pcm[left:]
        if self._float and pcm.dtype == _INT16:
            pcm = pcm * SCALE
        while left:
            at = written % size
            n = min(left, size - at)
            self._samples[row + at : row + at + n] = pcm[:n]
            if at < self._tail:  # and once more behind the ring's end, for windows that wrap
                again = min(n, self._tail - at)
                self._samples[row + size + at : row + size + at + again] = pcm[:again]
            pcm = pcm[n:]
            written += n
            left -= n
        if self._fence is not None:
            with self._fence:
                pass
        self._written[slot] = written
        at = written % size
        plain = at >= self._tail and not self._float and not self._keeps
        self._clear[slot] = min(limit, written - at + size) if plain else -1
        return rest

    def refill(self) -> bool:
        """Move what was spilled into the ring as far as there is room.

        Returns:
            Whether something is left.
        """
        if self._written[self._slot] >= self._feeders.read_view[self._slot] + self._size:
            return True
        with self._lock:
            while self._spill and not self._closed:
                waiting = self._spill[0]
                rest = self._write(waiting)
                self._spilled -= len(waiting) - len(rest)
                if len(rest):
                    self._spill[0] = rest
                    break
                self._spill.popleft()
            if self._spill:
                self._clear[self._slot] = -1
            else:
                self._feeders.plain[self._slot] = not self._float and not self._keeps
            return bool(self._spill)

    def _note_arrivals(self, accepted: int) -> None:
        """Chunks have become complete: when, the engine wants to know.

        Where more are waiting than there is room for, the oldest times stay, so that a lag may be
        told too long and never too short.
        """
        now, due = self._clock(), self._next[self._slot]
        while accepted >= due:
            self._stamp(now)
            due += self._step
        self._next[self._slot] = due

    def _stamp(self, now: float) -> None:
        ordinal = self._ordinal[self._slot]
        if ordinal - self._feeders.asked_view[self._slot] < ARRIVALS:
            self._arrivals[self._slot * ARRIVALS + ordinal % ARRIVALS] = now
        self._ordinal[self._slot] = ordinal + 1

    # Segments

    def _end(self, *, flush: bool) -> End:
        """The segment ends here. Under the lock.

        Args:
            flush: what is missing to its last chunks is zeros, so they are complete.
        """
        now, chunks, slot = self._clock(), self._chunks, self._slot
        accepted = self._accepted
        if flush:
            complete = (self._next[slot] - self._base - chunks.needed(0)) // self._step
            for _ in range(complete, chunks.total(accepted - self._base)):
                self._stamp(now)
        self._feeders.rings.ended[slot] += 1
        self._base = accepted
        self._next[slot] = accepted + chunks.needed(0)
        return End(accepted, self._ordinal[slot], now, now)

    def _close(self) -> None:
        """Take nothing any more. Under the lock."""
        self._closed = True
        self._feeders.serial[self._slot] += 1
        self._spill.clear()
        self._spilled = 0
