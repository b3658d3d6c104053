"""What clients do that should not: each fault is one client, which asserts how it was answered."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import websockets
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.listen.flaky_line import line_to
from voice_agent.client import Listening
from voice_agent.wire import Metadata

RATE = 16_000
CHUNK_S = 0.08
CLOSE = '{"type": "CloseStream"}'
FINALIZE = '{"type": "Finalize"}'


@dataclass(frozen=True)
class Target:
    """A server.

    Attributes:
        port: on this machine.
        pid: of the process that was started.
        folder: where its processes say what they hold.
        front_ends: processes that talk to clients; 0 for one that does everything.
    """

    port: int
    pid: int
    folder: Path
    front_ends: int = 0

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def listen(self, **query: object) -> str:
        query = {"encoding": "linear16", "sample_rate": RATE, **query}
        return f"ws://127.0.0.1:{self.port}/v1/listen?" + "&".join(
            f"{k}={v}" for k, v in query.items()
        )


Fault = Callable[[Target, random.Random], Awaitable[None]]


def chunks(pcm: np.ndarray) -> list[bytes]:
    """Pieces of 80 ms."""
    size = round(CHUNK_S * RATE)
    return [pcm[i : i + size].tobytes() for i in range(0, pcm.size, size)]


def noise(seconds: float, rng: random.Random) -> np.ndarray:
    n = round(seconds * RATE)
    return (np.random.default_rng(rng.randrange(1 << 30)).standard_normal(n) * 5_000).astype("<i2")


async def _until_closed(ws: websockets.ClientConnection) -> tuple[dict[str, Any], int | None]:
    """The last message, and the close code."""
    last: dict[str, Any] = {}
    try:
        while True:
            last = json.loads(await ws.recv())
    except ConnectionClosed as closed:
        return last, closed.rcvd.code if closed.rcvd is not None else None


async def _send_all(ws: websockets.ClientConnection, messages: list[bytes | str]) -> None:
    with suppress(ConnectionClosed):  # the server may have had enough before the last one
        for message in messages:
            await ws.send(message)


async def _ended_by(
    target: Target, messages: list[bytes | str], code: int, variant: str | None, **query: object
) -> None:
    async with websockets.connect(target.listen(**query)) as ws:
        await _send_all(ws, messages)
        last, got = await _until_closed(ws)
        assert got == code, f"closed with {got}, not {code}"
        assert last.get("variant") == variant, last


async def vanishes_mid_word(target: Target, rng: random.Random) -> None:
    ws = await websockets.connect(target.listen(interim_results="true", endpointing="false"))
    for piece in chunks(noise(rng.uniform(0.1, 1.0), rng)):
        await ws.send(piece)
    ws.transport.abort()


async def never_reads(target: Target, rng: random.Random) -> None:
    ws = await websockets.connect(
        target.listen(interim_results="true", endpointing="false"), max_queue=1
    )
    ws.transport.pause_reading()
    await _send_all(ws, [*chunks(noise(4.0, rng)), FINALIZE] * 2)
    await asyncio.sleep(1.0)
    ws.transport.abort()


async def sends_fifty_times_too_fast(target: Target, rng: random.Random) -> None:
    audio = noise(20.0, rng)
    async with websockets.connect(target.listen(endpointing="false")) as ws:
        await _send_all(ws, [*chunks(audio), CLOSE])
        last, code = await _until_closed(ws)
        assert code == 1000 and last["duration"] == 20.0, (code, last)


async def sends_single_bytes(target: Target, rng: random.Random) -> None:
    audio = noise(0.1, rng).tobytes()
    async with websockets.connect(target.listen(endpointing="false")) as ws:
        await _send_all(ws, [*(audio[i : i + 1] for i in range(len(audio))), CLOSE])
        last, code = await _until_closed(ws)
        assert code == 1000 and last["duration"] == 0.1, (code, last)


async def sends_ten_mebibytes_at_once(target: Target, rng: random.Random) -> None:
    async with websockets.connect(target.listen()) as ws:
        with suppress(ConnectionClosed):
            await ws.send(b"\0" * (10 << 20))
        _, code = await _until_closed(ws)
        assert code in (1009, None), code  # None: reset, as it was still sending


async def sends_half_samples(target: Target, rng: random.Random) -> None:
    audio = noise(1.0, rng).tobytes()
    async with websockets.connect(target.listen(endpointing="false")) as ws:
        cuts = sorted(rng.sample(range(len(audio)), 40))
        pieces = [audio[a:b] for a, b in zip([0, *cuts], [*cuts, len(audio)], strict=True)]
        await _send_all(ws, [*pieces, b"\x01", CLOSE])
        last, code = await _until_closed(ws)
        assert code == 1000 and last["duration"] == 1.0, (code, last)


async def sends_nan(target: Target, rng: random.Random) -> None:
    bad = np.full(100, np.nan, "<f4").tobytes()
    await _ended_by(target, [bad], 1008, "DataError", encoding="linear32")


async def sends_no_json(target: Target, rng: random.Random) -> None:
    await _ended_by(target, ["{" * rng.randint(1, 50_000)], 1008, "SchemaError")


async def sends_text_for_audio(target: Target, rng: random.Random) -> None:
    await _ended_by(target, [noise(0.1, rng).tobytes().hex()], 1008, "SchemaError")


async def sends_no_opus(target: Target, rng: random.Random) -> None:
    # Most random bytes are Opus to a decoder; a packet of no frames is not.
    packet = b"\x03\x00" + rng.randbytes(rng.randrange(1_000))
    await _ended_by(target, [packet], 1008, "DataError", encoding="opus")


async def claims_a_rate_that_no_audio_has(target: Target, rng: random.Random) -> None:
    try:
        async with websockets.connect(target.listen(sample_rate=rng.choice([0, 7, -1, "x", 1e9]))):
            raise AssertionError("it was served")
    except InvalidStatus as refused:
        assert refused.response.status_code in (400, 503), refused.response.status_code


async def connects_and_leaves(target: Target, rng: random.Random) -> None:
    for _ in range(25):
        with suppress(InvalidStatus, OSError, TimeoutError):
            ws = await websockets.connect(target.listen())
            if rng.random() < 0.5:
                ws.transport.abort()
            else:
                await ws.close()


async def knocks_without_a_handshake(target: Target, rng: random.Random) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", target.port)
    writer.write(rng.choice([b"", b"GET /v1/listen HTTP/1.1\r\n", rng.randbytes(200)]))
    await asyncio.sleep(0.2)
    writer.transport.abort()


async def loses_its_line_again_and_again(target: Target, rng: random.Random) -> None:
    audio = noise(1.6, rng)
    async with (
        line_to(target.port) as line,
        Listening(f"ws://127.0.0.1:{line.port}", endpointing=False) as stream,
    ):
        for i, piece in enumerate(chunks(audio)):
            await stream.send(piece)
            await asyncio.sleep(CHUNK_S / 4)
            if i % 6 == 5:
                line.cut()
        stream.end()
        got = [message async for message in stream]
    assert isinstance(got[-1], Metadata) and got[-1].duration == 1.6, got[-1]


async def reads_slowly(target: Target, rng: random.Random) -> None:
    audio = noise(1.2, rng)
    async with websockets.connect(
        target.listen(interim_results="true", endpointing="false"), max_queue=1
    ) as ws:
        await _send_all(ws, [*chunks(audio), CLOSE])
        last = {}
        with suppress(ConnectionClosed):
            while True:
                last = json.loads(await ws.recv())
                await asyncio.sleep(0.2)
        assert last["type"] == "Metadata" and last["duration"] == 1.2, last


async def resumes_from_everywhere_at_once(target: Target, rng: random.Random) -> None:
    """A storm: one token, many connections; the last one has the session."""
    pieces = chunks(noise(1.6, rng))
    first = await websockets.connect(target.listen(resume="true", endpointing="false"))
    token = json.loads(await first.recv())["token"]
    await _send_all(first, list(pieces[:5]))
    url = f"ws://127.0.0.1:{target.port}/v1/listen?resume={token}&received=0"
    storm = await asyncio.gather(
        *(websockets.connect(url) for _ in range(12)), return_exceptions=True
    )
    async with websockets.connect(url) as last:
        hello = json.loads(await last.recv())
        assert hello["type"] == "Session" and hello["received"] <= 5, hello
        await _send_all(last, [*pieces[hello["received"] :], CLOSE])
        got = {}
        with suppress(ConnectionClosed):
            while True:
                got = json.loads(await last.recv())
                if "seq" in got:
                    await last.send(json.dumps({"type": "Received", "seq": got["seq"]}))
        assert got["type"] == "Metadata" and got["duration"] == 1.6, got
    for ws in (first, *storm):
        if isinstance(ws, websockets.ClientConnection):
            _, code = await _until_closed(ws)
            assert code in (4001, None), code
            await ws.close()


async def falls_silent_without_closing(target: Target, rng: random.Random) -> None:
    """A half-open connection: after some audio no byte goes either way."""
    ws = await websockets.connect(target.listen(endpointing="false"), ping_interval=None)
    await _send_all(ws, list(chunks(noise(0.4, rng))))
    ws.transport.pause_reading()
    await asyncio.sleep(16.0)  # it waits 12 s for a message, and 20 s for a pong
    ws.transport.resume_reading()
    last, code = await _until_closed(ws)
    assert code in (1011, None) and last.get("type") in ("Error", None), (code, last)


async def resumes_what_is_not_its_own(target: Target, rng: random.Random) -> None:
    url = f"ws://127.0.0.1:{target.port}/v1/listen?resume={rng.randbytes(16).hex()}"
    try:
        async with websockets.connect(url):
            raise AssertionError("it was served")
    except InvalidStatus as refused:
        assert refused.response.status_code == 404, refused.response.status_code


FAULTS: dict[str, Fault] = {
    fault.__name__.replace("_", " "): fault
    for fault in (
        vanishes_mid_word,
        never_reads,
        sends_fifty_times_too_fast,
        sends_single_bytes,
        sends_ten_mebibytes_at_once,
        sends_half_samples,
        sends_nan,
        sends_no_json,
        sends_text_for_audio,
        sends_no_opus,
        claims_a_rate_that_no_audio_has,
        connects_and_leaves,
        knocks_without_a_handshake,
        loses_its_line_again_and_again,
        reads_slowly,
        resumes_from_everywhere_at_once,
        falls_silent_without_closing,
        resumes_what_is_not_its_own,
    )
}

SLOW_S = {"falls silent without closing": 30.0}
"""Faults that last, by how long at most: nobody begins one when the time is nearly over."""
