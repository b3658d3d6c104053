"""A caller's stream: audio straight into its ring, everything else as a request.

The public methods run on the caller's thread, one at a time under the stream's lock, and never
wait for the engine. Samples are counted over the stream's whole life, and a segment is a stretch
of that count, so that audio fed after `finish()` needs no second buffer:

    |--- segment 0 ---|------ segment 1 ------|-- segment 2 ...
    0              finish()                cancel()          accepted

What the ring has no room for waits in a list and follows when the engine has read on; nothing
that was accepted is lost. Attributes that the engine thread owns are in `Decoding`.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from voice_agent.engine.chunks import Chunks
from voice_agent.engine.errors import StreamClosed
from voice_agent.engine.inbox import Inbox, Kind, Request
from voice_agent.engine.lanes import ARRIVALS, Lanes
from voice_agent.engine.recognizer import Deliver, OnEvent, StreamOptions, checked
from voice_agent.engine.rings import SCALE, Rings

if TYPE_CHECKING:
    from voice_agent.engine.boosting import PhraseBoost
    from voice_agent.engine.text import Transcript

_INT16 = np.dtype(np.int16)


@dataclass(slots=True)
class Decoding:
    """Where the engine stands in a stream. Engine thread only.

    Attributes:
        number: of the segment that is being decoded.
        transcript: of that segment; None while nothing was said.
        ends: requests that end this segment and later ones, in order.
    """

    number: int = 0
    transcript: Transcript | None = None
    ends: deque[Request] = field(default_factory=deque)


class EngineStream:
    """One caller. See `voice_agent.engine.recognizer.Stream`."""

    # In the order in which `feed` touches them: with thousands of streams every line is a miss.
    __slots__ = (
        "_lock", "_accepted", "_clear", "_origin", "_next", "_ordinal", "_inbox", "_samples",
        "_step", "_slot", "_written", "_arrivals",
        "_base", "_boost", "_cancelled", "_chunks", "_closed", "_deliver", "_float", "_kept",
        "_need", "_number", "_on_event", "_options", "_ordinals", "_read", "_rings", "_row",
        "_size", "_spill", "_tail", "decoding",
    )  # fmt: skip

    def __init__(
        self,
        inbox: Inbox,
        rings: Rings,
        lanes: Lanes,
        on_event: OnEvent,
        deliver: Deliver,
        options: StreamOptions,
        chunks: Chunks,
        slot: int,
        boost: PhraseBoost | None = None,
    ) -> None:
        """Take over a slot that nobody else has."""
        rings.claim(slot, chunks.right)
        self.decoding = Decoding()
        self._on_event = on_event
        self._deliver = deliver
        self._options = options
        self._chunks = chunks
        self._boost = boost
        self._slot = slot
        self._lock = threading.Lock()  # feed, finish, cancel, close; and the engine's refill
        self._inbox = inbox
        self._rings = rings
        # Memoryviews, shared by all streams: an element costs a fraction of what numpy's own
        # indexing does, and copying samples does not let the interpreter's lock go.
        self._samples = rings.samples
        self._written = rings.written_view
        self._read = rings.read_view
        self._need = lanes.need_view
        self._ordinals = lanes.ordinal_view
        self._arrivals = lanes.arrivals_view
        self._row = slot * rings.row  # where the slot's row begins in `_samples`
        self._size = rings.sizes[chunks.right]
        self._tail = rings.windows[chunks.right]
        self._step = chunks.samples
        self._accepted = 0  # samples of the stream
        self._clear = -1  # as many can lie in the ring after one plain copy; -1: look closer
        self._origin = 0  # index in `_samples` of the stream's sample 0, were the lap endless
        self._base = 0  # samples of the stream before the current segment
        self._next = chunks.needed(0)  # of the stream, once the segment's next chunk is complete
        self._ordinal = 0  # chunks of the stream before the next
        self._spill: deque[np.ndarray] = deque()
        self._kept: list[np.ndarray] | None = [] if options.final_pass == "full" else None
        self._float = False
        self._number = 0
        self._cancelled: set[int] = set()
        self._closed = False

    @property
    def slot(self) -> int:
        """The stream's place in the engine, as `Recorder` names it; another's after `close()`."""
        return self._slot

    def feed(self, pcm: np.ndarray) -> None:
        """Append audio to the current segment; see `Stream.feed`."""
        with self._lock:
            accepted, inbox = self._accepted, self._inbox
            if type(pcm) is np.ndarray and pcm.dtype is _INT16 and pcm.ndim == 1:
                end = accepted + len(pcm)
                if end <= self._clear and inbox.dead is None:
                    self._samples[self._origin + accepted : self._origin + end] = pcm
                    self._accepted = end
                    if end >= self._next:
                        if end < self._next + self._step:  # one chunk more, as a rule
                            at = self._slot * ARRIVALS + self._ordinal % ARRIVALS
                            self._arrivals[at] = inbox.clock()
                            self._ordinal += 1
                            self._next += self._step
                        else:
                            self._note_arrivals(end)
                    self._written[self._slot] = end
                    if inbox.asleep and end >= self._need[self._slot]:
                        inbox.wake()
                    return
            self._check("feed")
            self._feed(checked(pcm))

    def _feed(self, pcm: np.ndarray) -> None:
        """Any audio, wherever the ring stands."""
        if self._kept is not None:
            self._kept.append(pcm.copy())
        if pcm.dtype != _INT16 and not self._float:
            self._samples = self._rings.to_float(self._slot)
            self._float = True
        self._accepted += len(pcm)
        if self._accepted >= self._next:
            self._note_arrivals(self._accepted)
        rest = pcm if self._spill else self._write(pcm)
        if len(rest):
            if not self._spill:
                self._ask("overflow")
            self._spill.append(rest.copy())
            self._clear = -1
        if self._inbox.asleep and self._written[self._slot] >= self._need[self._slot]:
            self._inbox.wake()

    def _write(self, pcm: np.ndarray) -> np.ndarray:
        """Put what fits into the ring; returns the rest."""
        written, row, size = self._written[self._slot], self._row, self._size
        limit = self._read[self._slot] + size
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
        self._written[self._slot] = written
        at = written % size
        plain = at >= self._tail and not self._float and self._kept is None
        self._clear = min(limit, written - at + size) if plain else -1
        self._origin = row - (written - at)
        return rest

    def refill(self) -> bool:
        """Move what was spilled into the ring as far as there is room. Engine thread.

        Returns:
            Whether something is left.
        """
        if self._written[self._slot] >= self._read[self._slot] + self._size:
            return True
        with self._lock:
            while self._spill and not self._closed:
                rest = self._write(self._spill[0])
                if len(rest):
                    self._spill[0] = rest
                    return True
                self._spill.popleft()
            return False

    def _note_arrivals(self, accepted: int) -> None:
        """Chunks have become complete: when, the engine wants to know.

        Where more are waiting than there is room for, the oldest times stay, so that a lag may be
        told too long and never too short.
        """
        now = self._inbox.clock()
        while accepted >= self._next:
            self._stamp(now)
            self._next += self._step

    def _stamp(self, now: float) -> None:
        if self._ordinal - self._ordinals[self._slot] < ARRIVALS:
            self._arrivals[self._slot * ARRIVALS + self._ordinal % ARRIVALS] = now
        self._ordinal += 1

    def finish(self) -> None:
        """End the current segment; see `Stream.finish`."""
        with self._lock:
            self._check("finish")
            now, chunks = self._inbox.clock(), self._chunks
            complete = (self._next - self._base - chunks.needed(0)) // self._step
            for _ in range(complete, chunks.total(self._accepted - self._base)):
                self._stamp(now)  # the flush: what is missing to a chunk is zeros, so it is there
            self._end("finish", now)

    def cancel(self) -> None:
        """Drop the current segment; see `Stream.cancel`."""
        with self._lock:
            self._check("cancel")
            self._cancelled.add(self._number)
            self._end("cancel", self._inbox.clock())

    def _end(self, kind: Kind, now: float) -> None:
        kept = tuple(self._kept or ())
        self._inbox.post(
            Request(kind, self, self._number, self._accepted, self._ordinal, now, kept)
        )
        if self._kept is not None:
            self._kept = []
        self._number += 1
        self._base = self._accepted
        self._next = self._base + self._chunks.needed(0)

    def close(self) -> None:
        """Give the slot back; see `Stream.close`."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._clear = -1
                self._spill.clear()
                if not self._inbox.dead:  # else the slot went with the engine
                    self._ask("close")

    def _ask(self, kind: Kind) -> None:
        self._inbox.post(Request(kind, self, self._number))

    def _check(self, what: str) -> None:
        if self._closed:
            raise StreamClosed(f"{what} after close(): open a new stream")
        if self._inbox.dead:
            self._inbox.check()

    def _wants(self, segment: int) -> bool:
        """Whether the caller still wants events of this segment; asked on the caller's thread."""
        return not self._closed and segment not in self._cancelled
