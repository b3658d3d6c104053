"""A client that comes back with its token meets whichever front-end the kernel chose for it.

A token begins with the number of the front-end that has the session: `3-Vq9...`. A front-end that
meets another's token carries the connection's messages to that one, over its Unix socket, for as
long as it lasts: a copy of each message, for the few clients that lose their connection and come
back elsewhere. One whose front-end has been started again since is answered as any unknown token.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from typing import Any
from urllib.parse import parse_qs

from loguru import logger
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from voice_agent.processes.control import Task
from voice_agent.server.access import Access, Denied, answer_to, subprotocols
from voice_agent.server.socketless import CLOSED, SERVER_FAILED
from voice_agent.server.stream_call import GOING_AWAY

_TOKEN = re.compile(r"(\d{1,4})-[\w-]+")
_CONNECT_S = 5.0
_UNSAID = (1005, 1006, 1015)  # RFC 6455, 7.4.1: said of a close without a code, or without a frame
# What belongs to the client's own handshake; ours has its own.
_HOP = ("connection", "upgrade", "host", "content-length", "transfer-encoding")


def new_token(front_end: int) -> str:
    """A secret for a session of this front-end."""
    return f"{front_end}-{secrets.token_urlsafe(32)}"


def owner_of(scope: Scope) -> int | None:
    """The front-end that a websocket's token names; None where there is no such token."""
    if scope["type"] != "websocket":
        return None
    tokens = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("resume", [""])
    match = _TOKEN.fullmatch(tokens[0])
    return int(match.group(1)) if match else None


class Handover:
    """ASGI middleware; see the module docstring."""

    def __init__(self, app: ASGIApp, task: Task, access: Access) -> None:
        """Stand before an app.

        Args:
            app: of this front-end.
            task: of this process.
            access: who may come in.
        """
        self._app = app
        self._task = task
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection, here or there."""
        owner = owner_of(scope)
        elsewhere = owner is not None and owner != self._task.front_end
        if owner is None or not elsewhere or owner >= self._task.front_ends:
            await self._app(scope, receive, send)
            return
        ws = WebSocket(scope, receive, send)
        try:
            # There the peer is this front-end, on this machine: whether the client may come in
            # from where it is can be told only here.
            await self._access.check(ws)
        except Denied:
            await self._app(scope, receive, send)  # which answers in its own words
            return
        await self._carry(ws, owner)

    async def _carry(self, ws: WebSocket, owner: int) -> None:
        path = str(self._task.front_end_socket(owner))
        headers = [
            (name, value)
            for name, value in ws.headers.items()
            if name not in _HOP and not name.startswith("sec-websocket-")
        ]
        host = ws.headers.get("host", "localhost")
        try:
            there = await unix_connect(
                path,
                f"ws://{host}{ws.url.path}?{ws.url.query}",
                additional_headers=headers,
                subprotocols=subprotocols(ws.headers) or None,
                compression=None,
                open_timeout=_CONNECT_S,
                user_agent_header=None,
                max_size=None,
            )
        except InvalidStatus as error:
            answer = error.response
            kept = {
                name: value
                for name, value in answer.headers.raw_items()
                if name.lower() not in (*_HOP, "date", "server")
            }
            body = bytes(answer.body or b"")
            await ws.send_denial_response(Response(body, answer.status_code, kept))
            return
        except (OSError, TimeoutError) as error:
            logger.warning(f"front-end {owner} cannot be reached: {error!r}")
            text = "the process that has this session is not there just now; try again"
            await ws.send_denial_response(Response(text, 503, {"Retry-After": "1"}))
            return
        async with there:
            await ws.accept(answer_to(ws.headers), headers=_greeting(there))
            back = asyncio.create_task(_back(there, ws))
            try:
                await _forth(ws, there)
            finally:
                await asyncio.wait({back}, timeout=_CONNECT_S)
                back.cancel()


def _greeting(there: ClientConnection) -> list[tuple[bytes, bytes]]:
    """Headers of its answer that the client is to see."""
    assert there.response is not None
    shown = there.response.headers.raw_items()
    return [(k.encode(), v.encode()) for k, v in shown if k.lower().startswith(("dg-", "x-"))]


async def _forth(ws: WebSocket, there: ClientConnection) -> None:
    """Carry the client's messages, until it has hung up or there is nobody to take them."""
    with contextlib.suppress(ConnectionClosed, WebSocketDisconnect, RuntimeError):
        while True:
            message: Any = await ws.receive()
            if message["type"] == "websocket.disconnect":
                # Only 1000 says that the client is done. What else became of it cannot always be
                # said in a close frame: that its connection was lost, for one.
                done = message.get("code") == CLOSED
                await there.close(CLOSED if done else GOING_AWAY)
                return
            data = message.get("bytes")
            await there.send(data if data is not None else message.get("text", ""))


async def _back(there: ClientConnection, ws: WebSocket) -> None:
    """Carry its messages to the client, then close as it did."""
    with contextlib.suppress(ConnectionClosed):
        async for message in there:
            if isinstance(message, str):
                await ws.send_text(message)
            else:
                await ws.send_bytes(message)
    code = there.close_code
    if code is None or code in _UNSAID:
        code = SERVER_FAILED
    with contextlib.suppress(Exception):  # the client has hung up already
        await ws.close(code, there.close_reason or "")
