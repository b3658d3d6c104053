"""Every transcription route, added to an app.

    WS    /v1/listen                  Deepgram's streaming protocol (listen_ws.py)
    WS    /v1/realtime                OpenAI's realtime transcription (realtime_ws.py)
    POST  /v1/audio/transcriptions    OpenAI's file transcription (files.py)
    GET   /metrics                    Prometheus

Every one of them asks `Api` whether the client may, before any other work.
"""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware

from voice_agent.server import files, listen_ws, metrics, realtime_ws
from voice_agent.server.api import Api, Turned
from voice_agent.server.sessions import SESSION_HEADER


def add_routes(app: FastAPI, api: Api) -> None:
    """Serve transcription from this app.

    Args:
        app: whoever serves it calls `api.close()` at the end.
        api: what the routes share.
    """
    app.add_middleware(
        CORSMiddleware,
        allow_origins=api.access.origins,
        allow_methods=["GET", "POST", "PATCH"],
        allow_headers=["Authorization", "Content-Type"],
        expose_headers=[SESSION_HEADER],
    )
    app.include_router(listen_ws.routes(api))
    app.include_router(realtime_ws.routes(api))
    app.include_router(files.routes(api))

    @app.get("/metrics", tags=["operations"])
    async def scrape(request: Request) -> Response:
        try:
            with api.turning():
                await api.access.check(request)
        except Turned as turned:
            return Response(str(turned), turned.status, turned.headers)
        return Response(api.metrics.render(), media_type=metrics.CONTENT_TYPE)
