"""How often something may die before it is given up. Time is an argument."""

from __future__ import annotations

from collections import deque

DEATHS = 4
WITHIN_S = 120.0
_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 2.0


class Patience:
    """See the module docstring."""

    def __init__(self, deaths: int = DEATHS, within_s: float = WITHIN_S) -> None:
        """Bear less than this many deaths in this many seconds."""
        self._deaths = deaths
        self._within_s = within_s
        self._died: deque[float] = deque()

    def wait_s(self, now: float) -> float | None:
        """It has died now: seconds before it is to be started again, or None for never."""
        self._died.append(now)
        while now - self._died[0] > self._within_s:
            self._died.popleft()
        count = len(self._died)
        if count >= self._deaths:
            return None
        return float(min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 4 ** (count - 1)))

    def __str__(self) -> str:
        return f"{self._deaths} times within {self._within_s:g} s"
