"""Talk to a running agent over its websocket: play a recording, print captions, keep the reply.

    voice-agent serve &
    python examples/websocket_client.py speech.wav --reply reply.wav

Every message is one of Pipecat's protobuf frames: audio either way, and RTVI messages (JSON)
with captions and the agent's words. The recording is sent at the pace of speech, then silence,
as a microphone would, until the agent has answered.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import time
import uuid

import numpy as np
import soundfile
import websockets
from pipecat.frames.protobufs import frames_pb2

CHUNK_S = 0.04
QUIET_S = 1.5  # without a sound from the agent after its answer: it has finished


async def talk(url: str, file: str, reply: str | None = None, limit_s: float = 30.0) -> list[str]:
    """Play a recording to the agent at `url`; returns the finals that came back."""
    samples, rate = soundfile.read(file, dtype="int16", always_2d=True)
    mono = samples.mean(axis=1).astype(np.int16)
    finals: list[str] = []
    said: set[int] = set()  # ids of the agent's sentences
    heard: list[bytes] = []
    answered = asyncio.Event()  # each sound of the agent sets it again
    heard_rate = rate

    async def listen() -> None:
        nonlocal heard_rate
        async for message in websocket:
            frame = frames_pb2.Frame.FromString(message)
            match frame.WhichOneof("frame"):
                case "audio":
                    heard.append(frame.audio.audio)
                    heard_rate = frame.audio.sample_rate
                    if finals:
                        answered.set()
                case "message":
                    show(json.loads(frame.message.data), finals, said)

    async with websockets.connect(url, max_size=None) as websocket:
        listening = asyncio.create_task(listen())
        await websocket.send(client_ready())
        playing = asyncio.create_task(play(websocket, mono, rate))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(mono.size / rate + limit_s):
                await asyncio.sleep(mono.size / rate)
                await answered.wait()
                while answered.is_set():
                    answered.clear()
                    await asyncio.sleep(QUIET_S)
        playing.cancel()
        await websocket.close()
        await asyncio.gather(listening, playing, return_exceptions=True)
    if reply is not None and heard:
        soundfile.write(reply, np.frombuffer(b"".join(heard), np.int16), heard_rate)
    return finals


async def play(websocket: websockets.ClientConnection, pcm: np.ndarray, rate: int) -> None:
    """Send samples as they would be spoken, then silence for ever."""
    size = round(rate * CHUNK_S)
    began, sent = time.monotonic(), 0
    while True:
        chunk = pcm[sent : sent + size]
        chunk = np.pad(chunk, (0, size - chunk.size))
        sent += size
        frame = frames_pb2.Frame()
        frame.audio.audio = chunk.tobytes()
        frame.audio.sample_rate = rate
        frame.audio.num_channels = 1
        await websocket.send(frame.SerializeToString())
        await asyncio.sleep(max(0.0, began + sent / rate - time.monotonic()))


def client_ready() -> bytes:
    """The RTVI greeting, after which the agent sends captions."""
    frame = frames_pb2.Frame()
    frame.message.data = json.dumps(
        {
            "label": "rtvi-ai",
            "type": "client-ready",
            "id": uuid.uuid4().hex,
            "data": {"version": "2.2.0", "about": {"library": "websocket_client.py"}},
        }
    )
    return frame.SerializeToString()


def show(message: dict, finals: list[str], said: set[int]) -> None:
    """Print what was said by whom; a sentence of the agent is named again as it is spoken."""
    data = message.get("data") or {}
    match message["type"]:
        case "server-message" if data.get("type") == "caption" and data["final"]:
            finals.append(data["text"])
            print(f"you   {data['text']}  ({data['language']})")
        case "server-message" if data.get("type") == "caption":
            print("you   ...", data["text"])
        case "bot-output" if data["segment_id"] not in said:
            said.add(data["segment_id"])
            print("agent", data["text"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", help="a recording of speech")
    parser.add_argument("--url", default="ws://localhost:7860/ws")
    parser.add_argument("--reply", help="WAV file for what the agent says")
    args = parser.parse_args()
    asyncio.run(talk(args.url, args.file, args.reply))
