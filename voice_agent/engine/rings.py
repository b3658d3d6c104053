"""Where feeders and the engine meet: one ring of samples a slot, and what each side has to know.

    int16    [slot, row]   a ring of `sizes[right]` samples, then a copy of the ring's beginning,
    float32  [slot, row]   as long as the widest window, so that every window lies in one piece
    is_float [slot] bool   which of the two holds the slot's samples

  written by the slot's feeder
    written  [slot] int64  samples of the stream that its ring has had
    ended    [slot] int64  segments of the stream that have been ended, counted before more is fed
    arrivals [slot, ARRIVALS] float64  when the audio of a chunk was there, monotonic seconds; of
                           chunk n of the stream at n % ARRIVALS

  written by the engine thread
    read     [slot] int64  the first sample that is still needed; older ones are overwritten
    need     [slot] int64  sample count with which the next chunk can be computed; `NEVER` where
                           none is asked
    ordinal  [slot] int64  chunks of the stream before the next
    asleep   [1] int64     whether only a request wakes it

Sample s of a stream lies at `s % size` of its slot's row, whatever segment it belongs to. Audio
is kept as int16, as it comes over the wire; a stream that is fed float32 moves to the second
array. A row is as long as the widest look-ahead asks for; streams of a narrower one use its
beginning, and the system gives memory, by its pages, for what is used.

Feeders may be threads of this process or other processes (`attach`), one at a time for a slot.
Neither side waits for the other, and this is why no sample is read before it is there, or
overwritten before it is read:

* A feeder stores samples first and `written` last. The engine takes a look at `written`, then
  copies samples, and moves `read` on when the copy is done.
* What it sees of a count is either the old or the new one, as aligned 8-byte loads are never torn.
* Between threads, the interpreter's lock orders the stores: the engine takes it again before it
  reads samples, and the feeder let it go after it had stored them.
* Between processes, processors keep the order of stores (x86-64), or a lock that is taken between
  the two does (AArch64): see `Feeding`; the engine takes one in `gather`.

Free-threaded interpreters would need atomics here, and are not served.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np

from voice_agent.engine.chunks import Chunks
from voice_agent.engine.shared import Layout, Memory

SCALE = np.float32(1 / 32768)
NEVER = 1 << 61
ARRIVALS = 64
"""Chunks of backlog whose arrival is remembered, a stream."""
_SHORTEST = 32_768  # samples: two seconds, so that few copies meet a ring's end
_PAGE = 2048  # samples of an array's page
_BLOCK = 128  # lanes whose windows stay in the cache between two passes


class Rings:
    """The arrays; see the module docstring.

    Attributes:
        slots: rows.
        chunks: geometry by right context.
        row: samples of a slot's row.
        sizes: samples of a ring, by right context: a power of two, at least a window and two
            chunks more.
        windows: samples of a window, by right context.
        int16: see the module docstring.
        float32: the same.
        written: the same.
        read: the same.
        need: the same.
        ordinal: the same.
        ended: the same.
        arrivals: the same.
        is_float: the same.
        asleep: the same.
    """

    def __init__(self, slots: int, chunks: Mapping[int, Chunks], path: Path | None = None) -> None:
        """Reserve memory; none is taken yet.

        Args:
            slots: rows.
            chunks: geometry by right context.
            path: of another process's rings, for a feeder of them; None for new ones.

        Raises:
            OSError: there are no such rings at the path.
        """
        self.slots = slots
        self.chunks = dict(chunks)
        self.sizes = {
            right: 1 << (max(c.window_samples + 2 * c.samples, _SHORTEST) - 1).bit_length()
            for right, c in chunks.items()
        }
        self.windows = {right: c.window_samples for right, c in chunks.items()}
        self.row = max(self.sizes[right] + self.windows[right] for right in chunks)
        layout: Layout = {
            "written": ((slots,), np.int64),
            "arrivals": ((slots, ARRIVALS), np.float64),
            "ended": ((slots,), np.int64),
            "read": ((slots,), np.int64),
            "need": ((slots,), np.int64),
            "ordinal": ((slots,), np.int64),
            "is_float": ((slots,), np.bool_),
            "asleep": ((1,), np.int64),
            "int16": ((slots, self.row), np.int16),
            "float32": ((slots, self.row), np.float32),
        }
        self._memory = Memory(layout, path)
        arrays = self._memory.arrays
        self.int16, self.float32 = arrays["int16"], arrays["float32"]
        self.written, self.arrivals = arrays["written"], arrays["arrivals"]
        self.read, self.need, self.ordinal = arrays["read"], arrays["need"], arrays["ordinal"]
        self.ended = arrays["ended"]
        self.is_float, self.asleep = arrays["is_float"], arrays["asleep"]
        self._mask = np.zeros(slots, np.int64)
        self._fence = threading.Lock()
        if path is None:
            self.need[:] = NEVER

    def described(self) -> dict[str, Any] | None:
        """What `attach` needs to know, as plain values; None where memory cannot be shared."""
        path = self._memory.path
        if path is None:
            return None
        geometry = [list(astuple(chunks)) for chunks in self.chunks.values()]
        return {"path": str(path), "slots": self.slots, "chunks": geometry}

    @classmethod
    def attach(cls, described: Mapping[str, Any]) -> Rings:
        """Another process's rings, to feed streams of its engine.

        Args:
            described: by `described`, over there.

        Raises:
            OSError: they cannot be reached from here.
        """
        chunks = [Chunks(*geometry) for geometry in described["chunks"]]
        by_right = {each.right: each for each in chunks}
        return cls(described["slots"], by_right, Path(described["path"]))

    def claim(self, slot: int, right: int) -> None:
        """A new stream has the slot. In the engine's process, while nobody else has it."""
        self._mask[slot] = self.sizes[right] - 1
        # It goes through all of its ring within seconds: the pages are there before its audio is.
        row = self.int16[slot, : self.sizes[right] + self.windows[right]]
        row[::_PAGE] = row[-1] = 0
        self.is_float[slot] = False
        self.written[slot] = self.read[slot] = self.ended[slot] = 0

    def waiting_for_a_knock(self) -> bool:
        """Whether the engine thread sleeps while a stream is ready. From any process."""
        return bool(self.asleep[0]) and bool((self.written >= self.need).any())

    def ready(self, taken: np.ndarray) -> np.ndarray:
        """Slots whose next chunk can be computed, ascending. Engine thread.

        Who has ended a segment that the engine has not heard of yet has to wait until it has: what
        is written may be the next segment's.

        Args:
            taken: int64, shape (slots,): ends that the engine has heard of.
        """
        enough = self.written >= self.need
        with self._fence:  # in this order: the end was counted before the audio behind it
            pass
        return np.flatnonzero(enough & (self.ended == taken))

    def to_float(self, slot: int) -> None:
        """Go on in float32, with what the slot's ring holds.

        The old row stays as it is, for a tick that is just reading it. The slot's feeder.
        """
        np.multiply(self.int16[slot], SCALE, out=self.float32[slot])
        self.is_float[slot] = True

    def gather(self, slots: np.ndarray, starts: np.ndarray, right: int, out: np.ndarray) -> None:
        """Copy one window a lane. Engine thread.

        Args:
            slots: int64, shape (n,).
            starts: int64, shape (n,): first sample of each window, counted over the stream; what
                lies before the stream's first sample is not audio, and for the caller to clear.
            right: whose windows.
            out: float32 or int16 (raw samples, where no lane is float32), shape (n, window).
        """
        with self._fence:  # no sample is read earlier than the count that told of it
            at = slots * self.row + (starts & self._mask[slots])
        floats = self.is_float[slots]
        if floats.any():
            lanes = np.flatnonzero(floats)
            out[lanes] = self._windows(self.float32, right)[at[lanes]]
            lanes = np.flatnonzero(~floats)
            out[lanes] = self._windows(self.int16, right)[at[lanes]] * SCALE
            return
        windows = self._windows(self.int16, right)
        if out.dtype == np.int16:
            out[:] = windows[at]
            return
        for first in range(0, len(at), _BLOCK):
            lanes_out = out[first : first + _BLOCK]
            lanes_out[:] = windows[at[first : first + _BLOCK]]
            lanes_out *= SCALE

    def _windows(self, rows: np.ndarray, right: int) -> np.ndarray:
        """Every window of an array as a row of a view."""
        return pieces(rows, self.windows[right])


def pieces(rows: np.ndarray, width: int, *, writeable: bool = False) -> np.ndarray:
    """Every piece of so many samples, wherever it begins, as a row of a view."""
    flat = rows.reshape(-1)
    return np.lib.stride_tricks.as_strided(
        flat,
        (flat.size - width + 1, width),
        (flat.itemsize, flat.itemsize),
        writeable=writeable,
    )
