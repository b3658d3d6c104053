"""What the engine thread counts, for whoever wants to know from outside."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(slots=True)
class Stats:
    """Counters since the start; read them from any thread.

    Attributes:
        ticks: steps computed.
        chunks: chunks computed, over all lanes.
        late: chunks whose events were posted later than a chunk's length after their audio.
        refused: calls of `open` that found no slot.
        overflows: times that a stream's audio found its ring full, and waited outside of it.
        undelivered: events whose event loop did not take them any more.
        open_streams: streams that hold a slot.
        backlog_s: audio that was accepted into the rings and is not computed yet, in seconds over
            all streams; brought up to date at most ten times a second.
        lag_s: of the last tick's oldest chunk: end of its audio to its events' posting.
        step_s: the last step's duration, from its launch.
        heartbeat: monotonic time at which the engine thread last came round, at least every half
            second while it lives and its device answers; 0 before it has started.
    """

    ticks: int = 0
    chunks: int = 0
    late: int = 0
    refused: int = 0
    overflows: int = 0
    undelivered: int = 0
    open_streams: int = 0
    backlog_s: float = 0.0
    lag_s: float = 0.0
    step_s: float = 0.0
    heartbeat: float = 0.0

    def count(self, lanes: int, step_s: float, lags_s: np.ndarray, chunk_s: float) -> None:
        """A step is done. Engine thread.

        Args:
            lanes: that it had.
            step_s: seconds since its launch.
            lags_s: seconds that each streaming lane's chunk waited for its events.
            chunk_s: after how many of them one is late.
        """
        self.ticks += 1
        self.chunks += lanes
        self.step_s = step_s
        if len(lags_s):
            self.lag_s = float(lags_s.max())
            self.late += int(np.count_nonzero(lags_s > chunk_s))


class LagHistogram:
    """How long chunks waited, counted in steps of half a millisecond up to 5 s.

    Attributes:
        longest_s: the longest of all.
    """

    _PER_SECOND = 2000
    _BUCKETS = 10_001

    def __init__(self) -> None:
        self._counts = np.zeros(self._BUCKETS, np.int64)
        self.longest_s = 0.0

    def __len__(self) -> int:
        return int(self._counts.sum())

    def add(self, lags_s: np.ndarray) -> None:
        """Count seconds, float64, shape (n,)."""
        if len(lags_s):
            buckets = np.clip(lags_s * self._PER_SECOND, 0, self._BUCKETS - 1).astype(np.int64)
            self._counts += np.bincount(buckets, minlength=self._BUCKETS)
            self.longest_s = max(self.longest_s, float(lags_s.max()))

    def over(self, limit_s: float) -> int:
        """How many were longer, to the histogram's step."""
        return int(self._counts[int(limit_s * self._PER_SECOND) :].sum())

    def percentile_s(self, percent: float) -> float:
        """The lag that `percent` of all do not exceed, rounded up; 0 where there is none."""
        if not len(self):
            return 0.0
        rank = np.ceil(percent / 100 * len(self))
        bucket = int(np.searchsorted(np.cumsum(self._counts), max(rank, 1)))
        return min((bucket + 1) / self._PER_SECOND, self.longest_s)
