"""WebRTC calls: offers, late ICE candidates, and what the prebuilt page asks for first.

    POST  /api/offer                    an offer  -> answer and pc_id; a known pc_id renegotiates
    PATCH /api/offer                    more ICE candidates of a known pc_id
    POST  /start                        the prebuilt page's opening question
          /sessions/{id}/api/offer      where that page then sends its offers

`/start` and `/sessions/{id}` hold no state: a page that never calls leaves nothing behind.
"""

from __future__ import annotations

import uuid
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from loguru import logger
from pipecat.transports.base_transport import TransportParams
from pipecat.transports.smallwebrtc.connection import IceServer, SmallWebRTCConnection
from pipecat.transports.smallwebrtc.request_handler import (
    SmallWebRTCPatchRequest,
    SmallWebRTCRequest,
    SmallWebRTCRequestHandler,
)
from pipecat.transports.smallwebrtc.transport import SmallWebRTCTransport
from starlette.requests import HTTPConnection

from voice_agent.server.agent import Agent
from voice_agent.server.door import Door
from voice_agent.server.sessions import SESSION_HEADER, Session


class Offers:
    """Answers offers, one session for each new peer connection."""

    def __init__(self, agent: Agent, door: Door) -> None:
        """Answer offers for an agent.

        Args:
            agent: whom the callers talk to.
            door: admits them.
        """
        self._agent = agent
        self._door = door
        self._handler = SmallWebRTCRequestHandler(ice_servers=_ice_servers(agent) or None)
        self._calling: set[str] = set()  # pc_ids of calls that run

    async def answer(
        self, offer: SmallWebRTCRequest, caller: HTTPConnection
    ) -> tuple[dict[str, str], str | None]:
        """Answer an offer, or renegotiate a running call.

        Args:
            offer: SDP, and the pc_id of a call that is to be renegotiated.
            caller: who sent it.

        Returns:
            `sdp`, `type` and `pc_id`, and the id of the session that began, if one did.

        Raises:
            Turned: not allowed, loading, draining or full; decided before any other work.
            HTTPException: 400, an offer that cannot be used.
        """
        if offer.pc_id in self._calling:
            await self._door.check(caller)
            return await self._negotiate(offer, None), None
        session = await self._door.admit(caller, "webrtc")
        try:
            with session.logged():
                return await self._negotiate(offer, session), session.id
        except BaseException:
            session.release()
            raise

    async def _negotiate(
        self, offer: SmallWebRTCRequest, session: Session | None
    ) -> dict[str, str]:
        # The handler logs and swallows what its callback raises, so the outcome is kept here.
        opened: list[SmallWebRTCConnection] = []
        failed: list[Exception] = []

        async def on_connection(connection: SmallWebRTCConnection) -> None:
            opened.append(connection)
            try:
                if session is None:  # it ended while its client asked for a renegotiation
                    raise HTTPException(404, f"the call {offer.pc_id} is over")
                await self._begin(session, connection)
            except Exception as error:
                failed.append(error)

        if "m=audio" not in offer.sdp:  # what is no SDP at all, aiortc takes for an empty offer
            raise HTTPException(400, "the offer cannot be used: it has no audio (m=audio)")
        try:
            answer = await self._handler.handle_web_request(offer, on_connection)
        except HTTPException:
            raise
        except Exception as error:
            raise HTTPException(400, f"the offer cannot be used: {error}") from error
        if failed:
            await opened[0].disconnect()
            raise failed[0]
        assert answer is not None, "the handler raises where it has no answer"
        return answer

    async def _begin(self, session: Session, connection: SmallWebRTCConnection) -> None:
        transport = SmallWebRTCTransport(
            connection, TransportParams(audio_in_enabled=True, audio_out_enabled=True)
        )
        call = await self._agent.make_call(transport, session_id=session.id, connection=connection)
        pc_id = connection.pc_id
        self._calling.add(pc_id)
        task = self._agent.sessions.start(session, call)
        task.add_done_callback(lambda _: self._calling.discard(pc_id))

    async def add_candidates(self, patch: SmallWebRTCPatchRequest, caller: HTTPConnection) -> None:
        """Give a running call ICE candidates that its client found late.

        Args:
            patch: pc_id and candidates.
            caller: who sent them.

        Raises:
            Turned: not allowed.
            HTTPException: 404 for an unknown pc_id, 400 for a candidate that cannot be read.
        """
        await self._door.check(caller)
        try:
            await self._handler.handle_patch_request(patch)
        except HTTPException:
            raise
        except Exception as error:
            raise HTTPException(400, f"a candidate cannot be used: {error}") from error

    async def close(self) -> None:
        """Close connections that have no session any more."""
        await self._handler.close()


def routes(agent: Agent, door: Door, offers: Offers) -> APIRouter:
    """The routes of the module docstring.

    Args:
        agent: whom the callers talk to.
        door: admits them.
        offers: answers them.
    """
    router = APIRouter(tags=["webrtc"])

    @router.post("/api/offer")
    @router.post("/sessions/{session_id}/api/offer", include_in_schema=False)
    async def offer(
        body: SmallWebRTCRequest, request: Request, response: Response
    ) -> dict[str, str]:
        answer, session_id = await offers.answer(body, request)
        if session_id is not None:
            response.headers[SESSION_HEADER] = session_id
        return answer

    @router.patch("/api/offer")
    @router.patch("/sessions/{session_id}/api/offer", include_in_schema=False)
    async def candidates(body: SmallWebRTCPatchRequest, request: Request) -> dict[str, str]:
        await offers.add_candidates(body, request)
        return {"status": "success"}

    @router.post("/start", include_in_schema=False)
    async def start(request: Request) -> dict[str, Any]:
        await door.check(request)
        agent.sessions.check()
        try:
            wanted = (await request.json()).get("transport", "webrtc")
        except (ValueError, AttributeError) as error:
            raise HTTPException(400, "the body is a JSON object") from error
        if wanted == "webrtc":
            servers = [_ice_json(server) for server in _ice_servers(agent)]
            return {"sessionId": uuid.uuid4().hex, "iceConfig": {"iceServers": servers}}
        if wanted == "websocket":
            scheme = "wss" if request.url.scheme == "https" else "ws"
            return {"sessionId": uuid.uuid4().hex, "wsUrl": f"{scheme}://{request.url.netloc}/ws"}
        logger.info(f"a page asked for the transport {wanted!r}")
        raise HTTPException(400, f"transport {wanted!r} is not served; choose webrtc or websocket")

    return router


def _ice_servers(agent: Agent) -> list[IceServer]:
    return [
        IceServer(
            urls=server.urls,
            username=server.username,
            credential=server.credential.get_secret_value() if server.credential else None,
        )
        for server in agent.settings.server.ice_servers
    ]


def _ice_json(server: IceServer) -> dict[str, Any]:
    found = {
        "urls": server.urls,
        "username": server.username,
        "credential": server.credential,
    }
    return {key: value for key, value in found.items() if value is not None}
