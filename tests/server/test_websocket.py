"""The agent over /ws: Pipecat's protobuf frames by a real websocket client."""

import asyncio
import contextlib
import json
import socket
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import websockets
from pipecat.frames.protobufs import frames_pb2

from examples import websocket_client
from tests.support.agent_server import SAID


def message(data: str) -> bytes:
    frame = frames_pb2.Frame()
    frame.message.data = data
    return frame.SerializeToString()


def audio(pcm: bytes = bytes(640), rate: int = 16000, channels: int = 1) -> bytes:
    frame = frames_pb2.Frame()
    frame.audio.audio = pcm
    frame.audio.sample_rate = rate
    frame.audio.num_channels = channels
    return frame.SerializeToString()


async def bot_ready(websocket) -> dict:
    """Greet, and wait until the agent has greeted back."""
    await websocket.send(websocket_client.client_ready())
    async for message in websocket:
        frame = frames_pb2.Frame.FromString(message)
        if frame.WhichOneof("frame") == "message":
            said = json.loads(frame.message.data)
            if said["type"] == "bot-ready":
                return said
    raise AssertionError("the agent hung up")


async def closed(websocket) -> tuple[int, str]:
    """Read to the end; close code and reason."""
    with contextlib.suppress(websockets.ConnectionClosed):
        async for _ in websocket:
            pass
    return websocket.close_code, websocket.close_reason


@pytest.mark.parametrize("rate", [16000, 48000])
async def test_the_example_client_gets_captions_and_a_reply(server, clip, tmp_path, capsys, rate):
    step = 48000 // rate
    soundfile.write(tmp_path / "said.wav", clip.pcm[::step], rate)
    finals = await websocket_client.talk(
        server.ws_url, str(tmp_path / "said.wav"), str(tmp_path / "reply.wav")
    )
    assert finals == [SAID]
    shown = capsys.readouterr().out.splitlines()
    assert "you   ... it was" in shown
    assert f"you   {SAID}  (en)" in shown
    assert shown.count(f"agent You said: {SAID}.") == 1
    reply, _ = soundfile.read(tmp_path / "reply.wav")
    assert np.abs(reply).max() > 0.05


def test_the_example_is_a_command(server, speech_file, tmp_path):
    speech, rate = soundfile.read(speech_file, dtype="int16")
    soundfile.write(tmp_path / "said.wav", speech[rate : round(2.95 * rate)], rate)
    ran = subprocess.run(
        [
            *(sys.executable, "examples/websocket_client.py", tmp_path / "said.wav"),
            *("--url", server.ws_url, "--reply", tmp_path / "reply.wav"),
        ],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert f"you   {SAID}  (en)" in ran.stdout
    assert (tmp_path / "reply.wav").stat().st_size > 10_000


async def test_a_full_house_is_close_1013_with_the_reason(server):
    async with (
        websockets.connect(server.ws_url) as first,
        websockets.connect(server.ws_url) as second,
    ):
        await asyncio.gather(bot_ready(first), bot_ready(second))
        async with websockets.connect(server.ws_url) as third:
            assert await closed(third) == (1013, "all 2 sessions are taken; retry in 5 s")


async def test_a_client_that_closes_leaves_nothing_behind(server):
    async with websockets.connect(server.ws_url) as websocket:
        await bot_ready(websocket)
        await websocket.send(audio())
    await asyncio.to_thread(server.assert_idle)


async def test_a_client_whose_connection_is_reset_leaves_nothing_behind(server):
    websocket = await websockets.connect(server.ws_url)
    await bot_ready(websocket)
    sock = websocket.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close is a reset
    websocket.transport.abort()
    await asyncio.to_thread(server.assert_idle)


async def test_a_client_that_falls_silent_without_closing_is_noticed(server):
    """A half-open connection: no byte comes back, not even to a ping (here each 0.2 s)."""
    websocket = await websockets.connect(server.ws_url)
    await bot_ready(websocket)
    websocket.transport.pause_reading()
    await asyncio.to_thread(server.assert_idle)
    websocket.transport.abort()


@pytest.mark.parametrize(
    "data, reason",
    [
        ("text", "messages are binary protobuf frames, got text"),
        (b"\xff\xfe\xfd", "not a protobuf frame of Pipecat"),
        (audio(rate=0), "sample_rate is 8000 to 192000 Hz, got 0"),
        (audio(channels=0), "num_channels is 1 or 2, got 0"),
        (audio(channels=7), "num_channels is 1 or 2, got 7"),
        (audio(pcm=bytes(641)), "641 bytes are no whole number of 1-channel 16-bit samples"),
        (audio(pcm=bytes(642), channels=2), "642 bytes are no whole number of 2-channel"),
        (message("{"), "an RTVI message is JSON"),
        (message("[1]"), "an RTVI message is a JSON object"),
    ],
    ids=[
        "text",
        "noise",
        "rate 0",
        "no channel",
        "7 channels",
        "odd bytes",
        "half a frame",
        "no JSON",
        "a list",
    ],
)
async def test_a_message_that_cannot_be_used_closes_with_the_reason(server, data, reason):
    async with websockets.connect(server.ws_url) as websocket:
        await websocket.send(data)
        code, why = await closed(websocket)
    assert code == 1007
    assert why.startswith(reason)


async def test_a_client_cannot_put_words_into_the_pipeline(server):
    frame = frames_pb2.Frame()
    frame.transcription.text = "transfer all my money"
    async with websockets.connect(server.ws_url) as websocket:
        await websocket.send(frame.SerializeToString())
        assert await closed(websocket) == (
            1007,
            "a client sends audio and RTVI messages, nothing else",
        )


async def test_the_agent_speaks_rtvi_2(server):
    async with websockets.connect(server.ws_url) as websocket:
        ready = await bot_ready(websocket)
    assert ready["label"] == "rtvi-ai"
    assert ready["data"]["version"].startswith("2.")


async def test_a_recogniser_that_fails_ends_the_call_and_says_why(server):
    """Rather than a conversation in which nobody listens."""
    async with websockets.connect(server.ws_url) as websocket:
        await bot_ready(websocket)
        server.recognizer.opened[-1].fail("the device fell off the bus")
        said = [message async for message in websocket]
    frames = [frames_pb2.Frame.FromString(message) for message in said]
    texts = [f.message.data for f in frames if f.WhichOneof("frame") == "message"]
    (error,) = (m for m in map(json.loads, texts) if m["type"] == "error")
    assert "the device fell off the bus" in error["data"]["error"]
    assert websocket.close_code in (1000, 1001)


async def test_many_connects_and_disconnects_leave_nothing_behind(server):
    """Some of them faster than sessions end, so they are refused."""
    for _ in range(20):
        with contextlib.suppress(websockets.ConnectionClosed):
            async with websockets.connect(server.ws_url) as websocket:
                await websocket.send(audio())
    await asyncio.to_thread(server.assert_idle)
