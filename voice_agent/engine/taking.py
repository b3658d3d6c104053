"""Streams whose text another process writes: it takes their tokens as they come, as flat arrays.

No Python runs here for a stream that said something; whoever takes the tokens has a transcript of
each segment, and makes partials and finals of it. Finals are told as other streams' are, without
their text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from voice_agent.engine.recognizer import Deliver


@dataclass(frozen=True, slots=True)
class Taken:
    """What one step said to the streams of one taker.

    Attributes:
        numbers: int64, shape (n,): streams that said something, as their taker counts them.
        segments: int64, shape (n,): the segment of each.
        counts: int64, shape (n,): tokens of each.
        audio_s: float64, shape (n,): seconds of the segment's audio that are there.
        ends_s: float64, shape (n,): of these, what the tokens so far account for.
        tokens: int32, shape (m,): of all, one stream after the other.
        frames: int32, shape (m,): encoder frame of the segment that emitted each.
        probs: float32, shape (m,): posterior of each.
    """

    numbers: np.ndarray
    segments: np.ndarray
    counts: np.ndarray
    audio_s: np.ndarray
    ends_s: np.ndarray
    tokens: np.ndarray
    frames: np.ndarray
    probs: np.ndarray


Take = Callable[[Taken], None]


class Takers:
    """Who takes which slot's tokens.

        taker    [slot] int64  -1 where the engine writes itself
        number   [slot] int64  of the slot's stream, as its taker counts
        segment  [slot] int64  of the segment that is being decoded

    Takers come and go on other threads than the engine's, a slot is given to one before it is fed.
    """

    def __init__(self, slots: int) -> None:
        """The engine writes all of them itself."""
        self.taker = np.full(slots, -1, np.int64)
        self.number, self.segment = np.zeros(slots, np.int64), np.zeros(slots, np.int64)
        self._takers: dict[int, tuple[Deliver, Take]] = {}
        self._next = 0

    def add(self, deliver: Deliver, take: Take) -> int:
        """Register a taker.

        Args:
            deliver: runs `take` where the taker wants it.
            take: called with what a step said, before finals that the step completed.

        Returns:
            What to call it.
        """
        self._next += 1
        self._takers[self._next] = deliver, take
        return self._next

    def remove(self, taker: int) -> None:
        """It takes nothing any more; its streams are closed."""
        self._takers.pop(taker, None)

    def get(self, taker: int) -> tuple[Deliver, Take] | None:
        """Where and how it takes; None where it is gone."""
        return self._takers.get(taker)

    def give(self, slot: int, taker: int, number: int, segment: int) -> None:
        """The slot's stream, which has not been fed yet, is this taker's."""
        self.number[slot], self.segment[slot] = number, segment
        self.taker[slot] = taker
