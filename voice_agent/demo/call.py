"""One WebRTC call as a browser would place it: an aiortc peer, Opus, RTVI on the data channel.

    offer ─► answer ─► client-ready ─► bot-ready ─► the clip at real-time pace ─► silence
    meanwhile: captions and the agent's words as messages, its voice as an audio track

The call ends when the agent has answered and fallen silent after the clip, or at a limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCDataChannel,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame

from voice_agent.demo.clip import CLIP_RATE, Clip
from voice_agent.demo.errors import DemoError
from voice_agent.demo.http import HttpError, ask
from voice_agent.demo.microphone import ClipTrack

RTVI_VERSION = "2.2.0"
CONNECT_LIMIT_S = 30.0
_LEAD_IN_S = 0.5  # silence before the clip, as somebody who takes a breath
_QUIET_S = 1.5  # after which the agent has said what it had to say
_VOICE_RMS = 0.005  # of full scale: above Opus' noise on silence, below any speech
_EARLY_S = 0.3  # by which the server may hold a phrase for ended before `Clip` does
_NEW_ONSET_S = 0.4  # silence after which the agent's voice counts as a new answer


@dataclass(frozen=True, slots=True)
class HeardFinal:
    """A segment that the server transcribed.

    Attributes:
        text: its words.
        language: BCP-47 code, where the server said.
        after_speech_s: from the end of the phrase to this message; None where no phrase had
            ended.
    """

    text: str
    language: str | None
    after_speech_s: float | None


@dataclass
class Heard:
    """What came of a call.

    Attributes:
        partials: how many captions came before their final.
        finals: in order.
        said: the agent's sentences.
        voice_to_voice_s: for each answer, from the end of speech to the agent's voice.
        reply: the agent's voice, int16 48 kHz mono, from its first sound on.
        voiced_s: how much of `reply` is not silence.
    """

    partials: int = 0
    finals: list[HeardFinal] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    voice_to_voice_s: list[float] = field(default_factory=list)
    reply: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int16))
    voiced_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Listener:
    """What a caller wants to be told while the call runs.

    Attributes:
        on_connected: the agent is ready.
        on_partial: the current segment so far.
        on_final: a segment is done.
        on_said: a sentence that the agent begins to say.
        on_voice: the agent's voice begins, with the seconds since the end of speech.
    """

    on_connected: Callable[[], None] = lambda: None
    on_partial: Callable[[str], None] = lambda text: None
    on_final: Callable[[HeardFinal], None] = lambda final: None
    on_said: Callable[[str], None] = lambda text: None
    on_voice: Callable[[float], None] = lambda seconds: None


async def place_call(
    url: str, clip: Clip, listener: Listener | None = None, *, answer_limit_s: float = 20.0
) -> Heard:
    """Place one call and wait for the answer.

    Args:
        url: of the server, e.g. "http://127.0.0.1:7860".
        clip: what is said.
        listener: is told as it happens.
        answer_limit_s: seconds after the clip in which the agent must have answered.

    Returns:
        What was heard, whether it is what was hoped for or not.

    Raises:
        DemoError: no connection, or the agent never got ready.
    """
    call = _Call(clip, listener or Listener())
    try:
        async with asyncio.timeout(CONNECT_LIMIT_S):
            await call.connect(url)
    except TimeoutError:
        await call.hang_up()
        raise DemoError(f"no agent answered on {url} within {CONNECT_LIMIT_S:.0f} s") from None
    except BaseException:
        await call.hang_up()
        raise
    try:
        await call.talk(answer_limit_s)
    finally:
        await call.hang_up()
    return call.result()


class _Call:
    def __init__(self, clip: Clip, listener: Listener) -> None:
        self._clip = clip
        self._tell = listener
        self._heard = Heard()
        self._mic = ClipTrack(clip.pcm)
        # aiortc would ask a public STUN server by default.
        self._pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._ready = asyncio.Event()
        self._lost = asyncio.Event()
        self._answered = asyncio.Event()
        self._quiet_timer: asyncio.TimerHandle | None = None  # runs since the last voice
        self._said_ids: set[int] = set()
        self._recording: list[np.ndarray] = []
        self._recorder: asyncio.Task[None] | None = None
        self._last_voice = float("-inf")
        self._last_final = float("-inf")

    async def connect(self, url: str) -> None:
        """Offer, answer, handshake."""
        channel = self._pc.createDataChannel("rtvi")
        channel.on("open", lambda: _send(channel, "client-ready", _ABOUT))
        channel.on("message", self._on_message)
        self._pc.on("track", self._on_track)
        self._pc.on("connectionstatechange", self._on_state)
        self._pc.addTrack(self._mic)
        await self._pc.setLocalDescription(await self._pc.createOffer())
        answer = await self._offer(f"{url}/api/offer")
        await self._pc.setRemoteDescription(
            RTCSessionDescription(sdp=answer["sdp"], type=answer["type"])
        )
        await self._either(self._ready, self._lost)
        if not self._ready.is_set():
            raise DemoError("the connection to the server broke before the agent was ready")
        self._tell.on_connected()

    async def _offer(self, url: str) -> dict[str, Any]:
        local = self._pc.localDescription
        offer = {"sdp": local.sdp, "type": local.type}
        try:
            return await asyncio.to_thread(ask, url, offer, limit_s=CONNECT_LIMIT_S)
        except HttpError as error:
            if error.status is None:
                raise DemoError(str(error)) from error
            raise DemoError(f"the server refused the call ({error.status}): {error}") from error

    async def talk(self, answer_limit_s: float) -> None:
        """Play the clip and wait until the agent has answered and is silent."""
        await asyncio.sleep(_LEAD_IN_S)
        self._mic.play()
        await self._either(self._mic.done, self._lost)
        if self._quiet_timer is None:
            self._on_quiet()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(answer_limit_s):
                await self._either(self._answered, self._lost)

    async def hang_up(self) -> None:
        """Close the connection. Idempotent."""
        if self._recorder is not None:
            self._recorder.cancel()
        if self._quiet_timer is not None:
            self._quiet_timer.cancel()
        self._mic.stop()
        await self._pc.close()

    def result(self) -> Heard:
        """What was heard, with the reply cut to where it begins."""
        blocks = self._recording
        voiced = [i for i, block in enumerate(blocks) if _is_voice(block)]
        if voiced:
            self._heard.reply = np.concatenate(blocks[voiced[0] :])
            self._heard.voiced_s = sum(blocks[i].size for i in voiced) / CLIP_RATE
        return self._heard

    async def _either(self, *events: asyncio.Event) -> None:
        """Wait for one of several events."""
        waits = [asyncio.create_task(event.wait()) for event in events]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _on_state(self) -> None:
        if self._pc.connectionState in ("failed", "closed"):
            self._lost.set()

    def _on_track(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio":
            self._recorder = asyncio.create_task(self._record(track))

    async def _record(self, track: MediaStreamTrack) -> None:
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            assert isinstance(frame, AudioFrame)
            samples = frame.to_ndarray().reshape(-1, len(frame.layout.channels))
            block = samples.astype(np.int32).mean(axis=1).astype(np.int16)
            self._recording.append(block)
            if _is_voice(block):
                self._on_voice()

    def _on_voice(self) -> None:
        now = time.monotonic()
        if now - self._last_voice > _NEW_ONSET_S:
            since = self._since_speech(now)
            if since is not None:
                self._heard.voice_to_voice_s.append(since)
                self._tell.on_voice(since)
        self._last_voice = now
        if self._quiet_timer is not None:
            self._quiet_timer.cancel()
        self._quiet_timer = asyncio.get_running_loop().call_later(_QUIET_S, self._on_quiet)

    def _on_quiet(self) -> None:
        """The agent is silent: was that its answer to the whole clip?"""
        self._quiet_timer = None
        if self._mic.done.is_set() and self._last_voice > self._last_final > self._all_said_at():
            self._answered.set()

    def _all_said_at(self) -> float:
        """When a final may be that of the clip's last phrase, on the clock of `monotonic`."""
        ends = self._clip.speech_ends_s
        if self._mic.started_at is None or not ends:
            return float("-inf")
        return self._mic.started_at + ends[-1] - _EARLY_S

    def _on_message(self, raw: str | bytes) -> None:
        message = json.loads(raw)
        if message.get("label") != "rtvi-ai":
            return
        data = message.get("data") or {}
        match message["type"]:
            case "bot-ready":
                self._ready.set()
            case "server-message" if data.get("type") == "caption":
                self._on_caption(data)
            case "bot-output" if data["segment_id"] not in self._said_ids:
                # The first message of a sentence; those of its progress follow.
                self._said_ids.add(data["segment_id"])
                self._heard.said.append(data["text"])
                self._tell.on_said(data["text"])

    def _on_caption(self, data: dict[str, Any]) -> None:
        text = data["text"]
        if not data["final"]:
            self._heard.partials += 1
            self._tell.on_partial(text)
            return
        now = time.monotonic()
        final = HeardFinal(text, data.get("language"), self._since_speech(now))
        self._last_final = now
        self._heard.finals.append(final)
        self._tell.on_final(final)

    def _since_speech(self, now: float) -> float | None:
        """Seconds since the last end of a phrase was sent."""
        began = self._mic.started_at
        end = None if began is None else self._clip.speech_end_before(now - began)
        return None if began is None or end is None else now - began - end


_ABOUT = {
    "version": RTVI_VERSION,
    "about": {"library": "voice-agent demo", "platform": "aiortc"},
}


def _send(channel: RTCDataChannel, kind: str, data: dict[str, Any]) -> None:
    message = {"label": "rtvi-ai", "id": uuid.uuid4().hex, "type": kind, "data": data}
    channel.send(json.dumps(message))


def _is_voice(block: np.ndarray) -> bool:
    rms = float(np.sqrt(np.mean(np.square(block.astype(np.float64)))))
    return rms > _VOICE_RMS * 32768.0
