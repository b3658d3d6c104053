"""The FastAPI app of a server that only transcribes: nothing of Pipecat is imported.

/v1, /metrics    transcription (transcription_routes.py)
/healthz, /readyz
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI

import voice_agent
from voice_agent.server.access import access_of
from voice_agent.server.agent import Agent
from voice_agent.server.api import Api
from voice_agent.server.health import add_health
from voice_agent.server.transcription_routes import add_routes


def create_transcription_app(agent: Agent, *, api: Api | None = None) -> FastAPI:
    """Build the app; see `voice_agent.server.app.create_app`.

    Args:
        agent: its recogniser and sessions.
        api: of the transcription routes; None for one by the agent's settings.

    Raises:
        KeysError: `server.keys` cannot be used.
    """
    transcription = api or Api(agent, access=access_of(agent.settings.server))

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        transcription.close()

    app = FastAPI(title="voice-agent", version=voice_agent.__version__, lifespan=lifespan)
    add_routes(app, transcription)
    add_health(app, agent)
    return app
