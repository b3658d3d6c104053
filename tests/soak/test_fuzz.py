"""Whatever a client says, over real sockets, is answered as documented, and the server goes on."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest
import websockets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.agent_server import RunningServer, scripted_server
from voice_agent.wire import parse_server

LISTEN_CODES = {1000, 1008, 1009, 1011}
REALTIME_CODES = {1000, 1011}

junk = st.one_of(
    st.text(max_size=200),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
        max_leaves=8,
    ).map(json.dumps),
)
binary = st.binary(max_size=2_000)
listen_words = st.sampled_from(
    [
        '{"type": "KeepAlive"}',
        '{"type": "Finalize"}',
        '{"type": "CloseStream"}',
        '{"type": "Configure"}',
        '{"type": "Finalize", "channel": 7}',
        '{"type": "Received", "seq": 1}',
        '{"type": "CloseStream", "extra": 1}',
    ]
)
listen_queries = st.sampled_from(
    [
        "encoding=linear16&sample_rate=16000",
        "encoding=linear32&sample_rate=8000&interim_results=true&vad_events=true",
        "encoding=mulaw&sample_rate=8000&endpointing=false",
        "encoding=opus",
        "encoding=linear16&sample_rate=48000&channels=2&multichannel=true",
        "encoding=linear16&sample_rate=16000&endpointing=sometimes",
        "keyterm=%00",
    ]
)
realtime_words = st.one_of(
    st.sampled_from(
        [
            '{"type": "input_audio_buffer.commit"}',
            '{"type": "input_audio_buffer.clear"}',
            '{"type": "session.update", "session": {"audio": {"input": {"turn_detection": null}}}}',
            '{"type": "session.update", "session": {"audio": 3}}',
            '{"type": "input_audio_buffer.append", "audio": "****"}',
            '{"type": "response.create"}',
        ]
    ),
    binary.map(
        lambda data: json.dumps(
            {"type": "input_audio_buffer.append", "audio": base64.b64encode(data).decode()}
        )
    ),
)


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    running = scripted_server()
    yield running
    running.stop()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[websockets.ClientConnection | None]:
    """A connection; None where it was refused, which has a reason."""
    try:
        ws = await websockets.connect(url)
    except InvalidStatus as refused:
        assert refused.response.status_code in (400, 503) and refused.response.body
        yield None
        return
    async with ws:
        yield ws


async def say(url: str, messages: list[str | bytes], last: str) -> tuple[list[str], int | None]:
    """Send everything; what came back, and the close code."""
    async with connected(url) as ws:
        if ws is None:
            return [], None
        heard: list[str] = []
        with suppress(ConnectionClosed):
            for message in messages:
                await ws.send(message)
            await ws.send(last)
            async for text in ws:
                heard.append(str(text))
        return heard, ws.close_code


PATIENT = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@PATIENT
@given(query=listen_queries, messages=st.lists(st.one_of(junk, binary, listen_words), max_size=8))
def test_listen_answers_anything_as_documented(
    server: RunningServer, query: str, messages: list[str | bytes]
) -> None:
    url = f"{server.url.replace('http', 'ws')}/v1/listen?{query}"
    said = say(url, messages, '{"type": "CloseStream"}')
    heard, code = asyncio.run(asyncio.wait_for(said, 30))
    for text in heard:
        parse_server(text)
    assert code is None or code in LISTEN_CODES
    server.assert_idle()


@PATIENT
@given(messages=st.lists(st.one_of(junk, binary, realtime_words), max_size=8))
def test_realtime_answers_anything_as_documented(
    server: RunningServer, messages: list[str | bytes]
) -> None:
    url = f"{server.url.replace('http', 'ws')}/v1/realtime?intent=transcription"

    async def talk() -> None:
        async with connected(url) as ws:
            assert ws is not None
            types = [json.loads(await ws.recv())["type"]]
            with suppress(ConnectionClosed):
                for message in messages:
                    await ws.send(message)
                # One that is always answered: what came before it is settled.
                await ws.send('{"type": "input_audio_buffer.clear"}')
                while types[-1] != "input_audio_buffer.cleared":
                    types.append(json.loads(await ws.recv())["type"])
            assert types[0] == "session.created"
            assert ws.close_code is None or ws.close_code in REALTIME_CODES

    asyncio.run(asyncio.wait_for(talk(), 30))
    server.assert_idle()
