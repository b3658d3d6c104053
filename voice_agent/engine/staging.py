"""The buffer that a step's windows are gathered into."""

from __future__ import annotations

import numpy as np


class Staging:
    """Buffers that are used in turn, so that one is filled while the device still reads another.

    For runners that offer none of their own (`Runner.staging`). A buffer grows to the largest
    step that it has served, because fresh memory costs more than the copy into it.
    """

    def __init__(self, buffers: int) -> None:
        self._buffers = [np.empty(0, np.float32) for _ in range(buffers)]
        self._turn = 0

    def take(self, lanes: int, window: int) -> np.ndarray:
        """A float32 array of shape (lanes, window), of undefined content."""
        self._turn = (self._turn + 1) % len(self._buffers)
        if self._buffers[self._turn].size < lanes * window:
            self._buffers[self._turn] = np.empty(lanes * window, np.float32)
        return self._buffers[self._turn][: lanes * window].reshape(lanes, window)
