"""A Pipecat transport without a network: the caller's side is a Python object.

Its input and output are Pipecat's own base classes, so audio is paced, interrupted and announced
as on any other transport; what would be sent to a client is kept in `heard` and `messages`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
from pipecat.frames.frames import (
    InputAudioRawFrame,
    OutputAudioRawFrame,
    OutputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
    StartFrame,
)
from pipecat.transports.base_input import BaseInputTransport
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import BaseTransport, TransportParams

PIECE_S = 0.02


class _Input(BaseInputTransport):
    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        await self.set_transport_ready(frame)


class _Output(BaseOutputTransport):
    def __init__(self, params: TransportParams, wire: Wire) -> None:
        super().__init__(params)
        self._wire = wire

    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        await self.set_transport_ready(frame)

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        self._wire.heard.append(np.frombuffer(frame.audio, np.int16))
        self._wire.rate = frame.sample_rate
        self._wire.news.set()
        await asyncio.sleep(frame.num_frames / frame.sample_rate)
        return True

    async def send_message(
        self, frame: OutputTransportMessageFrame | OutputTransportMessageUrgentFrame
    ) -> None:
        self._wire.messages.append(frame.message)
        self._wire.news.set()


class Wire(BaseTransport):
    """The transport, and the caller at its other end.

    Attributes:
        heard: what the agent said, int16, in pieces.
        messages: RTVI messages, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        # The base pads the end with seconds of silence, for telephones.
        params = TransportParams(
            audio_in_enabled=True, audio_out_enabled=True, audio_out_end_silence_secs=0
        )
        self.heard: list[np.ndarray] = []
        self.rate = 0
        self.messages: list[Any] = []
        self.news = asyncio.Event()  # a message, or 40 ms of voice or silence
        self._input, self._output = _Input(params), _Output(params, self)
        self._register_event_handler("on_client_connected")
        self._register_event_handler("on_client_disconnected")

    def input(self) -> BaseInputTransport:
        return self._input

    def output(self) -> BaseOutputTransport:
        return self._output

    async def connect(self) -> None:
        await self._call_event_handler("on_client_connected", "caller")

    async def disconnect(self) -> None:
        await self._call_event_handler("on_client_disconnected", "caller")

    async def say(self, pcm: np.ndarray, rate: int = 16_000) -> None:
        """Speak, int16 (n,), in pieces of 20 ms at real-time pace."""
        step = round(rate * PIECE_S)
        loop = asyncio.get_running_loop()
        due = loop.time()
        for at in range(0, pcm.size, step):
            piece = pcm[at : at + step].tobytes()
            await self._input.push_audio_frame(InputAudioRawFrame(piece, rate, 1))
            due += PIECE_S
            await asyncio.sleep(max(0.0, due - loop.time()))

    def voice_s(self) -> float:
        """Seconds of the agent's voice so far, without silence."""
        loud = [piece.size for piece in self.heard if np.abs(piece.astype(int)).max() > 300]
        return sum(loud) / self.rate if loud else 0.0

    def told(self, kind: str, **data: Any) -> list[dict[str, Any]]:
        """The data of the RTVI messages of a kind, of those that carry these values."""
        found = [m.get("data", {}) for m in self.messages if m["type"] == kind]
        return [d for d in found if all(d.get(k) == v for k, v in data.items())]

    async def until(self, condition: Callable[[], Any], limit_s: float = 20.0) -> None:
        """Wait until something holds that a message, or the agent's voice, brings about."""
        async with asyncio.timeout(limit_s):
            while not condition():
                self.news.clear()
                await self.news.wait()
