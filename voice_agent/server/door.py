"""Who may talk to the agent: decided before any work, counted for as long as the call lasts."""

from __future__ import annotations

import time
from contextlib import ExitStack

from starlette.requests import HTTPConnection

from voice_agent.server.api import Api
from voice_agent.server.sessions import Session


class Door:
    """Admits clients of the agent by the rules of the transcription routes. Event loop only."""

    def __init__(self, api: Api) -> None:
        """Admit by these rules.

        Args:
            api: knows keys, origins and limits.
        """
        self._api = api

    async def check(self, connection: HTTPConnection) -> None:
        """Decide about a request that takes no session of its own.

        Raises:
            Turned: this client may not.
        """
        with self._api.turning():
            await self._api.access.check(connection)

    async def admit(self, connection: HTTPConnection, kind: str) -> Session:
        """Take one of the server's sessions, and one of the client's.

        Args:
            connection: who asks.
            kind: "webrtc" or "websocket", for logs.

        Returns:
            The session; its release gives both back, and counts its minutes.

        Raises:
            Turned: this client may not, or there is none.
        """
        client = await self._api.admit(connection)
        access = self._api.access
        with ExitStack() as held, self._api.turning():
            held.enter_context(access.session(client))
            session = self._api.agent.sessions.admit(kind)
            began = time.monotonic()
            session.when_over(lambda: access.heard(client, time.monotonic() - began))
            session.when_over(held.pop_all().close)
        return session
