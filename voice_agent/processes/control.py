"""How a child process and the supervisor talk: a socket of their own, one JSON object a line.

    child -> supervisor    Ready    it serves
                           Beat     it is alive; from the engine also whether its device is
                           Broken   it ends, because ...
    supervisor -> child    nothing; its end means that there is no supervisor any more

What a child is to do comes over its standard input, pickled: settings hold secrets, which neither
arguments nor the environment should.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import socket
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from voice_agent.config import Settings

BEAT_EVERY_S = 0.25


@dataclass(frozen=True, slots=True)
class Task:
    """What a child is to do.

    Attributes:
        settings: of the whole server.
        folder: of the server's sockets and files, which nobody else can read.
        front_end: which one it is; None for the engine.
        front_ends: how many there are.
        listening: file descriptors of sockets that a front-end accepts clients on.
        load: "module:function" that loads the recogniser from settings.
        drain_s: seconds that sessions have to end after SIGTERM.
        verbose: log what happens.
    """

    settings: Settings
    folder: Path
    front_end: int | None
    front_ends: int
    listening: tuple[int, ...]
    load: str
    drain_s: float
    verbose: bool

    @property
    def engine_socket(self) -> Path:
        """Where the engine listens."""
        return self.folder / "engine"

    @property
    def board(self) -> Path:
        """The board's file."""
        return self.folder / "board"

    def front_end_socket(self, index: int) -> Path:
        """Where a front-end listens for the others."""
        return self.folder / f"front-end-{index}"


@dataclass(frozen=True, slots=True)
class Ready:
    """The child serves.

    Attributes:
        about: what the engine is: name, device, languages, streaming.
    """

    about: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Beat:
    """The child is alive.

    Attributes:
        stuck: why its device is not; None where it is.
    """

    stuck: str | None = None


@dataclass(frozen=True, slots=True)
class Broken:
    """The child ends.

    Attributes:
        sentence: why.
        mendable: whether a person can mend it, so that starting again is no use.
    """

    sentence: str
    mendable: bool


Report = Ready | Beat | Broken
_KINDS = {kind.__name__: kind for kind in (Ready, Beat, Broken)}


def line_of(report: Report) -> bytes:
    """A report as a line."""
    return json.dumps([type(report).__name__, asdict(report)]).encode() + b"\n"


def report_of(line: bytes) -> Report:
    """The report of a line."""
    name, fields = json.loads(line)
    report: Report = _KINDS[name](**fields)
    return report


class Control:
    """The child's end. Event loop only."""

    def __init__(self, fd: int) -> None:
        """Take over an inherited socket."""
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)

    def say(self, report: Report) -> None:
        """Tell the supervisor; where it is gone, `supervisor_gone` notices."""
        try:
            self._socket.send(line_of(report))
        except OSError:
            return

    async def supervisor_gone(self) -> None:
        """Return when there is no supervisor any more."""
        loop = asyncio.get_running_loop()
        try:
            while await loop.sock_recv(self._socket, 1024):
                pass
        except OSError:
            return


def task_and_control() -> tuple[Task, Control]:
    """What a child process begins with: its task, and its end of the control socket."""
    task = pickle.load(sys.stdin.buffer)
    assert isinstance(task, Task)
    return task, Control(int(sys.argv[1]))
