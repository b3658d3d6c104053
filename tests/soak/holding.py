"""What each process of a server holds: memory, files, tasks. From /proc, and its own word."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from tests.soak.faults import Target
from tests.soak.server import told_of

_LOOKS = 4
_ANSWER_S = 30.0
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Holding:
    """Of one process.

    Attributes:
        resident: bytes.
        files: that are open.
        tasks: of its event loop.
    """

    resident: int
    files: int
    tasks: int


def pids(target: Target) -> dict[str, int]:
    """A server's processes by name: the one that was started, and what it started."""
    if not target.front_ends:
        return {"server": target.pid}
    names = ["engine", *(f"front-end {i}" for i in range(target.front_ends))]
    children = {name: int(told_of(target.folder, name).read_text()) for name in names}
    return {"supervisor": target.pid, **children}


async def holdings(target: Target, looks: int = _LOOKS) -> dict[str, Holding]:
    """What an idle server's processes hold, once they have given back what they can.

    The least of a few looks: a step that is still under way holds some MiB, and whoever has just
    left a task.
    """
    seen = []
    for _ in range(looks):
        seen.append({name: await _look(target, pid) for name, pid in pids(target).items()})
        await asyncio.sleep(1.0)
    return {
        name: Holding(
            min(look[name].resident for look in seen),
            min(look[name].files for look in seen),
            min(look[name].tasks for look in seen),
        )
        for name in seen[0]
    }


async def _look(target: Target, pid: int) -> Holding:
    told = told_of(target.folder, pid)
    told.unlink(missing_ok=True)
    os.kill(pid, signal.SIGUSR1)
    async with asyncio.timeout(_ANSWER_S):
        while not told.exists():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return _held(pid, tasks=int(told.read_text()))


def _held(pid: int, tasks: int) -> Holding:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return Holding(pages * _PAGE, len(os.listdir(f"/proc/{pid}/fd")), tasks)
