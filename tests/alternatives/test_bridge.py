"""Pipecat's services as recognisers, against servers that speak the vendors' protocols."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from websockets.asyncio.server import serve

from tests.support.collect import Collector
from voice_agent.alternatives import Choice, load, service
from voice_agent.engine.recognizer import Failed, StreamOptions


@contextmanager
def vendor(talk):
    """A websocket server; yields its address and the list of connections that it had."""
    had, ready, stop = [], threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()
    address = []

    async def handler(socket):
        had.append(socket.request)
        await talk(socket)

    async def main():
        async with serve(handler, "127.0.0.1", 0) as server:
            address.append(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield address[0], had
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


async def deepgram(socket):
    """`/v1/listen`: interim results, and a final that answers Finalize."""

    def results(text, *, final):
        best = {"transcript": text, "confidence": 0.9, "words": []}
        return json.dumps({
            "type": "Results", "channel_index": [0, 1], "duration": 1.0, "start": 0.0,
            "is_final": final, "speech_final": final, "from_finalize": final,
            "channel": {"alternatives": [best]},
            "metadata": {"request_id": "1", "model_uuid": "1",
                         "model_info": {"name": "x", "version": "1", "arch": "x"}},
        })  # fmt: skip

    samples = 0
    async for message in socket:
        if isinstance(message, bytes):
            samples += len(message) // 2
            await socket.send(results("so far", final=False))
        elif json.loads(message)["type"] == "Finalize":
            await socket.send(results(f"heard {samples}", final=True))
            samples = 0


async def openai(socket):
    """`/v1/realtime`: one completed transcription for each commit."""

    async def send(kind, **fields):
        await socket.send(json.dumps({"type": kind, "event_id": "e", **fields}))

    await send("session.created", session={"id": "s"})
    samples, item = 0, 0
    async for message in socket:
        event = json.loads(message)
        if event["type"] == "session.update":
            await send("session.updated", session=event["session"])
        elif event["type"] == "input_audio_buffer.append":
            samples += len(base64.b64decode(event["audio"])) // 2
        elif event["type"] == "input_audio_buffer.commit":
            item += 1
            kind = "conversation.item.input_audio_transcription"
            await send("input_audio_buffer.committed", item_id=str(item))
            await send(f"{kind}.delta", item_id=str(item), content_index=0, delta="so far")
            text = f"heard {samples}"
            await send(f"{kind}.completed", item_id=str(item), content_index=0, transcript=text)
            samples = 0


async def sarvam(socket):
    """Realtime with manual endpointing: partials, and a final that answers speech_end."""

    async def send(event, **fields):
        await socket.send(json.dumps({"event": event, **fields}))

    await send("session.begin", request_id="r")
    samples = 0
    async for message in socket:
        said = json.loads(message)
        if said["event"] == "audio_input":
            samples += len(base64.b64decode(said["audio"])) // 2
            await send("transcript.partial", text="so far", language="kn-IN")
        elif said["event"] == "speech_end":
            await send("transcript.final", text=f"heard {samples}", language="kn-IN")
            samples = 0


SYSTEMS = {
    "deepgram": ("deepgram", deepgram, "", 16_000),
    "openai-realtime": ("openai", openai, "/v1/realtime", 24_000),
    "sarvam": ("sarvamai", sarvam, "/ws", 16_000),
}


@pytest.fixture(params=SYSTEMS)
def connected(request):
    """A recogniser over a Pipecat service, its server's connections, and its samples a second."""
    package, talk, path, rate = SYSTEMS[request.param]
    pytest.importorskip(package)
    with vendor(talk) as (address, had):
        recognizer = load(request.param, Choice(url=address + path))
        yield recognizer, had, rate
        recognizer.close()


def speak(stream, pcm):
    for start in range(0, pcm.size, 1_600):
        stream.feed(pcm[start : start + 1_600])
    stream.finish()


def seconds(final, rate):
    """What the server says that it heard."""
    return int(final.text.removeprefix("heard ")) / rate


def test_a_segment_gets_its_final_and_the_next_one_its_own_on_the_same_connection(connected, noise):
    recognizer, had, rate = connected
    got = Collector()
    stream = recognizer.open(got)
    speak(stream, noise)
    assert 2.0 <= seconds(got.final(), rate) < 2.2
    speak(stream, noise[:16_000])
    assert 1.0 <= seconds(got.final(), rate) < 1.2
    assert len(had) == 1
    stream.close()


def test_partials_come_before_the_final(connected, noise):
    recognizer, _, _ = connected
    got = Collector()
    stream = recognizer.open(got)
    speak(stream, noise)
    got.final()
    assert [p.text for p in got.partials][:1] in (["so far"], [])
    kinds = [type(e).__name__ for e in got.events]
    assert kinds[-1] == "Final"


def test_a_cancelled_segment_is_not_heard_again(connected, noise):
    recognizer, _, rate = connected
    got = Collector()
    stream = recognizer.open(got)
    stream.feed(np.zeros(8_000, np.float32))
    stream.cancel()
    speak(stream, noise)
    assert 2.0 <= seconds(got.final(), rate) < 2.2
    assert len(got.finals) == 1
    stream.close()


def test_a_server_that_is_gone_fails_the_stream():
    pytest.importorskip("openai")
    recognizer = load("openai-realtime", Choice(url="ws://127.0.0.1:9/v1/realtime"))
    got = Collector()
    stream = recognizer.open(got, options=StreamOptions(language="en"))
    speak(stream, np.zeros(3_200, np.float32))
    end = got.end()
    recognizer.close()
    assert isinstance(end, Failed)


async def test_the_vendors_own_service_is_what_a_pipeline_gets():
    pytest.importorskip("sarvamai")
    built = service("sarvam", Choice(api_key="k", language="kn"))
    assert type(built).__name__ == "SarvamRealtimeSTTService"
    assert service("openai-realtime", Choice(api_key="k")).name.startswith("OpenAIRealtime")


async def test_every_other_system_serves_a_pipeline_through_our_service(tmp_path):
    pytest.importorskip("transformers")
    from tests.alternatives import checkpoints

    model = str(checkpoints.wav2vec2(tmp_path))
    built = service("vakyansh", Choice(model=model, device="cpu"))
    assert type(built).__name__ == "RecognizerSTTService"
    built._recognizer.close()
