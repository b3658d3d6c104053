"""Serve until told to stop: the address, the model, the signals, the exit code.

    bind           before the model is read (listening.py)
    listen         /healthz answers; /readyz and every offer say 503 "the model is loading"
    load           on a worker thread
    ready          the address is announced, sessions are admitted
    SIGTERM        nobody new, sessions end within a limit, exit code 0
    SIGINT         the same, exit code 130; a second signal cuts everything off
    gone           the recogniser has died or is stuck (watch.py): sessions are told, and the
                   process ends with an error, exit code 70 where it is stuck

One thread, one event loop; the recogniser's own thread does the computing.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from typing import NoReturn

import uvicorn
from fastapi import FastAPI
from loguru import logger

from voice_agent.config import Settings
from voice_agent.engine.recognizer import Recognizer
from voice_agent.recognizers import load_recognizer
from voice_agent.server.agent import DRAIN_S, Agent, Load
from voice_agent.server.listening import (
    QuietServer,
    drain,
    loop_factory,
    server_options,
    signals,
)
from voice_agent.server.watch import Gone, gone

EXIT_INTERRUPTED = 130
EXIT_STUCK = 70

_GONE_DRAIN_S = 1.0  # what sessions of a recogniser that is gone have to be told


def serve(
    settings: Settings,
    sock: socket.socket,
    *,
    on_ready: Callable[[Recognizer], None],
    load: Load = load_recognizer,
    drain_s: float = DRAIN_S,
) -> int:
    """Serve until a signal or a failure to load. Blocks; call it on the main thread.

    Args:
        settings: of the whole agent.
        sock: a listening socket, from `bind` or inherited.
        on_ready: called once, when sessions are admitted.
        load: reads the weights.
        drain_s: seconds that sessions have to end after the first signal.

    Returns:
        The exit code: 0 after SIGTERM, 130 after SIGINT.

    Raises:
        EngineError: a model that cannot be used.
        Gone: the recogniser has died.
        ConfigError: a certificate, or an event loop, that cannot be used.
    """
    with asyncio.Runner(loop_factory=loop_factory(settings.server.event_loop)) as runner:
        return runner.run(_serve(Agent(settings, load=load), sock, on_ready, drain_s))


async def _serve(
    agent: Agent, sock: socket.socket, on_ready: Callable[[Recognizer], None], drain_s: float
) -> int:
    options = server_options(agent.settings.server)
    server = QuietServer(uvicorn.Config(_app(agent), **options))
    with signals() as received:
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        told = asyncio.create_task(received.get())
        loading = asyncio.create_task(agent.load())
        try:
            await asyncio.wait({serving, told, loading}, return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                on_ready(loading.result())
                watching = asyncio.create_task(gone(agent.watched, agent.sessions))
                await asyncio.wait({serving, told, watching}, return_when=asyncio.FIRST_COMPLETED)
                if watching.done():
                    await _give_up(agent, watching.result())
                watching.cancel()
            interrupted = told.done() and told.result() == signal.SIGINT
            if told.done():
                await drain(agent, received, drain_s)
        finally:
            told.cancel()
            loading.cancel()
            server.should_exit = True
            await serving
            await agent.close()
        return EXIT_INTERRUPTED if interrupted else 0


def _app(agent: Agent) -> FastAPI:
    if agent.settings.server.transcription_only:
        from voice_agent.server.transcription_app import create_transcription_app

        return create_transcription_app(agent)
    from voice_agent.server.app import create_app  # which imports Pipecat

    return create_app(agent)


async def _give_up(agent: Agent, gone: Gone) -> NoReturn:
    """Tell every session, then end the process, or raise what ends it.

    Raises:
        Gone: the recogniser's thread has ended, so the process can end like any other.
    """
    await agent.sessions.drain(_GONE_DRAIN_S, str(gone))
    if gone.stuck:
        logger.critical(str(gone))
        os._exit(EXIT_STUCK)  # an exit waits for every thread
    raise gone
