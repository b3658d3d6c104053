"""A real uvicorn on port 0 with every transcription route, and a VAD that hears loudness."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI

from tests.support.scripted import ScriptedRecognizer
from voice_agent.config import Settings
from voice_agent.engine.recognizer import Recognizer
from voice_agent.server.agent import Agent
from voice_agent.server.api import Api
from voice_agent.server.transcription_routes import add_routes

RATE = 16_000


def loud_vad() -> Callable[[np.ndarray], float]:
    """A VAD for tests: what is loud is speech."""
    return lambda window: 1.0 if np.abs(window).mean() > 0.01 else 0.0


def speech(seconds: float, rate: int = RATE) -> np.ndarray:
    """Loud, int16 (n,)."""
    t = np.arange(round(seconds * rate)) / rate
    return (np.sin(2 * np.pi * 300 * t) * 12_000).astype(np.int16)


def silence(seconds: float, rate: int = RATE) -> np.ndarray:
    return np.zeros(round(seconds * rate), np.int16)


def pieces(pcm: np.ndarray, seconds: float = 0.08, rate: int = RATE) -> list[bytes]:
    size = round(seconds * rate)
    return [pcm[i : i + size].tobytes() for i in range(0, pcm.size, size)]


@dataclass
class Server:
    port: int
    api: Api
    recognizer: Any
    app: FastAPI

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def listen(self, **query: object) -> str:
        query = {"encoding": "linear16", "sample_rate": RATE, **query}
        return f"{self.ws}/v1/listen?" + "&".join(f"{k}={v}" for k, v in query.items())

    async def quiet(self) -> None:
        """Wait until no session and no slot is taken any more."""
        await eventually(
            lambda: not len(self.api.agent.sessions) and not getattr(self.recognizer, "streams", [])
        )


async def eventually(condition: Callable[[], bool], limit_s: float = 20.0) -> None:
    """Wait for what another thread or library brings about, which has no event to wait for."""
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(recognizer: Recognizer, **options: Any) -> AsyncIterator[Server]:
    options.setdefault("new_vad", loud_vad)
    max_sessions, stt = options.pop("max_sessions", 8), options.pop("stt", {})
    settings = {"server": {"max_sessions": max_sessions}, "stt": stt}
    agent = Agent(Settings.model_validate(settings))
    agent.recognizer = recognizer
    agent.sessions.open()
    api = Api(agent, **options)
    app = FastAPI()
    add_routes(app, api)
    async with running(app) as port:
        try:
            yield Server(port, api, recognizer, app)
        finally:
            await agent.sessions.drain(2.0)
    api.close()
    await agent.close()


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[int]:
    """Serve an app on a free port, which is yielded."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, ws_max_size=1 << 20))
    task = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


Serve = Callable[..., Awaitable[Server]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts servers that stop with the test."""
    async with AsyncExitStack() as stack:

        async def start(*scripts: Any, recognizer: Recognizer | None = None, **options: Any):
            slots = options.pop("slots", 8)
            recognizer = recognizer or ScriptedRecognizer(*scripts, slots=slots)
            return await stack.enter_async_context(serving(recognizer, **options))

        yield start
