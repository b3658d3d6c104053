"""A client that loses its connection comes back with its token, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest
import websockets
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.serving import RATE, Serve, Server, eventually, pieces, speech
from voice_agent.server.limits import StreamLimits

SCRIPT = [(0.2, "one"), (0.6, "one two"), (1.4, "one two three")]
FINALIZE = '{"type": "Finalize"}'
CLOSE = '{"type": "CloseStream"}'


async def read(ws: websockets.ClientConnection) -> dict[str, Any]:
    """The next message that is no acknowledgement."""
    while True:
        message = json.loads(await ws.recv())
        if message["type"] != "Ack":
            return message


async def rest(ws: websockets.ClientConnection) -> list[dict[str, Any]]:
    """What comes up to the end, which is confirmed."""
    got = []
    async for text in ws:
        message = json.loads(text)
        if message["type"] == "Ack":
            continue
        got.append(message)
        if message["type"] == "Metadata":
            await ws.send(json.dumps({"type": "Received", "seq": message["seq"]}))
    return got


def back(server: Server, token: str, received: int = 0) -> str:
    return f"{server.ws}/v1/listen?resume={token}&received={received}"


async def test_what_was_sent_is_heard_once_and_what_was_missed_comes_again(serve: Serve) -> None:
    server = await serve(SCRIPT)
    sent = [*pieces(speech(2.0)), FINALIZE, CLOSE]
    ws = await websockets.connect(server.listen(resume="true", interim_results="true"))
    hello = await read(ws)
    assert (hello["type"], hello["received"]) == ("Session", 0)
    for item in sent[:12]:
        await ws.send(item)
    first = await read(ws)
    assert first["channel"]["alternatives"][0]["transcript"] == "one" and first["seq"] == 1
    ws.transport.abort()

    got = [first]
    async with websockets.connect(back(server, hello["token"], 1)) as ws:
        hello = await read(ws)
        assert 0 < hello["received"] <= 12
        for item in sent[hello["received"] :]:
            await ws.send(item)
        got += await rest(ws)
    final = next(m for m in got if m["type"] == "Results" and m["is_final"])
    assert final["channel"]["alternatives"][0]["transcript"] == "one two three"
    assert len({m["seq"] for m in got}) == len(got) and got[-1]["type"] == "Metadata"
    (segment,) = server.recognizer.opened[0].segments
    assert segment.size == 2 * RATE
    await server.quiet()


async def test_the_end_waits_for_a_client_that_lost_it(serve: Serve) -> None:
    server = await serve(SCRIPT)
    ws = await websockets.connect(server.listen(resume="true"))
    token = (await read(ws))["token"]
    for item in [*pieces(speech(1.0)), FINALIZE, CLOSE]:
        await ws.send(item)
    await eventually(lambda: not server.recognizer.streams or server.recognizer.opened[0].finished)
    ws.transport.abort()
    async with websockets.connect(back(server, token)) as ws:
        got = await rest(ws)
    assert [m["type"] for m in got] == ["Session", "Results", "Metadata"]
    await server.quiet()


async def test_a_client_that_closes_for_good_is_not_waited_for(serve: Serve) -> None:
    server = await serve(SCRIPT, limits=StreamLimits(grace_s=3600.0))
    async with websockets.connect(server.listen(resume="true")) as ws:
        await read(ws)
    await server.quiet()


async def test_a_token_holds_for_its_grace_and_not_longer(serve: Serve) -> None:
    server = await serve(SCRIPT, limits=StreamLimits(grace_s=0.2))
    ws = await websockets.connect(server.listen(resume="true"))
    token = (await read(ws))["token"]
    await ws.send(speech(0.1).tobytes())
    await eventually(lambda: bool(server.recognizer.streams))
    await asyncio.sleep(0.05)
    ws.transport.abort()
    await server.quiet()
    with pytest.raises(InvalidStatus) as refused:
        await websockets.connect(back(server, token))
    assert refused.value.response.status_code == 404


async def test_a_second_connection_takes_the_session_over(serve: Serve) -> None:
    server = await serve(SCRIPT)
    first = await websockets.connect(server.listen(resume="true"))
    token = (await read(first))["token"]
    async with websockets.connect(back(server, token)) as second:
        assert (await read(second))["type"] == "Session"
        with pytest.raises(ConnectionClosed) as closed:
            await first.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 4001
        await second.send(CLOSE)
        assert [m["type"] for m in await rest(second)] == ["Metadata"]
    await server.quiet()


@pytest.mark.parametrize("received", ["x", "-1", "9" * 40])
async def test_a_number_that_is_none_is_refused(serve: Serve, received: str) -> None:
    server = await serve(SCRIPT)
    async with websockets.connect(server.listen(resume="true")) as ws:
        token = (await read(ws))["token"]
        with pytest.raises(InvalidStatus) as refused:
            await websockets.connect(f"{server.ws}/v1/listen?resume={token}&received={received}")
    assert refused.value.response.status_code == 400


async def test_a_storm_of_resumes_hears_every_sample_once(serve: Serve) -> None:
    """Every client loses its line every few messages, all at once."""
    server = await serve(SCRIPT, max_sessions=16, slots=16)

    async def one(every: int) -> dict[int, dict[str, Any]]:
        sent = [*pieces(speech(2.0)), FINALIZE, CLOSE]
        got: dict[int, dict[str, Any]] = {}
        url = server.listen(resume="true")
        token, position = "", 0
        while True:
            ws = await websockets.connect(url)
            try:
                hello = await read(ws)
                token, position = hello["token"], hello["received"]
                for item in sent[position : position + every]:
                    await ws.send(item)
                if position + every >= len(sent):
                    for message in await rest(ws):
                        assert message["seq"] not in got
                        got[message["seq"]] = message
                    return got
                await asyncio.sleep(0.02)
            finally:
                ws.transport.abort()
            url = back(server, token, max(got, default=0))

    everyone = await asyncio.gather(*(one(3 + i % 5) for i in range(16)))
    for got in everyone:
        assert [m["type"] for m in got.values()] == ["Results", "Metadata"]
        assert got[1]["channel"]["alternatives"][0]["transcript"] == "one two three"
    assert {s.segments[0].size for s in server.recognizer.opened} == {2 * RATE}
    await server.quiet()


async def test_of_many_that_come_back_at_once_one_has_the_session(serve: Serve) -> None:
    server = await serve(SCRIPT)
    first = await websockets.connect(server.listen(resume="true", endpointing="false"))
    token = (await read(first))["token"]
    audio = pieces(speech(0.8))
    for piece in audio[:5]:
        await first.send(piece)
    storm = await asyncio.gather(*(websockets.connect(back(server, token)) for _ in range(10)))
    async with websockets.connect(back(server, token)) as last:
        received = (await read(last))["received"]
        for item in [*audio[received:], CLOSE]:
            await last.send(item)
        assert (await rest(last))[-1]["duration"] == 0.8
    codes = []
    for ws in (first, *storm):
        with contextlib.suppress(ConnectionClosed):
            async for _ in ws:
                pass
        codes.append(ws.close_code)
    assert codes == [4001] * 11
    await server.quiet()
