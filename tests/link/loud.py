"""A recogniser with a scheduler and a fake device, on a socket: its texts say what it was fed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger

from tests.engine.fakes import CHUNKS, AheadRunner
from tests.support.collect import Collector
from tests.support.serving import eventually
from voice_agent.engine.outside import Outside
from voice_agent.engine.recognizer import Final, StreamOptions, deliver_here
from voice_agent.engine.scheduler import Scheduler
from voice_agent.engine.text import Tokenizer, Transcript
from voice_agent.link.host import EngineHost
from voice_agent.server.watch import WatchedRecognizer

TOKENS = Tokenizer(tuple(f" {i}" if i % 2 else str(i) for i in range(1001)))


class Loud:
    """Says how loud each chunk is. Implements `Recognizer`, with a scheduler and a fake device."""

    name, languages, streaming = "loud", ("en",), True

    def __init__(self, slots: int = 4) -> None:
        self.scheduler = Scheduler(
            AheadRunner(), CHUNKS, lambda: Transcript(TOKENS, 0.08), slots=slots, language="en"
        )
        s = self.scheduler
        self.stats = s.stats
        self.outside = Outside(s.rings, s.wake, s.takers, TOKENS, 0.08, "en")
        s.start("test-engine")

    def open(self, on_event, *, deliver=deliver_here, options=None):
        options = options or StreamOptions()
        return self.scheduler.open(on_event, deliver, options, options.right_context or 0)

    def close(self):
        self.scheduler.stop()


@asynccontextmanager
async def hosted(path: Path, *, slots: int = 4, **host_options: Any) -> AsyncIterator[Loud]:
    recognizer = Loud(slots)
    host = EngineHost(WatchedRecognizer(recognizer), **host_options)
    await host.listen(path)
    try:
        yield recognizer
    finally:
        await host.close()
        recognizer.close()


@contextmanager
def cutting() -> Iterator[asyncio.Event]:
    """Set when a host cuts a front-end off, which it says in its log."""
    is_cut = asyncio.Event()

    def hear(message: str) -> None:
        if "its connection is cut" in message:
            is_cut.set()

    sink = logger.add(hear, level="ERROR")
    try:
        yield is_cut
    finally:
        logger.remove(sink)


def noise(seed: int, samples: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    loud = np.repeat(rng.uniform(0.05, 1, samples // 1000 + 1), 1000)[:samples]
    return (loud * 32767 * np.sign(rng.standard_normal(samples))).astype(np.int16)


async def ended(said: Collector, count: int) -> list[Final]:
    await eventually(lambda: len(said.finals) >= count)
    return said.finals


def told(finals: list[Final]) -> list[tuple]:
    """All of them but how long they took."""
    return [(f.text, f.tokens, f.words, f.language, f.audio_s) for f in finals]


def say(stream, segments: list[np.ndarray], piece: int) -> None:
    for audio in segments:
        for at in range(0, len(audio), piece):
            stream.feed(audio[at : at + piece])
        stream.finish()


async def alone(*segments: np.ndarray) -> list[tuple]:
    """What `told` says of them where nobody else is there."""
    recognizer, said = Loud(), Collector()
    say(recognizer.open(said), list(segments), 1280)
    try:
        return told(await ended(said, len(segments)))
    finally:
        recognizer.close()
