"""What the feeders of one process share: how far each is, as arrays, and many fed by one call."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from voice_agent.engine.rings import ARRIVALS, Rings, pieces

_RIGHTS = 64  # more than there are right contexts


class Feeders:
    """How far this process's feeders are, by slot.

        clear    [slot] int64  samples that the stream may have after one plain copy; -1 where the
                               ring has to be looked at more closely
        next     [slot] int64  samples of the stream with which its next chunk is complete
        ordinal  [slot] int64  chunks of the stream before that one
        step     [slot] int64  samples from one chunk to the next
        mask     [slot] int64  of a sample's place in the ring
        right    [slot] int64  right context
        plain    [slot] bool   whether nothing but the ring stands in the way of int16: no float32,
                               nothing that waits beside it, nobody who keeps the audio
        serial   [slot] int64  counts the slot's feeders, and their ends

    Attributes:
        rings: that are fed.
        clock: monotonic seconds, the same for all processes.
        fence: to be taken between samples and their count, where processors might turn the two
            round; None where the interpreter's lock sees to it.
        need: sample count, by slot, from which on a sleeping engine wants to be woken.
        asleep: whether it sleeps.
    """

    def __init__(
        self,
        rings: Rings,
        clock: Callable[[], float] = time.monotonic,
        *,
        elsewhere: bool = False,
    ) -> None:
        """Nobody feeds yet.

        Args:
            rings: to feed.
            clock: see above.
            elsewhere: the engine is another process. Then it may be seen awake, or as needing
                more, when it is not so any more: every feed calls `Feeding._wake`, and whoever
                wakes looks again a while later.
        """
        self.rings = rings
        self.clock = clock
        self.fence = threading.Lock() if elsewhere else None
        self.need = np.zeros(rings.slots, np.int64) if elsewhere else rings.need
        self.asleep = np.ones(1, np.int64) if elsewhere else rings.asleep
        self.clear, self.next, self.ordinal, self.step, self.mask, self.right, self.serial = (
            np.zeros(rings.slots, np.int64) for _ in range(7)
        )
        self.plain = np.zeros(rings.slots, np.bool_)
        # Memoryviews: an element costs a fraction of what numpy's own indexing does, and copying
        # samples does not let the interpreter's lock go. `Any`: they take arrays, which typeshed
        # does not know.
        self.clear_view, self.next_view = self.clear.data, self.next.data
        self.ordinal_view = self.ordinal.data
        self.int16_view: Any = rings.int16.reshape(-1).data
        self.float32_view: Any = rings.float32.reshape(-1).data
        self.arrivals_view: Any = rings.arrivals.reshape(-1).data
        self.written_view, self.read_view = rings.written.data, rings.read.data
        self.need_view, self.asleep_view = self.need.data, self.asleep.data
        self.asked_view = rings.ordinal.data
        self._arrivals = rings.arrivals.reshape(-1)
        self._pieces: np.ndarray | None = None  # of the length that was fed last

    def feed(self, slots: np.ndarray, pcm: np.ndarray) -> np.ndarray:
        """Append to many streams what fits into their rings, and completes one chunk at most.

        Args:
            slots: int64, shape (n,), distinct.
            pcm: int16, shape (n, m) or (m,) for all, m > 0.

        Returns:
            bool, shape (n,): whom it was appended to; to the others nothing was.
        """
        rings, samples = self.rings, pcm.shape[-1]
        plain = self.plain[slots]  # before the counts: the engine's thread may just be refilling
        begins = rings.written[slots]
        ends = begins + samples
        due, step = self.next[slots], self.step[slots]
        plain &= ends < due + step
        fed = plain & (ends <= self.clear[slots])
        if not (all_fed := bool(fed.all())):
            # Streams that began together meet their rings' ends together, thousands in one chunk.
            round_ = plain & ~fed & (ends <= rings.read[slots] + self.mask[slots] + 1)
            if round_.any():
                self._write_round(slots[round_], begins[round_], _of(pcm, round_))
        if all_fed:
            self._write(slots, begins, pcm)
        else:
            self._write(slots[fed], begins[fed], _of(pcm, fed))
            fed |= round_
            slots, ends, due, step = slots[fed], ends[fed], due[fed], step[fed]
        complete = ends >= due
        if not complete.all():
            done, due, step = slots[complete], due[complete], step[complete]
        else:
            done = slots
        ordinals = self.ordinal[done]
        self._arrivals[done * ARRIVALS + ordinals % ARRIVALS] = self.clock()
        self.ordinal[done] = ordinals + 1
        self.next[done] = due + step
        if self.fence is not None:
            with self.fence:
                pass
        rings.written[slots] = ends
        return fed

    def _write(self, slots: np.ndarray, begins: np.ndarray, pcm: np.ndarray) -> None:
        """Samples by one plain copy each, which meets neither a ring's end nor its beginning."""
        samples = pcm.shape[-1]
        places = self._pieces
        if places is None or places.shape[1] != samples:
            self._pieces = places = pieces(self.rings.int16, samples, writeable=True)
        places[slots * self.rings.row + (begins & self.mask[slots])] = pcm

    def _write_round(self, slots: np.ndarray, begins: np.ndarray, pcm: np.ndarray) -> None:
        """The same for streams of which each meets one of them; there is room."""
        rings, samples = self.rings, pcm.shape[-1]
        places = begins & self.mask[slots]
        alike = places * _RIGHTS + self.right[slots]
        for kind in set(alike.tolist()):
            here = alike == kind
            mine, audio = slots[here], _of(pcm, here)
            place, right = divmod(kind, _RIGHTS)
            size, tail = rings.sizes[right], rings.windows[right]
            at, done = place, 0
            while done < samples:
                n = min(samples - done, size - at)
                piece = audio[..., done : done + n]
                rings.int16[mine, at : at + n] = piece
                if at < tail:  # and once more behind the ring's end
                    again = min(n, tail - at)
                    rings.int16[mine, size + at : size + at + again] = piece[..., :again]
                done += n
                at = (at + n) % size
            if at < tail:
                self.clear[mine] = -1
            else:
                end = begins[here] + samples - at + size
                self.clear[mine] = np.minimum(rings.read[mine] + size, end)

    def close(self) -> None:
        """There is no engine any more: whoever feeds looks closer, and is told."""
        self.clear[:] = -1
        self.plain[:] = False


def _of(pcm: np.ndarray, lanes: np.ndarray) -> np.ndarray:
    """These lanes' audio, where not all have the same."""
    return pcm if pcm.ndim == 1 else pcm[lanes]
