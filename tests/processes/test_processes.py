"""A server of several processes: one to its clients, whichever process dies, hangs or is full."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
import websockets
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.front_ends import DIE, HANG, Processes, processes
from voice_agent.client import ListenError, Listening
from voice_agent.server.keys import new_key
from voice_agent.wire import Results

RATE = 16_000
FINALIZE = '{"type": "Finalize"}'
CLOSE = '{"type": "CloseStream"}'


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with processes(tmp_path_factory.mktemp("server")) as server:
        server.until(server.ready)
        yield server


@pytest.fixture
def server(running: Processes) -> Iterator[Processes]:
    """The shared server, ready and without sessions before and after each test."""

    def quiet() -> bool:
        return running.ready() and running.metric("voice_agent_sessions") == 0

    running.until(quiet)
    yield running
    running.until(quiet)


def audio(seconds: float, first: int = 0) -> bytes:
    pcm = (np.arange(round(seconds * RATE)) % 1000).astype(np.int16)
    pcm[0] = first
    return pcm.tobytes()


async def final(ws: websockets.ClientConnection) -> str:
    """The text of the next segment that the client finalised."""
    while True:
        message = json.loads(await ws.recv())
        assert message["type"] != "Error", message
        if message["type"] == "Results" and message["from_finalize"]:
            return message["channel"]["alternatives"][0]["transcript"]


async def spread(server: Processes) -> list[websockets.ClientConnection]:
    """A session of each of two front-ends; the kernel chooses, so several are tried."""
    url = server.listen(resume="true", interim_results="true")
    for _ in range(4):
        tried = await asyncio.gather(*(websockets.connect(url, compression=None) for _ in range(6)))
        owners = [json.loads(await ws.recv())["token"].partition("-")[0] for ws in tried]
        chosen = dict(zip(owners, tried, strict=True))
        if len(chosen) < 2:
            chosen = {}
        await asyncio.gather(*(finish(ws) for ws in tried if ws not in chosen.values()))
        if chosen:
            await asyncio.to_thread(
                server.until, lambda: server.metric("voice_agent_sessions") == 2
            )
            return list(chosen.values())
    raise AssertionError("the kernel spreads connections over all front-ends")


async def finish(ws: websockets.ClientConnection) -> list[dict[str, Any]]:
    """Close a session in order; what came until then."""
    await ws.send(CLOSE)
    got = []
    async for text in ws:
        got.append(json.loads(text))
        if "seq" in got[-1]:
            await ws.send(json.dumps({"type": "Received", "seq": got[-1]["seq"]}))
    return got


async def say(ws: websockets.ClientConnection, seconds: float = 0.3) -> str:
    await ws.send(audio(seconds))
    await ws.send(FINALIZE)
    return await final(ws)


async def test_clients_of_every_front_end_are_heard_by_the_one_engine(server: Processes) -> None:
    sessions = await spread(server)
    segments = server.metric("voice_agent_segments_total", cause="client")
    assert [await say(ws) for ws in sessions] == ["one", "one"]
    assert server.metric("voice_agent_sessions") == 2
    assert server.metric("voice_agent_segments_total", cause="client") == segments + 2
    for process in ("engine", "front-end-0", "front-end-1"):
        assert server.metric("voice_agent_process_up", process=process) == 1
        assert server.metric("process_cpu_seconds_total", process=process) > 0
    for ws in sessions:
        assert (await finish(ws))[-1]["type"] == "Metadata"


async def test_a_session_is_resumed_at_whichever_front_end(server: Processes) -> None:
    ws = await websockets.connect(server.listen(resume="true"), compression=None)
    token = json.loads(await ws.recv())["token"]
    for _ in range(10):
        await ws.send(audio(0.1))
        ws.transport.abort()
        # Each time the kernel chooses a front-end anew.
        ws = await websockets.connect(
            f"{server.ws}/v1/listen?resume={token}&received=0", compression=None
        )
        hello = json.loads(await ws.recv())
        assert (hello["type"], hello["token"]) == ("Session", token)
        for _ in range(hello["received"], 0):
            await ws.send(audio(0.1))
    await ws.send(audio(0.6))
    await ws.send(FINALIZE)
    assert (await final(ws)).startswith("one two")
    end = (await finish(ws))[-1]
    assert end["type"] == "Metadata" and end["duration"] >= 0.6
    assert ws.close_code == 1000


async def test_a_token_that_nobody_knows_is_refused_everywhere(server: Processes) -> None:
    for token in ("0-nobody", "1-nobody", "7-nobody", "nobody"):
        for _ in range(4):
            with pytest.raises(InvalidStatus) as refused:
                await websockets.connect(f"{server.ws}/v1/listen?resume={token}")
            assert refused.value.response.status_code == 404


async def test_sessions_and_keys_are_counted_over_all_front_ends(tmp_path: Path) -> None:
    (alice, entry), (bob, other) = new_key("alice"), new_key("bob")
    keys = tmp_path / "keys.toml"
    keys.write_text(entry + "sessions = 1\n" + other)

    async def connect(secret: str, server: Processes) -> websockets.ClientConnection:
        headers = {"Authorization": f"Bearer {secret}"}
        return await websockets.connect(server.listen(), additional_headers=headers)

    async def refused(secret: str, server: Processes) -> set[int]:
        """Statuses of as many refusals as it takes to meet both front-ends."""
        seen = set()
        for _ in range(6):
            with pytest.raises(InvalidStatus) as answer:
                await connect(secret, server)
            seen.add(answer.value.response.status_code)
            assert answer.value.response.status_code == 401 or "Retry-After" in (
                answer.value.response.headers
            )
        return seen

    with processes(tmp_path, sessions=2, keys=keys) as small:
        small.until(small.ready)
        assert await refused("nobody", small) == {401}
        one = await connect(alice, small)
        assert await refused(alice, small) == {429}, "her one session is taken"
        two = await connect(bob, small)
        assert await refused(bob, small) == {503}, "all of the server's are"
        assert [await say(one), await say(two)] == ["one", "one"]
        await finish(one)
        while True:  # its slot is free a moment later
            try:
                one = await connect(alice, small)
                break
            except InvalidStatus:
                await asyncio.sleep(0.05)
        assert await say(one) == "one"
        for ws in (one, two):
            await finish(ws)
        assert small.stop() == 0


async def test_options_are_refused_before_a_session_begins(server: Processes) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await websockets.connect(server.listen(nonsense="1"))
    assert refused.value.response.status_code == 400


async def test_openais_protocols_are_served_by_front_ends_too(server: Processes) -> None:
    tone = (np.sin(np.arange(24_000) / 7) * 8_000).astype("<i2")
    async with websockets.connect(f"{server.ws}/v1/realtime?intent=transcription") as ws:
        assert json.loads(await ws.recv())["type"] == "session.created"
        session = {"type": "transcription", "audio": {"input": {"turn_detection": None}}}
        data = base64.b64encode(tone.tobytes()).decode()
        for message in (
            {"type": "session.update", "session": session},
            {"type": "input_audio_buffer.append", "audio": data},
            {"type": "input_audio_buffer.commit"},
        ):
            await ws.send(json.dumps(message))
        last: dict[str, Any] = {"type": ""}
        while not last["type"].endswith(("completed", "failed")):
            last = json.loads(await ws.recv())
        assert last["transcript"] == "one two"
    wav = io.BytesIO()
    soundfile.write(wav, np.zeros(RATE, np.int16), RATE, format="WAV")
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.post(
            f"{server.http}/v1/audio/transcriptions",
            files={"file": ("a.wav", wav.getvalue())},
            data={"model": "whisper-1"},
            timeout=60,
        )
    assert (answer.status_code, answer.json()["text"]) == (200, ""), "the VAD hears nobody"


async def test_the_vad_of_a_front_end_listens_to_every_client(server: Processes) -> None:
    async def listen() -> list[dict[str, Any]]:
        async with websockets.connect(server.listen(endpointing=300, vad_events="true")) as ws:
            for _ in range(20):
                await ws.send(bytes(2 * RATE // 10))
            return await finish(ws)

    for messages in await asyncio.gather(*(listen() for _ in range(8))):
        assert [m["type"] for m in messages] == ["Metadata"], "of silence"
        assert messages[0]["duration"] == 2.0


@pytest.mark.parametrize("how", ["killed", "stopped", "out of memory", "stuck"])
async def test_an_engine_that_is_gone_is_replaced_and_resumable_clients_go_on(
    server: Processes, how: str
) -> None:
    engine = server.pids()["engine"]
    restarts = server.metric("voice_agent_process_restarts_total", process="engine")
    async with Listening(server.ws, endpointing=False) as stream:
        await stream.send(audio(0.3))
        first = await anext(aiter(stream))
        assert isinstance(first, Results)
        async with websockets.connect(server.listen()) as ordinary:
            await ordinary.send(audio(0.3))
            if how == "killed":
                os.kill(engine, signal.SIGKILL)
            elif how == "stopped":
                os.kill(engine, signal.SIGSTOP)
            elif how == "stuck":
                await ordinary.send(audio(0.1, first=HANG))
                await ordinary.send(FINALIZE)
            else:
                await ordinary.send(audio(0.1, first=DIE))
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    last = await ordinary.recv()
            error = json.loads(last)
            assert error["type"] == "Error" and error["variant"] == "ServerError"
            expected = "out of memory" if how == "out of memory" else "started again"
            assert expected in error["description"]
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1011
        await asyncio.to_thread(server.until, lambda: not server.ready())
        status, body = server.get("/readyz")
        assert status == 200 or "started again" in body or "engine" in body
        await stream.send(audio(0.4))
        stream.finalize()
        stream.end()
        texts = [
            message.channel.alternatives[0].transcript
            async for message in stream
            if isinstance(message, Results) and message.from_finalize
        ]
    assert texts == ["one two"], "of 0.7 s, said to two engines and heard once"
    server.until(server.ready)
    assert server.pids()["engine"] != engine
    assert server.metric("voice_agent_process_restarts_total", process="engine") == restarts + 1
    async with websockets.connect(server.listen()) as ws:
        assert await say(ws) == "one"
        await finish(ws)


async def test_a_front_end_that_dies_takes_its_own_sessions_alone(server: Processes) -> None:
    sessions = await spread(server)
    front_ends = {name: pid for name, pid in server.pids().items() if name != "engine"}
    victim = sorted(front_ends.items())[0][1]
    os.kill(victim, signal.SIGKILL)
    texts = await asyncio.gather(*(say(ws) for ws in sessions), return_exceptions=True)
    assert sum(isinstance(text, str) for text in texts) == 1, texts
    survivor = next(ws for ws, text in zip(sessions, texts, strict=True) if isinstance(text, str))
    server.until(lambda: server.metric("voice_agent_sessions") == 1)
    server.until(lambda: len(server.pids()) == 3)
    assert victim not in server.pids().values()
    await finish(survivor)

    def restarts() -> float:
        return sum(
            server.metric("voice_agent_process_restarts_total", process=f"front-end-{i}")
            for i in range(2)
        )

    server.until(lambda: restarts() == 1)  # counted a moment after it is there
    server.until(server.ready)
    for ws in await spread(server):  # the one that was started again has clients, too
        await finish(ws)


async def test_a_resumable_session_of_a_dead_front_end_ends_with_a_clear_error(
    server: Processes,
) -> None:
    async with Listening(server.ws, endpointing=False) as stream:
        await stream.send(audio(0.3))
        await anext(aiter(stream))
        for name, pid in server.pids().items():
            if name != "engine":
                os.kill(pid, signal.SIGKILL)
        with pytest.raises(ListenError, match="begin a new session|not known"):
            async for _ in stream:
                pass


async def test_sigterm_drains_every_process(tmp_path: Path) -> None:
    with processes(tmp_path) as one:
        one.until(one.ready)
        sessions = await spread(one)
        for ws in sessions:
            await ws.send(audio(0.3))
            assert "one" in await asyncio.wait_for(ws.recv(), 20)
        stopping = asyncio.create_task(asyncio.to_thread(one.stop))
        for ws in sessions:
            got = []
            async for text in ws:
                got.append(json.loads(text))
                await ws.send(json.dumps({"type": "Received", "seq": got[-1].get("seq", 0)}))
            assert [m["type"] for m in got][-2:] == ["Results", "Metadata"], got
            assert got[-2]["is_final"]
        assert await stopping == 0
        assert not one.pids()


async def test_an_engine_that_dies_again_and_again_ends_the_server(tmp_path: Path) -> None:
    with processes(tmp_path, front_ends=1, deaths=2) as one:
        one.until(one.ready)
        os.kill(one.pids()["engine"], signal.SIGKILL)
        one.until(lambda: not one.ready())
        one.until(one.ready)
        os.kill(one.pids()["engine"], signal.SIGKILL)
        assert one.process.wait(30) == 2
        said = one.log.read_text().splitlines()[-1]
        assert re.search(
            r"engine process has died 2 times within .* SIGKILL; the server ends", said
        )


async def test_a_model_that_is_not_there_is_said_once(tmp_path: Path) -> None:
    with processes(tmp_path, front_ends=1, model="missing") as one:
        assert one.process.wait(60) == 2
        assert one.log.read_text().splitlines() == ["missing: there is no such model"]
