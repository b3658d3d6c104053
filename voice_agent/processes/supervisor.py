"""The parent of a server's processes: `voice-agent serve --front-ends N`.

    start       the engine process loads while front-ends already answer /healthz
    ready       the engine serves and every front-end is connected to it
    died        a process that has ended is started again, at once the first time; the others go on
    hangs       one that is not heard of for `SILENT_S`, or whose device is stuck, is killed, and so
                has died
    gives up    what dies too often (`Patience`), or cannot start for a reason that a person can
                mend: everything ends, and the error says why
    SIGTERM     front-ends drain, then the engine ends: exit code 0; SIGINT the same, 130

What belongs to all of them lies in a folder that is removed at the end: Unix sockets, the board,
the metrics' files.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from voice_agent.config import Settings
from voice_agent.engine.errors import EngineError
from voice_agent.processes.board import Board
from voice_agent.processes.child import Child, Ended
from voice_agent.processes.control import Ready, Task
from voice_agent.processes.patience import Patience
from voice_agent.processes.shared import METRICS_VARIABLE

SILENT_S = 1.5
"""Seconds without a beat, in which it could have run, after which the engine hangs."""
FRONT_END_SILENT_S = 5.0
EXIT_INTERRUPTED = 130
DRAIN_S = 10.0
LOAD = "voice_agent.cli.load:load"
_LOOK_EVERY_S = 0.1
_LAST_S = 5.0  # that a process has to end after it was told to, besides what it drains


class GaveUp(EngineError):
    """A process that cannot be kept running; the message says which, and what it said."""


@dataclass(slots=True)
class _Place:
    """A process that is always to run; `child` is the one that does now."""

    index: int  # on the board: 0 for the engine
    name: str
    module: str
    task: Task
    patience: Patience
    child: Child | None = None

    @property
    def silent_s(self) -> float:
        return SILENT_S if self.index == 0 else FRONT_END_SILENT_S


class Supervisor:
    """See the module docstring. One event loop, on the main thread."""

    def __init__(
        self,
        settings: Settings,
        sockets: Sequence[socket.socket],
        *,
        on_ready: Callable[[Ready], None],
        load: str = LOAD,
        drain_s: float = DRAIN_S,
        verbose: bool = False,
        patience: Callable[[], Patience] = Patience,
    ) -> None:
        """Prepare; nothing is started yet.

        Args:
            settings: of the whole server.
            sockets: listening; one for each front-end, or one for all.
            on_ready: called once, when sessions are admitted; told what the engine is.
            load: "module:function" that loads the recogniser in the engine process.
            drain_s: seconds that sessions have to end.
            verbose: let the processes log what they do.
            patience: makes the patience for each process.
        """
        self._settings = settings
        self._sockets = sockets
        self._on_ready = on_ready
        self._load = load
        self._drain_s = drain_s
        self._verbose = verbose
        self._new_patience = patience
        self._front_ends = settings.server.front_ends
        self._stopping = False
        self._places: list[_Place] = []
        self._ready: list[asyncio.Event] = []

    async def run(self) -> int:
        """Serve until a signal.

        Returns:
            The exit code: 0 after SIGTERM, 130 after SIGINT.

        Raises:
            GaveUp: a process that cannot be kept running.
        """
        folder = Path(tempfile.mkdtemp(prefix="voice-agent-"))
        try:
            return await self._run(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def _run(self, folder: Path) -> int:
        os.environ[METRICS_VARIABLE] = str(folder / "metrics")
        (folder / "metrics").mkdir()
        self._board = Board(folder / "board", self._front_ends, create=True)
        self._places = [self._place(folder, None)]
        self._places += [self._place(folder, i) for i in range(self._front_ends)]
        self._ready = [asyncio.Event() for _ in self._places]
        received: asyncio.Queue[int] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, received.put_nowait, number)
        keeping = [asyncio.create_task(self._keep(place)) for place in self._places]
        told = asyncio.create_task(received.get())
        tasks: list[asyncio.Task[object]] = [*keeping, told]
        announcing = asyncio.create_task(self._announce())
        watching = asyncio.create_task(self._watch())
        try:
            await asyncio.wait([*tasks, watching], return_when=asyncio.FIRST_COMPLETED)
            for task in (*keeping, watching):
                if task.done():
                    task.result()  # GaveUp
            await self._stop(keeping, received)
            return EXIT_INTERRUPTED if told.result() == signal.SIGINT else 0
        finally:
            self._stopping = True
            for each in (told, announcing, watching):
                each.cancel()
            for place in self._places:
                if place.child is not None:
                    place.child.kill()
            await asyncio.gather(*keeping, return_exceptions=True)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _place(self, folder: Path, front_end: int | None) -> _Place:
        if front_end is None:
            listening: tuple[int, ...] = ()
        else:
            listening = (self._sockets[front_end % len(self._sockets)].fileno(),)
        task = Task(
            self._settings,
            folder,
            front_end,
            self._front_ends,
            listening,
            self._load,
            self._drain_s,
            self._verbose,
        )
        patience = self._new_patience()
        if front_end is None:
            return _Place(0, "engine", "voice_agent.processes.engine", task, patience)
        name = f"front-end {front_end}"
        return _Place(front_end + 1, name, "voice_agent.processes.front_end", task, patience)

    async def _announce(self) -> None:
        for event in self._ready:
            await event.wait()
        engine = self._places[0].child
        if engine is not None and engine.ready is not None:
            self._on_ready(engine.ready)

    async def _keep(self, place: _Place) -> None:
        """Have a process in its place until the server stops.

        Raises:
            GaveUp: it dies too often, or cannot start.
        """
        again = False
        while not self._stopping:
            child = Child(place.name, place.module, place.task)
            await child.start()
            place.child = child
            self._board.started(place.index, child.pid, again=again)
            ended = await child.run(self._ready[place.index])
            place.child = None
            self._board.ended(place.index)
            if self._stopping:
                return
            was_ready = self._ready[place.index].is_set()
            why = _why(ended)
            if ended.broken is not None and ended.broken.mendable and not was_ready:
                raise GaveUp(ended.broken.sentence)
            wait_s = place.patience.wait_s(time.monotonic())
            if wait_s is None:
                raise GaveUp(
                    f"the {place.name} process has died {place.patience}, last: {why}; "
                    "the server ends"
                )
            logger.error(f"the {place.name} process {why}; it is started again")
            await asyncio.sleep(wait_s)
            again = True

    async def _watch(self) -> None:
        """Kill what hangs."""
        while True:
            for place in self._places:
                child = place.child
                if child is None or child.ready is None:
                    continue
                if (silent_s := child.silent_s(time.monotonic())) > place.silent_s:
                    logger.error(f"the {place.name} process hangs: {silent_s:.1f} s silent")
                    child.kill()
                elif child.stuck is not None:
                    logger.error(f"the {place.name} process hangs: {child.stuck}")
                    child.kill()
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _stop(
        self, keeping: Sequence[asyncio.Task[None]], received: asyncio.Queue[int]
    ) -> None:
        """End the front-ends, which drain, then the engine; a second signal hurries them."""
        self._stopping = True
        again = asyncio.create_task(received.get())
        limit_s = self._drain_s + _LAST_S
        for places, tasks in (
            (self._places[1:], keeping[1:]),
            (self._places[:1], keeping[:1]),
        ):
            for place in places:
                if place.child is not None:
                    place.child.terminate()
            ending = asyncio.ensure_future(asyncio.wait(tasks, timeout=limit_s))
            await asyncio.wait({ending, again}, return_when=asyncio.FIRST_COMPLETED)
            if again.done():
                return  # `run` kills what is left
            limit_s = _LAST_S
        again.cancel()


def _why(ended: Ended) -> str:
    if ended.broken is not None:
        return ended.broken.sentence
    if ended.code < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-ended.code).name}"
    return f"ended with exit code {ended.code}"
