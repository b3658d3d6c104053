"""What callers ask of the engine thread, and how they wake it.

Audio does not pass here: it goes straight into the rings (`voice_agent.engine.rings`). Whatever
ends a segment does, in the order in which it was asked, and says where the segment ends as a
count of the stream's samples; so it does not matter which is seen first.

The engine thread sleeps on this queue alone. Before it sleeps it sets the rings' `asleep` and looks
once more whether a stream is ready; a feeder stores its count first and then looks at `asleep`.
Both run under the interpreter's lock, so one of the two sees the other, and no wake-up is lost;
while the engine is awake, which is always when it is busy, feeding costs no signal. A feeder in
another process looks some milliseconds after it has stored (`voice_agent.link.client`), when
either sees the other's store without a lock, and sends its wake-up over the socket.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from voice_agent.engine.errors import EngineClosed
from voice_agent.engine.feeding import End

if TYPE_CHECKING:
    from voice_agent.engine.streams import EngineStream

_NOWHERE = End()
Kind = Literal["open", "finish", "cancel", "overflow", "close", "wake", "stop"]


@dataclass(frozen=True, slots=True)
class Request:
    """One thing that a caller asked for.

    Attributes:
        kind: what.
        stream: whose; None for "wake" and "stop".
        number: of the segment that it is about.
        at: where the segment ends.
        kept: the segment's audio, where it is to be decoded a second time.
    """

    kind: Kind
    stream: EngineStream | None = None
    number: int = 0
    at: End = _NOWHERE
    kept: tuple[np.ndarray, ...] = ()


_WAKE = Request("wake")


class Inbox:
    """A queue with one reader, the engine thread.

    Attributes:
        dead: why nothing is taken any more.
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float], asleep: np.ndarray) -> None:
        """Nothing is asked.

        Args:
            clock: see above.
            asleep: of the rings.
        """
        self._asleep = asleep.data
        self.dead: EngineClosed | None = None
        self.clock = clock
        self._requests: queue.SimpleQueue[Request] = queue.SimpleQueue()

    def check(self) -> None:
        """Raise if the engine is gone.

        Raises:
            EngineClosed: it was closed or died; a new error, with the same cause.
        """
        if self.dead:
            raise EngineClosed(str(self.dead)) from self.dead.__cause__

    def post(self, request: Request) -> None:
        """Ask for something. Any thread.

        Raises:
            EngineClosed: nobody would do it.
        """
        self.check()
        self._requests.put(request)

    def wake(self) -> None:
        """A stream has become ready while the engine thread sleeps. Any thread."""
        self._asleep[0] = 0  # the next feeder need not ring again
        self._requests.put(_WAKE)

    def stop(self) -> None:
        """Ask the engine thread to end. Any thread, at any time."""
        self._requests.put(Request("stop"))

    def sleep(self, timeout_s: float, *, ready: Callable[[], bool]) -> Request | None:
        """Wait for the next request, or until a stream is ready. Engine thread.

        Args:
            timeout_s: seconds to wait, at most.
            ready: whether a stream is ready.
        """
        self._asleep[0] = 1  # before looking
        try:
            return None if ready() else self.take(timeout_s)
        finally:
            self._asleep[0] = 0

    def take(self, timeout_s: float = 0.0) -> Request | None:
        """The next request; None if there is none in time. Engine thread."""
        try:
            return self._requests.get(block=timeout_s > 0, timeout=timeout_s or None)
        except queue.Empty:
            return None
