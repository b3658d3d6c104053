"""The FastAPI app: every route of the server.

    POST, PATCH /api/offer    WebRTC (webrtc.py)
    WS          /ws           the agent over Pipecat's protobuf frames
    GET         /client/      Pipecat's prebuilt page; / leads there
    GET         /healthz      200 while the process answers
    GET         /readyz       200 while new sessions are admitted, else 503 with the reason
    ...         /v1, /metrics transcription without an agent (transcription_routes.py)

A refusal is HTTP 503 with Retry-After, or websocket close 1013, before any other work.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import JSONResponse, RedirectResponse
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport

import voice_agent
from voice_agent.engine.errors import EngineFull
from voice_agent.server import webrtc
from voice_agent.server.agent import Agent
from voice_agent.server.api import Api
from voice_agent.server.calls import AgentSerializer
from voice_agent.server.page import prebuilt_page
from voice_agent.server.sessions import Refused
from voice_agent.server.transcription_routes import add_routes

TRY_AGAIN_LATER = 1013
"""Websocket close code of a server that is overloaded or not ready (RFC 6455 registry)."""
INTERNAL_ERROR = 1011
_MAX_REASON_BYTES = 123  # RFC 6455, 5.5: control frames carry 125 bytes, two of them the code


def create_app(agent: Agent, *, api: Api | None = None) -> FastAPI:
    """Build the app for an agent. The agent is loaded, drained and closed by whoever serves it.

    Args:
        agent: whom the clients talk to.
        api: of the transcription routes; None for one that serves this machine alone.
    """
    offers = webrtc.Offers(agent)
    transcription = api or Api(agent)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await offers.close()
        transcription.close()

    app = FastAPI(title="voice-agent", version=voice_agent.__version__, lifespan=lifespan)
    app.include_router(webrtc.routes(agent, offers))
    add_routes(app, transcription)

    @app.exception_handler(Refused)
    async def refused(_request: Request, error: Refused) -> JSONResponse:
        headers = {"Retry-After": str(error.retry_after_s)}
        return JSONResponse({"detail": str(error)}, status_code=503, headers=headers)

    @app.exception_handler(EngineFull)
    async def engine_full(request: Request, error: EngineFull) -> JSONResponse:
        return await refused(request, Refused("the recogniser is full", error.retry_after_s))

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        sessions = {"active": len(agent.sessions), "limit": agent.sessions.limit}
        if agent.sessions.closed_because is not None:
            body = {"status": agent.sessions.closed_because, "sessions": sessions}
            return JSONResponse(body, status_code=503)
        model = agent.recognizer.name if agent.recognizer is not None else None
        return JSONResponse({"status": "ready", "model": model, "sessions": sessions})

    @app.websocket("/ws")
    async def websocket(ws: WebSocket) -> None:
        await _talk(agent, ws)

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("/client/")

    app.mount("/client", prebuilt_page())
    return app


async def _talk(agent: Agent, ws: WebSocket) -> None:
    """One client of /ws, from its handshake to its end."""
    await ws.accept()  # a close code can only be sent over an open websocket
    try:
        session = agent.sessions.admit("websocket")
    except Refused as refusal:
        await _close(ws, TRY_AGAIN_LATER, str(refusal))
        return
    try:
        transport = FastAPIWebsocketTransport(
            ws,
            FastAPIWebsocketParams(
                audio_in_enabled=True, audio_out_enabled=True, serializer=AgentSerializer(ws)
            ),
        )
        call = await agent.make_call(transport)
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
