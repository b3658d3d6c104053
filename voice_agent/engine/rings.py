"""Where audio waits: one ring of samples a slot, all of them in one array.

    int16    [slot, row]   a ring of `sizes[right]` samples, then a copy of the ring's beginning,
    float32  [slot, row]   as long as the widest window, so that every window lies in one piece
    written  [slot] int64  samples of the stream that its ring has had
    read     [slot] int64  the first of them that is still needed; older ones are overwritten

Sample s of a stream lies at `s % size` of its slot's row, whatever segment it belongs to. Audio
is kept as int16, as it comes over the wire; a stream that is fed float32 moves to the second
array, which is made when the first one does. A row is as long as the widest look-ahead asks for;
streams of a narrower one use its beginning, and the system gives memory, by its pages, for what is
used.

Threads. A stream's feeders, one at a time under the stream's lock, write its row and then
`written`; the engine thread reads them and then moves `read` on. Neither waits for the other, and
this is why no sample is read before it is there, or overwritten before it is read:

* All stores are made while holding the interpreter's lock (copies through a memoryview do not let
  it go), samples first, `written` last.
* The engine may look at `written` without that lock, in the middle of a numpy operation. What it
  sees there is either the old or the new count, as aligned 8-byte loads are never torn; and before
  it reads samples it has taken the interpreter's lock again, which whoever stored the new count
  had to let go, so that his samples, stored earlier, are visible by then.
* The engine moves `read` on after its copy is done, in the same way.

Free-threaded interpreters would need atomics here, and are not served.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from voice_agent.engine.chunks import Chunks

SCALE = np.float32(1 / 32768)
_SHORTEST = 32_768  # samples: two seconds, so that few copies meet a ring's end
_BLOCK = 128  # lanes whose windows stay in the cache between two passes


class Rings:
    """The rings of all slots.

    Attributes:
        row: samples of a slot's row.
        sizes: samples of a ring, by right context: a power of two, at least a window and two
            chunks more.
        windows: samples of a window, by right context.
        samples: the int16 array as one flat memoryview; slot s begins at s · `row`.
        written_view: `written` as a memoryview.
        read_view: `read` as a memoryview.
    """

    def __init__(self, slots: int, chunks: Mapping[int, Chunks]) -> None:
        """Reserve memory; none is taken yet.

        Args:
            slots: rows.
            chunks: geometry by right context.
        """
        self.sizes = {
            right: 1 << (max(c.window_samples + 2 * c.samples, _SHORTEST) - 1).bit_length()
            for right, c in chunks.items()
        }
        self.windows = {right: c.window_samples for right, c in chunks.items()}
        self.row = max(self.sizes[right] + self.windows[right] for right in chunks)
        self.written = np.zeros(slots, np.int64)
        self.read = np.zeros(slots, np.int64)
        self.is_float = np.zeros(slots, np.bool_)
        self._mask = np.zeros(slots, np.int64)
        self._int16 = np.empty((slots, self.row), np.int16)
        # `Any`: they take arrays, which typeshed does not know.
        self.samples: Any = self._int16.reshape(-1).data
        self.written_view = self.written.data
        self.read_view = self.read.data
        self._float32: np.ndarray | None = None
        self._making_float = threading.Lock()

    def claim(self, slot: int, right: int) -> None:
        """A new stream has the slot: from any thread, while nobody else has it."""
        self._mask[slot] = self.sizes[right] - 1
        self.is_float[slot] = False
        self.written[slot] = self.read[slot] = 0

    def to_float(self, slot: int) -> Any:
        """Go on in float32, with what the slot's ring holds.

        The old row stays as it is, for a tick that is just reading it.

        Returns:
            The float32 array as `samples` is of the other.
        """
        with self._making_float:
            if self._float32 is None:
                self._float32 = np.empty(self._int16.shape, np.float32)
        np.multiply(self._int16[slot], SCALE, out=self._float32[slot])
        self.is_float[slot] = True
        return self._float32.reshape(-1).data

    def gather(self, slots: np.ndarray, starts: np.ndarray, right: int, out: np.ndarray) -> None:
        """Copy one window a lane. Engine thread.

        Args:
            slots: int64, shape (n,).
            starts: int64, shape (n,): first sample of each window, counted over the stream; what
                lies before the stream's first sample is not audio, and for the caller to clear.
            right: whose windows.
            out: float32 or int16 (raw samples, where no lane is float32), shape (n, window).
        """
        at = slots * self.row + (starts & self._mask[slots])
        floats = self.is_float[slots]
        if floats.any():
            lanes = np.flatnonzero(floats)
            assert self._float32 is not None
            out[lanes] = self._windows(self._float32, right)[at[lanes]]
            lanes = np.flatnonzero(~floats)
            out[lanes] = self._windows(self._int16, right)[at[lanes]] * SCALE
            return
        windows = self._windows(self._int16, right)
        if out.dtype == np.int16:
            out[:] = windows[at]
            return
        for first in range(0, len(at), _BLOCK):
            lanes_out = out[first : first + _BLOCK]
            lanes_out[:] = windows[at[first : first + _BLOCK]]
            lanes_out *= SCALE

    def _windows(self, rows: np.ndarray, right: int) -> np.ndarray:
        """Every window of an array as a row of a view."""
        flat = rows.reshape(-1)
        width = self.windows[right]
        return np.lib.stride_tricks.as_strided(
            flat, (flat.size - width + 1, width), (flat.itemsize, flat.itemsize), writeable=False
        )
