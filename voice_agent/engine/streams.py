"""A caller's stream: audio straight into its ring, everything else as a request.

The public methods run on the caller's thread, one at a time under the stream's lock, and never
wait for the engine. What is fed is `voice_agent.engine.feeding`'s. Attributes that the engine
thread owns are in `Decoding`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from voice_agent.engine.chunks import Chunks
from voice_agent.engine.feeders import Feeders
from voice_agent.engine.feeding import End, Feeding
from voice_agent.engine.inbox import Inbox, Kind, Request
from voice_agent.engine.recognizer import SECOND_PASSES, Deliver, OnEvent, StreamOptions
from voice_agent.engine.taking import Takers

if TYPE_CHECKING:
    from voice_agent.engine.boosting import PhraseBoost
    from voice_agent.engine.device import Runner, Search
    from voice_agent.engine.text import Transcript


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


class EngineStream(Feeding):
    """One caller. See `voice_agent.engine.recognizer.Stream`."""

    __slots__ = (
        "_boost", "_cancelled", "_deliver", "_inbox", "_kept", "_number", "_on_event", "_options",
        "_takers", "decoding",
    )  # fmt: skip

    def __init__(
        self,
        inbox: Inbox,
        feeders: Feeders,
        takers: Takers,
        on_event: OnEvent,
        deliver: Deliver,
        options: StreamOptions,
        chunks: Chunks,
        slot: int,
        boost: PhraseBoost | None = None,
    ) -> None:
        """Take over a slot that nobody else has."""
        feeders.rings.claim(slot, chunks.right)
        takers.taker[slot] = -1
        super().__init__(feeders, chunks, slot, keeps=options.final_pass in SECOND_PASSES)
        self.decoding = Decoding()
        self._on_event = on_event
        self._deliver = deliver
        self._options = options
        self._boost = boost
        self._inbox = inbox
        self._takers = takers
        self._kept: list[np.ndarray] = []
        self._number = 0
        self._cancelled: set[int] = set()

    def begin(self, runner: Runner, search: Search | None, chunks: int | None = None) -> None:
        """Tell the device of a new segment, before its first chunk. Engine thread.

        Args:
            runner: the device.
            search: of the runner, where it has one (`voice_agent.engine.device.Runner`).
            chunks: of a second pass; None where the segment is still being spoken.
        """
        runner.reset(self._slot, self._options.language, self._boost)
        if self._options.final_pass == ("beam" if chunks is None else "search"):
            assert search is not None, "the recogniser refuses it where there is none"
            search(self._slot, chunks)

    @property
    def right(self) -> int:
        """Its right context."""
        return self._chunks.right

    def finish(self) -> None:
        """End the current segment; see `Stream.finish`."""
        with self._lock:
            self._check("finish")
            self._ended("finish", self._end(flush=True))

    def cancel(self) -> None:
        """Drop the current segment; see `Stream.cancel`."""
        with self._lock:
            self._check("cancel")
            self._ended("cancel", self._end(flush=False))

    def end(self, kind: Kind, end: End) -> None:
        """End the current segment of a stream that another process feeds.

        Args:
            kind: "finish" or "cancel".
            end: by the counts of its feeder there.
        """
        with self._lock:
            self._check(kind)
            self._ended(kind, end)

    def _ended(self, kind: Kind, end: End) -> None:
        kept, self._kept = tuple(self._kept), []
        self._inbox.post(Request(kind, self, self._number, end, kept))
        if kind == "cancel":
            self._cancelled.add(self._number)
        self._number += 1

    def give(self, taker: int, number: int, segment: int) -> None:
        """Have its tokens taken, before it is fed; see `Takers.give`."""
        self._takers.give(self._slot, taker, number, segment)

    def overflowed(self) -> None:
        """Its ring was full when another process fed it: count that."""
        self._ask("overflow")

    def close(self) -> None:
        """Give the slot back; see `Stream.close`."""
        with self._lock:
            if not self._closed:
                self._close()
                if not self._inbox.dead:  # else the slot went with the engine
                    self._ask("close")

    def _ask(self, kind: Kind) -> None:
        self._inbox.post(Request(kind, self, self._number))

    def _check(self, what: str) -> None:
        super()._check(what)
        if self._inbox.dead:
            self._inbox.check()

    def _keep(self, pcm: np.ndarray) -> None:
        self._kept.append(pcm)

    def _ring_is_full(self) -> None:
        self.overflowed()

    def _wake(self) -> None:
        self._inbox.wake()

    def _wants(self, segment: int) -> bool:
        """Whether the caller still wants events of this segment; asked on the caller's thread."""
        return not self._closed and segment not in self._cancelled
