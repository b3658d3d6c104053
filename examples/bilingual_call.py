"""Call a running agent, speak English, then Kannada, and print what it made of either.

    VOICE_AGENT_GATE__ENABLED=true voice-agent serve &
    python examples/bilingual_call.py

Nobody presses anything: the agent's language gate tells the languages apart by ear, and the agent
answers in the one that it heard. The caller is a WebRTC peer as a browser is one, with espeak-ng
for a voice; captions, decisions and troubles of the gate come on the data channel, as RTVI server
messages.
"""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.request
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import soxr
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from voice_agent.demo.clip import CLIP_RATE
from voice_agent.demo.microphone import ClipTrack
from voice_agent.services.espeak_ng import espeak_ng

PHRASES = (
    ("en-us", "Good morning, I would like to book a table for two people this evening."),
    ("kn", "ಮಕ್ಕಳು ಶಾಲೆಗೆ ಹೋದರು, ನಾನು ಬೆಂಗಳೂರಿಗೆ ಹೋಗುತ್ತೇನೆ."),
    ("en-us", "Could you tell me when the next train to the city leaves from here?"),
)
PAUSE_S = 2.0

Message = dict[str, Any]


async def spoken(phrases: Sequence[tuple[str, str]]) -> np.ndarray:
    """The phrases with a pause after each: int16, 48 kHz mono, shape (n,)."""
    engine, pieces = espeak_ng(), []
    for voice, text in phrases:
        said = b"".join([piece async for piece in engine.speak(text, voice)])
        pcm = np.frombuffer(said, "<i2").astype(np.float32)
        pieces += [soxr.resample(pcm, engine.sample_rate, CLIP_RATE)]
        pieces += [np.zeros(round(PAUSE_S * CLIP_RATE), np.float32)]
    return np.concatenate(pieces).clip(-32768, 32767).astype(np.int16)


async def call(
    url: str,
    pcm: np.ndarray,
    finals: int,
    on_message: Callable[[Message], None] = lambda message: None,
    limit_s: float = 15.0,
) -> list[Message]:
    """Place one call and play the audio into it.

    Args:
        url: of the server.
        pcm: what the caller says: int16, 48 kHz mono, shape (n,).
        finals: the call is over once so many segments have been transcribed and answered.
        on_message: gets each server message as it comes.
        limit_s: seconds after the last sample in which that must have come about.

    Returns:
        All server messages, and the agent's sentences as {"type": "agent", "text": ...}, in order.
    """
    messages: list[Message] = []
    said: set[str] = set()
    ready, answered = asyncio.Event(), asyncio.Event()

    def on_data(raw: str | bytes) -> None:
        message = json.loads(raw)
        match message["type"]:
            case "bot-ready":
                ready.set()
            case "server-message":
                take(message["data"])
            case "bot-output" if message["data"]["segment_id"] not in said:
                said.add(message["data"]["segment_id"])
                take({"type": "agent", "text": message["data"]["text"]})

    def take(message: Message) -> None:
        messages.append(message)
        on_message(message)
        heard = sum(m["type"] == "caption" and m["final"] for m in messages)
        if message["type"] == "agent" and heard >= finals:
            answered.set()

    microphone = ClipTrack(pcm)
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    try:
        channel = peer.createDataChannel("rtvi")
        channel.on("message", on_data)
        channel.on("open", lambda: channel.send(json.dumps(hello())))
        peer.addTrack(microphone)
        await peer.setLocalDescription(await peer.createOffer())
        answer = await asyncio.to_thread(offer, url, peer.localDescription)
        await peer.setRemoteDescription(RTCSessionDescription(answer["sdp"], answer["type"]))
        async with asyncio.timeout(30):
            await ready.wait()
        microphone.play()
        await microphone.done.wait()
        async with asyncio.timeout(limit_s):
            await answered.wait()
    except TimeoutError:
        pass  # what did come is told
    finally:
        microphone.stop()
        await peer.close()
    return messages


def hello() -> Message:
    """What an RTVI client says first."""
    about = {"library": "bilingual_call", "platform": "aiortc"}
    data = {"version": "2.2.0", "about": about}
    return {"label": "rtvi-ai", "id": uuid.uuid4().hex, "type": "client-ready", "data": data}


def offer(url: str, local: RTCSessionDescription) -> Message:
    """Exchange session descriptions with the server."""
    body = json.dumps({"sdp": local.sdp, "type": local.type}).encode()
    request = urllib.request.Request(f"{url}/api/offer", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def show(message: Message) -> None:
    """Print a message as a line; partials overwrite each other on a terminal."""
    match message["type"]:
        case "caption":
            line = f"[{message['language'] or '??'}] {message['text']}"
            if message["final"]:
                print(f"{line:76}")
            else:  # the end of it, which fits a terminal's line and covers the one before
                print(f"{line[-76:]:76}", end="\r", flush=True)
        case "language":
            print(
                f"     taken for {message['language']} ({message['posterior']:.2f} after "
                f"{message['speech_s']:.1f} s, {message['reason']}): {message['recognizer']}"
            )
        case "agent":
            print(f"     agent: {message['text']}")
        case "gate_trouble":
            print(f"     {message['problem']}")


async def main(url: str) -> None:
    """Say the phrases to the agent at an address."""
    await call(url, await spoken(PHRASES), len(PHRASES), show)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:7860"))
