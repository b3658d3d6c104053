"""The FastAPI app: every route of the server.

    POST, PATCH /api/offer    WebRTC (webrtc.py)
    WS          /ws           the agent over Pipecat's protobuf frames
    GET         /, /client/   our page, and Pipecat's prebuilt one (page.py)
    GET         /healthz      200 while the process answers
    GET         /readyz       200 while new sessions are admitted, else 503 with the reason
    ...         /v1, /metrics transcription without an agent (transcription_routes.py)

A refusal comes before any other work: HTTP 401, 403, 421 or 429 (access.py) for clients that may
not, 503 with Retry-After or websocket close 1013 where there is no session just now.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI, WebSocket
from fastapi.middleware.cors import CORSMiddleware
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport

import voice_agent
from voice_agent.engine.errors import EngineFull
from voice_agent.server import webrtc
from voice_agent.server.access import access_of, answer_to
from voice_agent.server.agent import Agent
from voice_agent.server.api import Api, Turned, deny
from voice_agent.server.calls import AgentSerializer
from voice_agent.server.door import Door
from voice_agent.server.health import add_health, refusal
from voice_agent.server.page import add_pages
from voice_agent.server.sessions import SESSION_HEADER, Session, session_header
from voice_agent.server.transcription_routes import add_routes

TRY_AGAIN_LATER = 1013
"""Websocket close code of a server that is overloaded or not ready (RFC 6455 registry)."""
INTERNAL_ERROR = 1011
_MAX_REASON_BYTES = 123  # RFC 6455, 5.5: control frames carry 125 bytes, two of them the code


def create_app(agent: Agent, *, api: Api | None = None) -> FastAPI:
    """Build the app for an agent. The agent is loaded, drained and closed by whoever serves it.

    Args:
        agent: whom the clients talk to.
        api: of the transcription routes; None for one by the agent's settings.

    Raises:
        KeysError: `server.keys` cannot be used.
    """
    transcription = api or Api(agent, access=access_of(agent.settings.server))
    agent.observers = transcription.metrics.call_observers
    door = Door(transcription)
    offers = webrtc.Offers(agent, door)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await offers.close()
        transcription.close()

    app = FastAPI(title="voice-agent", version=voice_agent.__version__, lifespan=lifespan)
    if origins := agent.settings.server.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST", "PATCH"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=[SESSION_HEADER],
        )
    app.include_router(webrtc.routes(agent, door, offers))
    add_routes(app, transcription)

    add_health(app, agent)

    @app.websocket("/ws")
    async def websocket(ws: WebSocket) -> None:
        await _talk(agent, door, ws)

    add_pages(app)
    return app


async def _talk(agent: Agent, door: Door, ws: WebSocket) -> None:
    """One client of /ws, from its handshake to its end."""
    try:
        session = await door.admit(ws, "websocket")
    except Turned as turned:
        if turned.status != 503:
            await deny(ws, refusal(turned))
            return
        await ws.accept()  # a close code can only be sent over an open websocket
        await _close(ws, TRY_AGAIN_LATER, str(turned))
        return
    with session.logged():
        await _converse(agent, session, ws)


async def _converse(agent: Agent, session: Session, ws: WebSocket) -> None:
    """An admitted client of /ws."""
    try:
        await ws.accept(subprotocol=answer_to(ws.headers), headers=[session_header(session.id)])
        transport = FastAPIWebsocketTransport(
            ws,
            FastAPIWebsocketParams(
                audio_in_enabled=True, audio_out_enabled=True, serializer=AgentSerializer(ws)
            ),
        )
        call = await agent.make_call(transport, session_id=session.id)
    except EngineFull as error:
        session.release()
        await _close(ws, TRY_AGAIN_LATER, str(error))
        return
    except BaseException:
        session.release()
        await _close(ws, INTERNAL_ERROR, "the agent could not be started")
        raise
    await agent.sessions.start(session, call)


async def _close(ws: WebSocket, code: int, reason: str) -> None:
    short = reason.encode()[:_MAX_REASON_BYTES].decode(errors="ignore")
    await ws.close(code, short)
