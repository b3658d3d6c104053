"""How a front-end's stream reaches the engine: its audio, and where its segments end.

    ByOrders   everything goes over the socket; for any recogniser
    ByRing     audio goes straight into the stream's ring, in memory that the engine shares
               (`voice_agent.engine.rings`), so that it costs the engine process nothing; the rest
               over the socket, with the feeder's counts. What comes before the engine has
               answered the OPEN, and so said which slot it is, waits for that.

Under the client's lock, all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np

from voice_agent.engine.feeders import Feeders
from voice_agent.engine.feeding import End, Feeding
from voice_agent.engine.recognizer import SAMPLE_RATE, StreamOptions
from voice_agent.link.packing import Op, Orders


class Owner(Protocol):
    """What a way needs of its client.

    Attributes:
        orders: that wait to be sent.
        overflowing: feeders whose rings are full, to be refilled.
    """

    orders: Orders
    overflowing: dict[RingFeeding, None]

    def flush_soon(self) -> None:
        """See that orders are sent, rings refilled and the engine woken."""
        ...


class Way(Protocol):
    """To one stream of the engine."""

    def open(self, options: StreamOptions, first_segment: int) -> None:
        """Ask for a slot."""
        ...

    def opened(self, slot: int, right: int) -> None:
        """The stream has its slot."""
        ...

    def feed(self, pcm: np.ndarray) -> None:
        """Append int16 or float32 (n,) to the current segment."""
        ...

    def finish(self) -> None:
        """End the segment."""
        ...

    def cancel(self) -> None:
        """Drop the segment."""
        ...

    def close(self) -> None:
        """Nothing follows."""
        ...


class ByOrders:
    """See the module docstring."""

    def __init__(self, owner: Owner, number: int) -> None:
        """A way to stream `number`."""
        self._owner = owner
        self._number = number

    def open(self, options: StreamOptions, first_segment: int) -> None:
        """See `Way.open`."""
        self._owner.orders.open(self._number, options, first_segment)
        self._owner.flush_soon()

    def opened(self, slot: int, right: int) -> None:
        """See `Way.opened`."""

    def feed(self, pcm: np.ndarray) -> None:
        """See `Way.feed`."""
        floats = pcm.dtype != np.int16
        self._owner.orders.feed(self._number, pcm.tobytes(), floats=floats)
        self._owner.flush_soon()

    def finish(self) -> None:
        """See `Way.finish`."""
        self._add(Op.FINISH)

    def cancel(self) -> None:
        """See `Way.cancel`."""
        self._add(Op.CANCEL)

    def close(self) -> None:
        """See `Way.close`."""
        self._add(Op.CLOSE)

    def _add(self, op: Op) -> None:
        self._owner.orders.add(op, self._number)
        self._owner.flush_soon()


class ByRing:
    """See the module docstring."""

    def __init__(self, owner: Owner, number: int, feeders: Feeders) -> None:
        """A way to stream `number`.

        Args:
            owner: the client.
            number: of the stream.
            feeders: of this process, into the engine's rings.
        """
        self._owner = owner
        self._number = number
        self._feeders = feeders
        self._feeding: RingFeeding | None = None
        self._waiting: list[Callable[[], None]] = []
        self._closed = False
        self._began = 0.0  # when the first audio of the segment came

    def open(self, options: StreamOptions, first_segment: int) -> None:
        """See `Way.open`."""
        self._owner.orders.open(self._number, options, first_segment, ring=True)
        self._owner.flush_soon()

    def opened(self, slot: int, right: int) -> None:
        """See `Way.opened`."""
        if self._closed:  # the slot is on its way back
            return
        self._feeding = RingFeeding(self._owner, self._number, self._feeders, slot, right)
        for act in self._waiting:
            act()
        self._waiting.clear()

    def feed(self, pcm: np.ndarray) -> None:
        """See `Way.feed`."""
        if not self._began:
            self._began = self._feeders.clock()
        if self._feeding is None:
            self._waiting.append(partial(self.feed, pcm.copy()))
        else:
            self._feeding.feed(pcm)

    def finish(self) -> None:
        """See `Way.finish`."""
        self._end(Op.FINISH_AT)

    def cancel(self) -> None:
        """See `Way.cancel`."""
        self._end(Op.CANCEL_AT)

    def _end(self, op: Op) -> None:
        if self._feeding is None:
            self._waiting.append(partial(self._end, op))
            return
        end = self._feeding.end(self._began, flush=op == Op.FINISH_AT)
        self._began = 0.0
        self._owner.orders.end(op, self._number, end)
        self._owner.flush_soon()

    def close(self) -> None:
        """See `Way.close`."""
        self._closed = True
        self._waiting.clear()
        if self._feeding is not None:
            self._feeding.close()
        self._owner.orders.add(Op.CLOSE, self._number)
        self._owner.flush_soon()


class RingFeeding(Feeding):
    """Feeds a ring of the engine process."""

    __slots__ = ("_number", "_owner")

    def __init__(self, owner: Owner, number: int, feeders: Feeders, slot: int, right: int) -> None:
        """Feed a slot that the engine has given to the stream.

        Args:
            owner: the client.
            number: of the stream.
            feeders: of this process.
            slot: of the stream.
            right: its right context.
        """
        super().__init__(feeders, feeders.rings.chunks[right], slot)
        self._owner = owner
        self._number = number

    def end(self, began: float, *, flush: bool) -> End:
        """The segment ends here.

        Args:
            began: when its first audio came; 0 where none did.
            flush: it is finished, not dropped.
        """
        with self._lock:
            base = self._base
            end = self._end(flush=flush)
            spoken_by = began + (end.samples - base) / SAMPLE_RATE
            return End(end.samples, end.ordinal, end.time, max(end.time, spoken_by))

    def close(self) -> None:
        """Feed nothing any more."""
        with self._lock:
            self._close()
        self._owner.overflowing.pop(self, None)

    def _ring_is_full(self) -> None:
        self._owner.overflowing[self] = None
        self._owner.orders.add(Op.OVERFLOW, self._number)
        self._owner.flush_soon()

    def _wake(self) -> None:
        self._owner.flush_soon()
