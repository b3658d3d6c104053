"""The recogniser on many GPUs or machines, by Ray Serve: a replica for each GPU.

    pip install 'voice-agent[ray]'
    serve run --app-dir examples ray_serve:app model=tiny-en slots=8 gpus=0
    serve deploy examples/ray_serve.yaml        # on a cluster

Clients use it as they use one server: /v1/listen, /v1/realtime, /v1/audio/transcriptions. A bot
elsewhere takes `NemotronSTTService(url="ws://HOST:8000")`. A stream goes to the replica that has
fewest and stays there; one without a free slot refuses it with 503 and Retry-After. Other settings
are the server's own, from the environment.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve import Application

from voice_agent.config import Settings, load_settings
from voice_agent.server.agent import Agent
from voice_agent.server.app import create_app
from voice_agent.server.watch import GONE_S

DRAIN_S = 60.0  # that streams have to end on a replica that goes
SPARE = 16  # requests that a replica takes beside its streams: Ray itself refuses no websocket well


class Options(BaseModel):
    """What `serve run` and the `args` of a configuration file may say."""

    model_config = ConfigDict(extra="forbid")

    model: str = "tiny-en"
    slots: int = 64  # streams of a replica
    replicas: int = 1
    gpus: float = 1.0  # of a replica; 0 computes on the CPU


def app(args: dict[str, Any]) -> Application:
    """What Ray Serve runs; `args` are `key=value` after its name on the command line."""
    options = Options(**args)
    settings = load_settings(
        overrides={
            "stt.model": options.model,
            "stt.device": "cuda" if options.gpus else "cpu",
            "server.max_sessions": options.slots,
        }
    )

    def build() -> FastAPI:
        return replica(settings)

    engine = serve.deployment(
        name="engine",
        num_replicas=options.replicas,
        max_ongoing_requests=options.slots + SPARE,
        graceful_shutdown_timeout_s=DRAIN_S,
        ray_actor_options={"num_gpus": options.gpus},
    )(serve.ingress(build)(Healthy))
    return engine.bind()


def replica(settings: Settings) -> FastAPI:
    """One replica's server: it is up once its model is read, and frees it when Ray stops it."""
    agent = Agent(settings)
    server = create_app(agent)
    inner = server.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await agent.load()
        async with inner(app):
            yield
        await agent.close()

    server.router.lifespan_context = lifespan
    server.state.agent = agent
    return server


class Healthy:
    """Lets Ray start another replica where the recogniser has died or is stuck."""

    def check_health(self) -> None:
        """Asked by Ray every few seconds.

        Raises:
            RuntimeError: the recogniser can serve nobody any more.
        """
        for part in self.app.state.agent.watched:  # `app`: of the class that `ingress` makes
            if part.died is not None or part.owes_s() > GONE_S:
                raise RuntimeError(f"{part.name} is dead or stuck: {part.died}")
