"""A front-end process: clients on one side, the engine process on the other.

    accept      on the server's port, and on a Unix socket for handovers from other front-ends
    connect     to the engine; /readyz and every offer say 503 until it is there, and whenever it
                is not
    SIGTERM     nobody new, sessions end within a limit, exit code 0
    orphaned    the supervisor is gone: the same, at once

One thread does everything but the VAD: an event loop, on which sessions' calls run as greenlets
(`voice_agent.server.loop_pool`). So a front-end uses one core; start more of them for more.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import sys
from functools import partial

import uvicorn
from fastapi import FastAPI

from voice_agent.config import Settings
from voice_agent.engine.interpreter import SWITCH_S
from voice_agent.engine.recognizer import Recognizer
from voice_agent.link.client import EngineClient
from voice_agent.link.waiting import wait_elsewhere
from voice_agent.processes.board import Board
from voice_agent.processes.control import (
    BEAT_EVERY_S,
    Beat,
    Broken,
    Control,
    Ready,
    Task,
    task_and_control,
)
from voice_agent.processes.handover import Handover, new_token
from voice_agent.processes.shared import SharedAccess, SharedMetrics, SharedSessions
from voice_agent.server.agent import LOADING, Agent, on_daemon_thread, rehearse
from voice_agent.server.api import Api
from voice_agent.server.keys import KeyFile
from voice_agent.server.limits import StreamLimits
from voice_agent.server.listening import (
    QuietServer,
    drain,
    loop_factory,
    server_options,
    signals,
)
from voice_agent.server.loop_pool import LoopPool
from voice_agent.server.tracing import set_up

RESTARTING = "the engine process has ended and is being started again"
_ORPHAN_DRAIN_S = 0.5


class FrontEndAgent(Agent):
    """What the routes of one front-end share. See `Agent`.

    Attributes:
        client: of the engine process.
    """

    def __init__(self, task: Task, board: Board, pool: LoopPool) -> None:
        """Make an agent that admits nobody before `load`.

        Args:
            task: of this process.
            board: of the server.
            pool: of the sessions.
        """
        assert task.front_end is not None
        settings = task.settings
        super().__init__(settings)
        self.sessions = SharedSessions(
            board,
            task.front_end,
            min(settings.server.max_sessions, settings.slots),
            closed_because=LOADING,
        )
        self.client = EngineClient(
            task.engine_socket,
            wait=lambda answer: pool.wait(answer) or wait_elsewhere(answer),
            on_up=self._engine_is_up,
            on_down=lambda: self.sessions.close(RESTARTING),
        )

    def _engine_is_up(self) -> None:
        if self.recognizer is not None and self.sessions.closed_because == RESTARTING:
            self.sessions.open()

    async def load(self) -> Recognizer:
        """Wait for the engine, then admit sessions; see `Agent.load`."""
        self._end_traces = await on_daemon_thread(partial(set_up, self.settings.tracing))
        if not self.settings.server.transcription_only:
            await on_daemon_thread(partial(rehearse, self.settings))
        await self.client.connect()
        self.recognizer = self.client
        if self.sessions.closed_because == LOADING:
            self.sessions.open()
        return self.client


def make_app(task: Task, agent: FrontEndAgent, board: Board, pool: LoopPool) -> FastAPI:
    """The app of this front-end."""
    assert task.front_end is not None
    server = task.settings.server
    access = SharedAccess(
        board,
        task.front_end,
        KeyFile(server.keys) if server.keys is not None else None,
        origins=server.allowed_origins,
        hosts=server.hosts,
    )
    api = Api(
        agent,
        access=access,
        metrics=SharedMetrics(board, lambda: agent.client.gpu_memory_bytes),
        # Whether the engine is stuck is the supervisor's to say; a new one takes a while to load.
        limits=StreamLimits(stuck_s=120.0),
        new_vad=pool.new_vad,
        pool=pool,
        new_token=partial(new_token, task.front_end),
    )
    app = _app(task.settings, agent, api)
    app.add_middleware(Handover, task=task, access=access)
    return app


def _app(settings: Settings, agent: Agent, api: Api) -> FastAPI:
    if settings.server.transcription_only:
        from voice_agent.server.transcription_app import create_transcription_app

        return create_transcription_app(agent, api=api)
    from voice_agent.server.app import create_app

    return create_app(agent, api=api)


async def _run(task: Task, control: Control) -> int:
    assert task.front_end is not None
    board = Board(task.board, task.front_ends)
    pool = LoopPool()
    agent = FrontEndAgent(task, board, pool)
    server = QuietServer(
        uvicorn.Config(make_app(task, agent, board, pool), **server_options(task.settings.server))
    )
    own = task.front_end_socket(task.front_end)
    own.unlink(missing_ok=True)  # noqa: ASYNC240 - of a front-end before this one
    beside = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    beside.bind(str(own))
    listening = [socket.socket(fileno=fd) for fd in task.listening]
    with signals() as received:
        serving = asyncio.create_task(server.serve(sockets=[*listening, beside]))
        told = asyncio.create_task(received.get())
        orphaned = asyncio.create_task(control.supervisor_gone())
        loading = asyncio.create_task(agent.load())
        beating = asyncio.create_task(_beat(control))
        ends = {serving, told, orphaned}
        try:
            await asyncio.wait({*ends, loading}, return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                loading.result()
                control.say(Ready({}))
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if told.done():
                await drain(agent, received, task.drain_s)
            elif orphaned.done():
                await agent.sessions.drain(_ORPHAN_DRAIN_S)
        finally:
            for each in (told, orphaned, loading, beating):
                each.cancel()
            server.should_exit = True
            await serving
            await agent.close()
    return 0


async def _beat(control: Control) -> None:
    while True:
        control.say(Beat())
        await asyncio.sleep(BEAT_EVERY_S)


def main() -> None:
    """Run the process."""
    from voice_agent.cli import logs
    from voice_agent.cli.errors import sentence

    task, control = task_and_control()
    log = task.settings.log
    logs.set_up(task.verbose, level=log.level, as_json=log.format == "json")
    sys.setswitchinterval(SWITCH_S)  # the VAD's thread must not keep the loop waiting for long
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a client is an open file
    try:
        factory = loop_factory(task.settings.server.event_loop)
        code = asyncio.Runner(loop_factory=factory).run(_run(task, control))
    except BaseException as error:
        told_as = sentence(error)
        control.say(Broken(told_as or repr(error), mendable=told_as is not None))
        if told_as is None:
            raise
        code = 2
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
