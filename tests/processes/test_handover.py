"""A connection that is carried to another front-end ends on either side as it did on the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import websockets
from fastapi import FastAPI
from websockets.asyncio.server import ServerConnection, unix_serve
from websockets.exceptions import ConnectionClosed

from tests.support.serving import running
from voice_agent.config import Settings
from voice_agent.processes.control import Task
from voice_agent.processes.handover import Handover
from voice_agent.server.access import Access


@asynccontextmanager
async def carried(
    folder: Path,
) -> AsyncIterator[tuple[websockets.ClientConnection, ServerConnection, list[str]]]:
    """A client, its connection's other end at the front-end that owns it, and what was raised."""
    arrived: asyncio.Queue[ServerConnection] = asyncio.Queue()
    raised: list[str] = []

    async def own(there: ServerConnection) -> None:
        arrived.put_nowait(there)
        await there.wait_closed()

    task = Task(Settings(), folder, 0, 2, (), "", 1.0, False)
    handover = Handover(FastAPI(), task, Access())

    async def app(scope, receive, send) -> None:
        try:
            await handover(scope, receive, send)
        except Exception as error:
            raised.append(repr(error))
            raise

    async with unix_serve(own, str(task.front_end_socket(1))), running(app) as port:
        url = f"ws://127.0.0.1:{port}/v1/listen?resume=1-secret"
        async with websockets.connect(url, compression=None) as ws:
            yield ws, await arrived.get(), raised


@pytest.mark.parametrize(
    ("hang_up", "told"),
    [
        (lambda ws: ws.close(1000), 1000),
        (lambda ws: ws.close(1001), 1001),
        (lambda ws: ws.close(4000), 1001),
        (lambda ws: asyncio.sleep(0, ws.transport.abort()), 1001),
    ],
    ids=["done", "going away", "a code of its own", "lost"],
)
async def test_the_owner_is_told_whether_the_client_is_done(
    tmp_path: Path, hang_up: Callable, told: int
) -> None:
    async with carried(tmp_path) as (ws, there, raised):
        await ws.send(b"audio")
        await hang_up(ws)
        assert await there.recv() == b"audio"
        await there.wait_closed()
        assert there.close_code == told
    assert not raised


@pytest.mark.parametrize(("code", "told"), [(1000, 1000), (4001, 4001), (None, 1011)])
async def test_the_client_is_told_how_its_session_went(
    tmp_path: Path, code: int | None, told: int
) -> None:
    async with carried(tmp_path) as (ws, there, raised):
        await there.send("a final")
        assert await ws.recv() == "a final"
        if code is None:
            there.transport.abort()  # its process has died
        else:
            await there.close(code)
        with pytest.raises(ConnectionClosed):
            await ws.recv()
        assert ws.close_code == told
    assert not raised
