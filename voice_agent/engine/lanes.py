"""Where each slot's current segment stands, as arrays, so that a tick asks all slots at once.

Everything is shape [slot]. Samples are counted over the stream, chunks over the segment:

    start      first sample of the next chunk's window
    base, end  the segment's first sample, and the first after it (`NEVER` until it is finished)
    launched   chunks handed to the device
    collected  chunks whose tokens have come back
    total      chunks that the segment has, `NEVER` until it is finished
    right      right context
    taken      ends of segments that have been heard of, finished or cancelled, done or not
    epoch      counts segments, so that what comes back for an earlier one is known
    pace       the last chunk's turn, float64 seconds, and
    gap        seconds from one turn to the next at the least, by the fairness rule of `turns`

What feeders have to see of it, `need` and `ordinal`, lies in the rings, and so does what they tell
of their chunks, `arrivals` (`voice_agent.engine.rings`).

Engine thread. No loop over slots runs in Python.
"""

from __future__ import annotations

import numpy as np

from voice_agent.engine.chunks import Chunks
from voice_agent.engine.recognizer import SAMPLE_RATE
from voice_agent.engine.rings import ARRIVALS, NEVER, Rings

_FASTEST = 2.0  # times real time at which a stream keeps its turn


class Lanes:
    """The arrays; see the module's docstring."""

    def __init__(self, rings: Rings) -> None:
        """Nothing is asked of any slot.

        Args:
            rings: of the same slots.
        """
        self._chunks = rings.chunks

        def table(fill: int = 0) -> np.ndarray:
            return np.full(rings.slots, fill, np.int64)

        self.need, self.ordinal, self.arrivals = rings.need, rings.ordinal, rings.arrivals
        self.start, self.base, self.end = table(), table(), table(NEVER)
        self.launched, self.collected, self.total = table(), table(), table(NEVER)
        self.right, self.epoch, self.taken = table(), table(), table()
        self.pace, self.gap = np.zeros(rings.slots), np.zeros(rings.slots)

    def rest(self, slot: int) -> None:
        """Nothing is asked of the slot, and what is still on the device is for nobody."""
        self.need[slot] = NEVER
        self.end[slot] = self.total[slot] = NEVER
        self.epoch[slot] += 1

    def begin(self, slot: int, right: int, base: int, ordinal: int) -> None:
        """A segment begins at sample `base`, with chunk `ordinal` of the stream."""
        self.rest(slot)
        chunks = self._chunks[right]
        self.right[slot] = right
        self.base[slot] = base
        self.start[slot] = base - chunks.lead
        self.launched[slot] = self.collected[slot] = 0
        self.gap[slot] = chunks.samples / SAMPLE_RATE / _FASTEST
        self.ordinal[slot] = ordinal
        self.need[slot] = base + chunks.needed(0)

    def finish(self, slot: int, end: int) -> bool:
        """The segment ends before sample `end`; whether nothing is left to wait for."""
        chunks = self._chunks[int(self.right[slot])]
        total = chunks.total(end - int(self.base[slot]))
        self.end[slot], self.total[slot] = end, total
        if self.launched[slot] < total:
            self.need[slot] = min(int(self.need[slot]), end)
        else:
            self.need[slot] = NEVER
        return int(self.collected[slot]) == total

    def waiting(self, written: np.ndarray) -> int:
        """Samples that were written and not launched yet, over all slots."""
        asked = self.need < NEVER
        lead = next(iter(self._chunks.values())).lead  # the same for every right context
        return int(np.maximum(written - self.start - lead, 0)[asked].sum())

    def arrived(self, slots: np.ndarray) -> np.ndarray:
        """When the audio of the next chunk of each was there."""
        return self.arrivals[slots, self.ordinal[slots] % ARRIVALS]

    def turns(self, slots: np.ndarray, arrived: np.ndarray) -> np.ndarray:
        """Whose turn is first, as a time: the smallest waits longest.

        It is the chunk's arrival, so that who is behind catches up first. But whoever is fed
        faster than twice real time, such as a recording, takes turns as if he were fed at that
        pace: he gets what others leave.
        """
        return np.maximum(arrived, self.pace[slots] + self.gap[slots])

    def launch(self, slots: np.ndarray, turns: np.ndarray, chunks: Chunks) -> None:
        """Each of these has one chunk more on the device."""
        launched = self.launched[slots] + 1
        self.launched[slots] = launched
        self.ordinal[slots] += 1
        self.start[slots] += chunks.samples
        self.pace[slots] = turns
        need = np.minimum(self.need[slots] + chunks.samples, self.end[slots])
        self.need[slots] = np.where(launched < self.total[slots], need, NEVER)

    def still_read(self, slots: np.ndarray) -> np.ndarray:
        """The first sample that each segment still needs, or the next one will."""
        first = np.maximum(self.start[slots], self.base[slots])
        return np.minimum(first, self.end[slots])

    def collect(self, slots: np.ndarray, epochs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A step came back.

        Args:
            slots: of its lanes.
            epochs: of its lanes, when it was launched.

        Returns:
            By lane: whether its segment is still the current one, and whether it is complete now.
        """
        current = self.epoch[slots] == epochs
        here = slots if current.all() else slots[current]
        self.collected[here] += 1
        return current, current & (self.collected[slots] == self.total[slots])
