"""`voice-agent serve` whose processes give back what they do not hold, and say what they do.

    python -m tests.soak.server FOLDER serve ...

On SIGUSR1 each of them collects, and writes to FOLDER/PID how many tasks its event loop has;
FOLDER/NAME holds the PID of each process that the server has besides its first, and FOLDER/log what
all of them log.

What a process has resident is the most that it ever needed at once: reference cycles wait for the
collector, and what is freed between two blocks that are not stays with the allocator. Both go on
growing for a quarter of an hour, ever more slowly, and hide what is really kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import signal
import sys
from pathlib import Path

FOLDER = "SOAK_FOLDER"
LOG = "log"


def give_back() -> None:
    """Collect cycles, and return free pages to the system where the allocator can."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # glibc's alone
        ctypes.CDLL(None).malloc_trim(0)


def told_of(folder: Path, what: object) -> Path:
    """Where the PID of a process is, by its name, the number of its tasks, by its PID, the log."""
    return folder / str(what)


def answer() -> None:
    """Give back and tell at SIGUSR1."""
    told = told_of(Path(os.environ[FOLDER]), os.getpid())
    draft = told.with_suffix(".draft")

    def tell(*_: object) -> None:
        give_back()
        draft.write_text(str(len(asyncio.all_tasks())))
        draft.replace(told)

    signal.signal(signal.SIGUSR1, tell)


def watch_children() -> None:
    """Let the supervisor start the soak's own engine and front-ends, and write their PIDs."""
    from voice_agent.processes import supervisor
    from voice_agent.processes.child import Child
    from voice_agent.processes.control import Task

    class Told(Child):
        def __init__(self, name: str, module: str, task: Task) -> None:
            super().__init__(name, module.replace("voice_agent.processes", "tests.soak"), task)

        async def start(self) -> None:
            await super().start()
            told_of(Path(os.environ[FOLDER]), self.name).write_text(str(self.pid))

    supervisor.Child = Told


if __name__ == "__main__":
    from voice_agent.cli.app import main

    os.environ[FOLDER] = folder = sys.argv.pop(1)
    with told_of(Path(folder), LOG).open("ab") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())
    answer()
    watch_children()
    main()
