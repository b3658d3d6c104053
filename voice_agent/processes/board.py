"""What the processes of one server count together, in a file that all of them map.

    sessions[front-end]            conversations now
    held[front-end, key]           sessions of a key now
    day[key], heard_s[key]         its audio of that UTC day
    pids, restarts                 of the engine and of each front-end: written by the supervisor

A front-end writes its own sessions; whoever decides by a sum does so under `lock`, a record lock
of the kernel's, which a process that is killed does not keep. Counting a key needs a row for its
name: `KEYS` are there.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np

KEYS = 4096
"""Names of keys that can be counted."""


class Board:
    """See the module docstring. One thread of each process."""

    def __init__(self, path: Path, front_ends: int, *, create: bool = False) -> None:
        """Map the file.

        Args:
            path: of the file.
            front_ends: how many there are.
            create: make it anew, with zeros.
        """
        self.front_ends = front_ends
        layout = np.dtype(
            [
                ("sessions", "i4", (front_ends,)),
                ("pids", "i4", (front_ends + 1,)),
                ("restarts", "i4", (front_ends + 1,)),
                ("names", "u8", (KEYS,)),
                ("held", "i4", (front_ends, KEYS)),
                ("day", "i8", (KEYS,)),
                ("heard_s", "f8", (KEYS,)),
            ]
        )
        self._file = path.open("w+b" if create else "r+b")
        if create:
            self._file.truncate(layout.itemsize)
        self._map = mmap.mmap(self._file.fileno(), layout.itemsize)
        self._all = np.frombuffer(self._map, layout, 1)[0]

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Nobody else changes anything while the block runs, which must be short."""
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)

    @property
    def sessions(self) -> int:
        """Conversations now, over all front-ends."""
        return int(self._all["sessions"].sum())

    def count_session(self, front_end: int, change: int) -> None:
        """A session has begun (1) or ended (-1)."""
        self._all["sessions"][front_end] += change

    def held(self, key: str) -> int:
        """Sessions of a key now. Under the lock."""
        return int(self._all["held"][:, self._row(key)].sum())

    def hold(self, front_end: int, key: str, change: int) -> None:
        """A session of a key has begun (1) or ended (-1). Under the lock."""
        self._all["held"][front_end, self._row(key)] += change

    def heard_s(self, key: str, day: int) -> float:
        """Seconds of audio of a key on a day. Under the lock."""
        row = self._row(key)
        return float(self._all["heard_s"][row]) if self._all["day"][row] == day else 0.0

    def hear(self, key: str, day: int, audio_s: float) -> None:
        """Count audio of a key. Under the lock."""
        row = self._row(key)
        if self._all["day"][row] != day:
            self._all["day"][row], self._all["heard_s"][row] = day, 0.0
        self._all["heard_s"][row] += audio_s

    def _row(self, key: str) -> int:
        """The row of a name: the first that is its own or nobody's, from where its hash says."""
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        name = int.from_bytes(digest, "little") or 1
        names = self._all["names"]
        for step in range(KEYS):
            row = (name + step) % KEYS
            if names[row] in (0, name):
                names[row] = name
                return row
        raise ValueError(f"more than {KEYS} keys are counted already")

    # The supervisor's

    def started(self, process: int, pid: int, *, again: bool) -> None:
        """A process was started: 0 is the engine, then the front-ends."""
        self._all["pids"][process] = pid
        self._all["restarts"][process] += again

    def ended(self, process: int) -> None:
        """A process is gone, and a front-end's sessions with it."""
        with self.lock():
            self._all["pids"][process] = 0
            if process:
                self._all["sessions"][process - 1] = 0
                self._all["held"][process - 1] = 0

    def processes(self) -> list[tuple[str, int, int]]:
        """Name, pid (0 for one that does not run) and restarts of each."""
        names = ["engine", *(f"front-end-{i}" for i in range(self.front_ends))]
        return [
            (name, int(pid), int(restarts))
            for name, pid, restarts in zip(
                names, self._all["pids"], self._all["restarts"], strict=True
            )
        ]
