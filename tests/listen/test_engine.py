"""The protocol over the real engine, on a small random model."""

from __future__ import annotations

import asyncio
import json
import queue
from collections.abc import Iterator

import numpy as np
import pytest
import websockets

from tests.support.checkpoints import random_nemo
from tests.support.serving import RATE, Serve
from voice_agent.engine import load_recognizer
from voice_agent.engine.recognizer import Event, Final, FinalPass, Recognizer, StreamOptions


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recognizer]:
    _, path = random_nemo(tmp_path_factory.mktemp("random"))
    recognizer = load_recognizer(str(path), device="cpu", slots=8)
    yield recognizer
    recognizer.close()


class Borrowed:
    """The module's recogniser, which the server of one test does not close."""

    def __init__(self, recognizer: Recognizer) -> None:
        self.name, self.languages = recognizer.name, recognizer.languages
        self.streaming, self.open = recognizer.streaming, recognizer.open

    def close(self) -> None:
        pass


@pytest.fixture
def borrowed(recognizer: Recognizer) -> Recognizer:
    return Borrowed(recognizer)


def voice(seconds: float, seed: int = 0) -> np.ndarray:
    n = round(seconds * RATE)
    swell = np.sin(np.arange(n) / 3_000) ** 2
    return (np.random.default_rng(seed).standard_normal(n) * 6_000 * swell).astype(np.int16)


def bare(recognizer: Recognizer, pcm: np.ndarray, final_pass: FinalPass = "stream") -> str:
    """What the engine says of it without any server."""
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    stream = recognizer.open(events.put, options=StreamOptions(final_pass=final_pass))
    stream.feed(pcm)
    stream.finish()
    while not isinstance(event := events.get(timeout=30), Final):
        pass
    stream.close()
    return event.text


async def heard(url: str, pcm: np.ndarray, size: int) -> str:
    """What the server says of it, sent in messages of this many bytes."""
    data = pcm.tobytes()
    async with websockets.connect(url) as ws:
        for start in range(0, len(data), size):
            await ws.send(data[start : start + size])
        await ws.send('{"type": "CloseStream"}')
        result, metadata = [json.loads(text) async for text in ws]
    assert metadata["type"] == "Metadata"
    return result["channel"]["alternatives"][0]["transcript"]


async def test_the_server_says_what_the_engine_says_however_audio_is_cut_and_in_a_crowd(
    serve: Serve, borrowed: Recognizer
) -> None:
    server = await serve(recognizer=borrowed)
    url = server.listen(endpointing="false")
    recordings = [voice(1.5, seed) for seed in range(6)]
    expected = [bare(borrowed, pcm) for pcm in recordings]
    assert all(expected)
    sizes = [1_001, 2_560, 333, 32_000, 48_000, 7]
    got = await asyncio.gather(
        *(heard(url, pcm, size) for pcm, size in zip(recordings, sizes, strict=True))
    )
    assert got == expected


@pytest.mark.parametrize("final_pass", ["beam", "search"])
async def test_finals_come_from_the_pass_that_the_server_was_told(
    serve: Serve, borrowed: Recognizer, final_pass: FinalPass
) -> None:
    server = await serve(recognizer=borrowed, stt={"final_pass": final_pass})
    recordings = [voice(6.0, seed) for seed in range(3)]
    expected = [bare(borrowed, pcm, final_pass) for pcm in recordings]
    assert all(expected) and expected != [bare(borrowed, pcm) for pcm in recordings]
    url = server.listen(endpointing="false")
    assert [await heard(url, pcm, 2_560) for pcm in recordings] == expected


async def test_a_keyterm_is_preferred_and_one_that_cannot_be_written_is_named(
    serve: Serve, borrowed: Recognizer
) -> None:
    server = await serve(recognizer=borrowed)
    plain = await heard(server.listen(endpointing="false"), voice(1.5), 2_560)
    boosted = await heard(server.listen(endpointing="false", keywords="fox:9"), voice(1.5), 2_560)
    assert boosted.count("fox") > plain.count("fox")
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(server.listen(keyterm="%E6%BC%A2"))
    assert refused.value.response.status_code == 400
    assert "漢" in json.loads(refused.value.response.body)["err_msg"]
