"""What one step of the device says: flat arrays, so that silent lanes cost nothing.

No torch here. The runner writes it, the scheduler reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Said = tuple[Sequence[int], Sequence[int], Sequence[float]]
"""Tokens of one lane, with the frame and the posterior of each."""


@dataclass(frozen=True, slots=True)
class Emissions:
    """All tokens of one step, flat, sorted by lane and then in the order of speaking.

    Attributes:
        lanes: int32, shape (m,): index into the step's batch.
        tokens: int32, shape (m,): ids.
        frames: int32, shape (m,): frame within the chunk at which each was emitted; below 0 in
            earlier chunks, where a segment is told as a whole.
        probs: float32, shape (m,): posterior of each, over all tokens and blank.
    """

    lanes: np.ndarray
    tokens: np.ndarray
    frames: np.ndarray
    probs: np.ndarray

    def __len__(self) -> int:
        return len(self.lanes)

    @classmethod
    def of(
        cls,
        lanes: Sequence[int],
        tokens: Sequence[int],
        frames: Sequence[int],
        probs: Sequence[float],
    ) -> Emissions:
        """From plain sequences, in whatever order of lanes; the order within a lane is kept."""
        by_lane = np.argsort(np.asarray(lanes, np.int32), kind="stable")
        return cls(
            np.asarray(lanes, np.int32)[by_lane],
            np.asarray(tokens, np.int32)[by_lane],
            np.asarray(frames, np.int32)[by_lane],
            np.asarray(probs, np.float32)[by_lane],
        )

    @classmethod
    def by_lane(cls, said: Sequence[Said]) -> Emissions:
        """From (tokens, frames, probs) of each lane, in the order of the lanes."""
        lengths = np.array([len(tokens) for tokens, _, _ in said], np.int64)
        return cls(
            np.repeat(np.arange(len(said), dtype=np.int32), lengths),
            np.array([t for tokens, _, _ in said for t in tokens], np.int32),
            np.array([f for _, frames, _ in said for f in frames], np.int32),
            np.array([p for _, _, probs in said for p in probs], np.float32),
        )

    def tokens_of(self, lane: int) -> list[int]:
        """Tokens of one lane."""
        return self.tokens[self.lanes == lane].tolist()
