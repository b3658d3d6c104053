"""Whether the server is alive and ready, and what it says to those whom it does not serve.

GET /healthz    200 while the process answers
GET /readyz     200 while new sessions are admitted, else 503 with the reason
"""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from voice_agent.engine.errors import EngineFull
from voice_agent.server.agent import Agent
from voice_agent.server.api import Turned
from voice_agent.server.sessions import Refused


def add_health(app: FastAPI, agent: Agent) -> None:
    """Add the routes of the module docstring, and answers for clients that are turned away."""

    @app.exception_handler(Refused)
    async def refused(_request: Request, error: Refused) -> JSONResponse:
        headers = {"Retry-After": str(error.retry_after_s)}
        return JSONResponse({"detail": str(error)}, status_code=503, headers=headers)

    @app.exception_handler(Turned)
    async def turned(_request: Request, error: Turned) -> JSONResponse:
        return refusal(error)

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


def refusal(turned: Turned) -> JSONResponse:
    """The answer to a client that is turned away."""
    return JSONResponse({"detail": str(turned)}, turned.status, turned.headers)
