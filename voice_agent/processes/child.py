"""A child process as its supervisor sees it: started, heard, timed, ended.

start      with its task on standard input and one end of a control socket
reports    into the supervisor's queue, beats aside
silent_s   how long it has been since the last one
kill       nothing less ends a process that hangs
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import signal
import socket
import sys
import time
from dataclasses import dataclass

from voice_agent.processes.control import Beat, Broken, Ready, Task, report_of


@dataclass(frozen=True, slots=True)
class Ended:
    """A child's process is gone.

    Attributes:
        code: its exit code; negative for a signal.
        broken: what it had said of it; None where it could not say anything.
    """

    code: int
    broken: Broken | None


class Child:
    """See the module docstring. Event loop only.

    Attributes:
        name: for logs.
        ready: what it said when it began to serve; None before.
        stuck: why its device is not alive, by its last beat.
    """

    def __init__(self, name: str, module: str, task: Task) -> None:
        """Prepare to start a process.

        Args:
            name: for logs.
            module: that it runs.
            task: what it is to do.
        """
        self.name = name
        self.ready: Ready | None = None
        self.stuck: str | None = None
        self._module = module
        self._task = task
        self._process: asyncio.subprocess.Process | None = None
        self._heard = time.monotonic()
        self._broken: Broken | None = None

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def silent_s(self) -> float:
        """Seconds since it was last heard of; 0 before it beats."""
        return time.monotonic() - self._heard if self.ready is not None else 0.0

    async def start(self) -> None:
        """Start the process."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                self._module,
                str(theirs.fileno()),
                stdin=asyncio.subprocess.PIPE,
                pass_fds=[theirs.fileno(), *self._task.listening],
                # Ctrl-C is for the supervisor, which tells its children what to do.
                start_new_session=True,
            )
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended already; `run` says so
            self._process.stdin.write(pickle.dumps(self._task))
            await self._process.stdin.drain()
            self._process.stdin.close()
        self._reader, self._writer = await asyncio.open_connection(sock=ours)

    async def run(self, on_ready: asyncio.Event) -> Ended:
        """Listen to the process until it has ended.

        Args:
            on_ready: set when it serves.
        """
        assert self._process is not None
        try:
            while line := await self._reader.readline():
                self._heard = time.monotonic()
                match report_of(line):
                    case Ready() as ready:
                        self.ready = ready
                        on_ready.set()
                    case Beat(stuck=stuck):
                        self.stuck = stuck
                    case Broken() as broken:
                        self._broken = broken
        except OSError:  # it was killed in the middle of a line
            pass
        finally:
            self._writer.close()
        return Ended(await self._process.wait(), self._broken)

    def terminate(self) -> None:
        """Ask it to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it, whatever it is doing."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
