"""A front-end whose event loop hangs: it is cut off, and the others notice nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.link.loud import Loud, alone, cutting, ended, hosted, noise, say, told
from tests.support.collect import Collector
from tests.support.serving import eventually
from voice_agent.engine.errors import EngineClosed, EngineFull
from voice_agent.engine.recognizer import Failed
from voice_agent.link.client import EngineClient
from voice_agent.link.stream import LinkedStream

CHUNK = 1280
UNREAD_BYTES = 1 << 14  # beside what the kernel takes


class FrontEnd:
    """A front-end on an event loop of its own, which can be made to hang."""

    client: EngineClient

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._goes_on = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    async def connect(self, path: Path) -> None:
        async def connected() -> None:
            self.client = EngineClient(path)
            await self.client.connect()

        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(connected(), self._loop))

    def hang(self) -> None:
        self._loop.call_soon_threadsafe(self._goes_on.wait)

    def go_on(self) -> None:
        self._goes_on.set()

    async def end(self) -> None:
        async def others() -> None:
            self.client.close()
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for task in rest:
                task.cancel()
            await asyncio.wait(rest)

        self.go_on()
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(others(), self._loop))
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join)
        self._loop.close()


@asynccontextmanager
async def two_front_ends(
    tmp_path: Path, slots: int
) -> AsyncIterator[tuple[FrontEnd, EngineClient, Loud, asyncio.Event]]:
    """One that may hang, one that does not, their engine, and when one of them was cut off."""
    hanging = FrontEnd()
    path = tmp_path / "engine"
    async with hosted(path, slots=slots, unread_bytes=UNREAD_BYTES) as recognizer:
        other = EngineClient(path)
        await other.connect()
        await hanging.connect(path)
        try:
            with cutting() as is_cut:
                yield hanging, other, recognizer, is_cut
        finally:
            await hanging.end()
            other.close()


async def talk_until_cut(
    hanging: list[LinkedStream], other: LinkedStream, heard: Collector, is_cut: asyncio.Event
) -> tuple[np.ndarray, np.ndarray]:
    """Feed streams in step with the engine until the host cuts a front-end off.

    Returns:
        What the hanging ones, and what the other one was fed.
    """
    theirs, ours = noise(1, CHUNK * 5_000), noise(2, CHUNK * 5_000)
    for at in range(0, len(ours), CHUNK):
        before = len(heard.events)
        for stream in hanging:
            stream.feed(theirs[at : at + CHUNK])
        other.feed(ours[at : at + CHUNK])
        await eventually(lambda: len(heard.events) > before)  # noqa: B023
        if is_cut.is_set():
            return theirs[: at + CHUNK], ours[: at + CHUNK]
    raise AssertionError("it was never cut off")


async def test_a_front_end_that_reads_nothing_is_cut_off_and_costs_the_others_nothing(
    tmp_path: Path,
) -> None:
    async with two_front_ends(tmp_path, slots=8) as (hanging, other, _, is_cut):
        ordinary, lasting, heard = Collector(), Collector(), Collector()
        streams = [
            await asyncio.to_thread(hanging.client.open, ordinary),
            await asyncio.to_thread(hanging.client.lasting.open, lasting),
        ]
        stream = other.open(heard)
        hanging.hang()
        theirs, ours = await talk_until_cut(streams, stream, heard, is_cut)
        stream.finish()
        say(stream, [noise(3, 9_000)], CHUNK)
        assert told(await ended(heard, 2)) == await alone(ours, noise(3, 9_000))
        assert not any(isinstance(e, Failed) for e in ordinary.events), "it hangs still"

        hanging.go_on()
        await eventually(lambda: any(isinstance(e, Failed) for e in ordinary.events))
        assert isinstance(ordinary.events[-1].error, EngineClosed)
        with pytest.raises(EngineClosed):
            streams[0].feed(noise(0, CHUNK))
        streams[1].finish()  # told again on its next connection
        assert told(await ended(lasting, 1)) == await alone(theirs)
        assert not any(isinstance(e, Failed) for e in lasting.events)


async def test_slots_of_one_that_was_cut_off_are_nobodys_until_it_cannot_write_any_more(
    tmp_path: Path,
) -> None:
    async with two_front_ends(tmp_path, slots=2) as (hanging, other, recognizer, is_cut):
        heard, next_heard = Collector(), Collector()
        late = await asyncio.to_thread(hanging.client.open, Collector())
        stream = other.open(heard)
        hanging.hang()
        _, ours = await talk_until_cut([late], stream, heard, is_cut)

        with pytest.raises(EngineFull):
            await asyncio.to_thread(other.open, Collector())
        written = int(recognizer.scheduler.rings.written.sum())
        late.feed(noise(4, 9 * CHUNK))
        assert recognizer.scheduler.rings.written.sum() > written, "it does not know yet"
        with pytest.raises(EngineFull):
            await asyncio.to_thread(other.open, Collector())
        stream.finish()
        assert told(await ended(heard, 1)) == await alone(ours)

        hanging.go_on()
        await eventually(lambda: recognizer.stats.open_streams == 1)
        with pytest.raises(EngineClosed):
            late.feed(noise(4, CHUNK))
        following = await asyncio.to_thread(other.open, next_heard)
        say(following, [noise(5, 30_000)], CHUNK)
        say(stream, [noise(6, 30_000)], CHUNK)
        assert told(await ended(next_heard, 1)) == await alone(noise(5, 30_000))
        assert told(await ended(heard, 2))[1:] == await alone(noise(6, 30_000))
