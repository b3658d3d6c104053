"""A limit on how long one waits for the next of many messages, which costs a message nothing.

    silence.begins()
    try:
        message = await receive()
    except asyncio.CancelledError:
        if not silence.was_too_long():
            raise
        ...
    silence.ends()

`asyncio.timeout` around each wait makes and cancels a timer for it; here one timer looks now and
then when the last wait began.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_LOOK_S = 1.0  # the limit may become shorter meanwhile


class Silence:
    """Of the task that makes it."""

    def __init__(self, limit_s: Callable[[], float]) -> None:
        """Begin to count.

        Args:
            limit_s: returns the seconds that a wait may take, as of now.
        """
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._limit_s = limit_s
        self._since: float | None = None  # when the wait began; None between two
        self._late = False
        self._timer: asyncio.TimerHandle | None = None

    def begins(self) -> None:
        """A wait begins; the task is cancelled if it takes too long."""
        self._since = self._loop.time()
        if self._timer is None:
            self._look()

    def ends(self) -> None:
        """It is over."""
        self._since = None

    def was_too_long(self) -> bool:
        """In the task, which was cancelled: whether for that alone. Then the wait is over."""
        self._since = None
        late, self._late = self._late, False
        return late and self._task is not None and self._task.uncancel() == 0

    def _look(self) -> None:
        self._timer = None
        if self._since is None or self._task is None:
            return  # the next wait looks again
        now = self._loop.time()
        due = self._since + self._limit_s()
        if now >= due:
            self._late = True
            self._task.cancel()
            return
        self._timer = self._loop.call_at(min(due, now + _LOOK_S), self._look)
