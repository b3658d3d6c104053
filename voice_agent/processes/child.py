"""A child process as its supervisor sees it: started, heard, timed, ended.

start      with its task on standard input and one end of a control socket
reports    into the supervisor's queue, beats aside
silent_s   how long it has been since the last one, as far as it could have run meanwhile
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
from voice_agent.server.processor_time import ProcessorTime

_LOOK_S = 0.25  # of a time between two looks, at most that counts


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
        self._heard = True
        self._looked = time.monotonic()
        self._silent_s = 0.0
        self._spending: ProcessorTime | None = None
        self._broken: Broken | None = None

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process is not None, "not started"
        return self._process.pid

    def silent_s(self, now: float) -> float:
        """Look how long it has been silent; to be asked often.

        Time in which it waited for a processor does not count, nor does what a look comes late by.

        Args:
            now: a monotonic clock's time.

        Returns:
            Seconds since it was last heard of; 0 before it beats.
        """
        since_s, self._looked = min(now - self._looked, _LOOK_S), now
        if self.ready is None:
            return 0.0
        if self._spending is None:
            self._spending = ProcessorTime(self.pid)
        spent = self._spending.look()
        if self._heard:
            self._heard, self._silent_s = False, 0.0
        else:
            self._silent_s += spent.held_against(since_s, computing=False)
        return self._silent_s

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
                self._heard = True
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
