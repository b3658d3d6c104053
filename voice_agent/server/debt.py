"""How long the recogniser may owe a session's texts.

A text is due when all audio that came before it could have been spoken. A recording may come many
times faster than that, and a recogniser that is still computing it is not stuck; one that is
behind live speech is. Each text that is owed and due has `limit_s`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """An `asyncio.TimerHandle`, for one."""

    def cancel(self) -> None:
        """Call nothing."""
        ...


class Debt:
    """See the module docstring. Event loop only."""

    def __init__(
        self,
        limit_s: float,
        give_up: Callable[[], object],
        *,
        later: Callable[[float, Callable[[], object]], Timer],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing was heard, nothing is owed.

        Args:
            limit_s: seconds that a text may be owed which is due.
            give_up: called when one was owed for longer.
            later: calls something after so many seconds.
            clock: monotonic seconds.
        """
        self._limit_s = limit_s
        self._give_up = give_up
        self._later = later
        self._clock = clock
        self._spoken_by = clock()  # when all that was heard could have been spoken
        self._paid = 0
        self._timer: Timer | None = None

    def hear(self, audio_s: float) -> None:
        """So much audio has come."""
        self._spoken_by = max(self._spoken_by, self._clock()) + audio_s

    def watch(self, owed: int, paid: int) -> None:
        """So many texts are owed, and so many were paid so far."""
        if paid > self._paid:
            self.forget()
        self._paid = paid
        if self._timer is None and owed:
            due_s = max(0.0, self._spoken_by - self._clock())
            self._timer = self._later(due_s + self._limit_s, self._give_up)

    def forget(self) -> None:
        """Nobody waits for a text any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
