"""One conversation: a Pipecat worker on a transport, from its start to the last tidying up.

A call is over when its pipeline is: because the client left, because nobody spoke for
`server.idle_timeout_s`, because the recogniser failed for good, or because the server stops.
Whatever the reason, afterwards the connection is closed and no task of the call is left.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError
from loguru import logger
from pipecat.frames.frames import Frame
from pipecat.frames.protobufs import frames_pb2
from pipecat.serializers.protobuf import ProtobufFrameSerializer
from pipecat.transports.base_transport import BaseTransport
from pipecat.transports.smallwebrtc.connection import SmallWebRTCConnection
from pipecat.workers.runner import WorkerRunner

if TYPE_CHECKING:
    from fastapi import WebSocket
    from pipecat.pipeline.worker import PipelineWorker

MIN_RATE, MAX_RATE = 8_000, 192_000
"""Sample rates that a websocket client may send, in Hz."""


class AgentCall:
    """A worker on a transport. Implements `voice_agent.server.sessions.Call`."""

    def __init__(
        self,
        transport: BaseTransport,
        worker: PipelineWorker,
        *,
        connect_timeout_s: float,
        connection: SmallWebRTCConnection | None = None,
    ) -> None:
        """Prepare a call; nothing runs yet.

        Args:
            transport: where the client is.
            worker: the pipeline built on that transport; it cancels itself when the client
                leaves (`voice_agent.pipeline.build_worker`).
            connect_timeout_s: seconds that the client has to connect, after which its slot is
                somebody else's.
            connection: the WebRTC connection to close in the end; a websocket is closed by its
                transport.
        """
        self._worker = worker
        self._connect_timeout_s = connect_timeout_s
        self._connection = connection
        self._connected = asyncio.Event()

        @transport.event_handler("on_client_connected")
        async def on_client_connected(_transport: BaseTransport, _client: Any) -> None:
            self._connected.set()

    async def run(self) -> None:
        """Hold the conversation; see `Call.run`."""
        # The server answers signals, not one of its calls.
        runner = WorkerRunner(handle_sigint=False, handle_sigterm=False)
        watch = asyncio.create_task(self._cancel_unless_connected())
        try:
            await runner.add_workers(self._worker)
            await runner.run()
        finally:
            watch.cancel()
            if self._connection is not None:
                # The transport closes only a connection that was established.
                await self._connection.disconnect()

    async def end(self) -> None:
        """Let the agent finish its sentence and hang up; see `Call.end`."""
        await self._worker.stop_when_done()

    async def _cancel_unless_connected(self) -> None:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await self._connected.wait()
        except TimeoutError:
            logger.warning(f"nobody connected within {self._connect_timeout_s:g} s")
            await self._worker.cancel(reason="nobody connected")


class AgentSerializer(ProtobufFrameSerializer):
    """Pipecat's protobuf frames, of which a client may send audio and RTVI messages.

    The stock serializer also takes transcriptions and texts, with which a client could put words
    into the pipeline, and on a malformed message the transport stops without a word. Here the
    websocket is closed with code 1007 and one sentence, which ends the call.
    """

    def __init__(self, websocket: WebSocket) -> None:
        """Serialize for one client.

        Args:
            websocket: closed on the first message that cannot be used.
        """
        super().__init__()
        self._websocket = websocket

    async def deserialize(self, data: str | bytes) -> Frame | None:
        """Read one message of the client.

        Args:
            data: a serialized protobuf frame.

        Returns:
            The frame; None for a message that cannot be used, after closing the websocket.
        """
        fault = fault_of(data)
        if fault is None:
            return await super().deserialize(data)
        logger.warning(f"closing a websocket: {fault}")
        await self._websocket.close(1007, fault)
        return None


def fault_of(data: str | bytes) -> str | None:
    """What is wrong with a client's message, in a sentence; None if nothing is.

    Args:
        data: a serialized protobuf frame.
    """
    if isinstance(data, str):
        return "messages are binary protobuf frames, got text"
    try:
        frame = frames_pb2.Frame.FromString(data)  # type: ignore[attr-defined]  # made at import
    except DecodeError:
        return "not a protobuf frame of Pipecat"
    kind = frame.WhichOneof("frame")
    if kind == "message":
        return _fault_of_json(frame.message.data)
    if kind != "audio":
        return "a client sends audio and RTVI messages, nothing else"
    audio = frame.audio
    if not MIN_RATE <= audio.sample_rate <= MAX_RATE:
        return f"sample_rate is {MIN_RATE} to {MAX_RATE} Hz, got {audio.sample_rate}"
    if audio.num_channels not in (1, 2):
        return f"num_channels is 1 or 2, got {audio.num_channels}"
    if len(audio.audio) % (2 * audio.num_channels):
        return (
            f"{len(audio.audio)} bytes are no whole number of "
            f"{audio.num_channels}-channel 16-bit samples"
        )
    return None


def _fault_of_json(text: str) -> str | None:
    try:
        message = json.loads(text)
    except ValueError as error:
        return f"an RTVI message is JSON: {error}"
    return None if isinstance(message, dict) else "an RTVI message is a JSON object"
