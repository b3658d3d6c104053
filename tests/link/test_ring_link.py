"""An engine with a scheduler in another process: audio by its rings, text by its tokens.

Whoever listens cannot tell: the same events as from the recogniser itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.engine.fakes import CHUNKS
from tests.link.loud import Loud, ended, hosted, noise, say, told
from tests.support.collect import Collector
from tests.support.serving import eventually
from voice_agent.engine.recognizer import Failed, FinalPass, Partial, StreamOptions
from voice_agent.engine.rings import Rings
from voice_agent.link.client import EngineClient
from voice_agent.link.ways import ByOrders, ByRing


@asynccontextmanager
async def linked(tmp_path: Path, **options) -> AsyncIterator[tuple[EngineClient, Loud]]:
    async with hosted(tmp_path / "engine", **options) as recognizer:
        client = EngineClient(tmp_path / "engine")
        await client.connect()
        yield client, recognizer
        client.close()


@pytest.mark.parametrize("kind", ["int16", "float32"])
@pytest.mark.parametrize("right", CHUNKS)
async def test_the_same_is_heard_as_from_the_recogniser_itself(
    tmp_path: Path, kind: str, right: int
) -> None:
    segments = [noise(i, n) for i, n in enumerate((20_000, 300, 90_000, 0, 5_000))]
    if kind == "float32":
        segments = [s / np.float32(32768) for s in segments]
    options = StreamOptions(right_context=right)
    async with linked(tmp_path) as (client, recognizer):
        far, near = Collector(), Collector()
        say(client.open(far, options=options), segments, 1013)
        say(recognizer.open(near, options=options), segments, 1013)
        heard = await ended(far, len(segments))
        assert told(heard) == told(await ended(near, len(segments)))
        assert [f.audio_s for f in heard] == [len(s) / 16_000 for s in segments]
        partials = [p for p in far.events if isinstance(p, Partial)]
        assert [p.text for p in partials] == [p.text for p in near.events if isinstance(p, Partial)]
        assert [w.word for w in partials[0].words] == partials[0].text.split()
        assert recognizer.scheduler.takers.taker.max() > 0, "its tokens were taken"


async def test_what_the_ring_has_no_room_for_follows(tmp_path: Path) -> None:
    audio = noise(0, 16_000 * 20)
    async with linked(tmp_path) as (client, recognizer):
        far, near = Collector(), Collector()
        stream = client.open(far)
        stream.feed(audio)
        stream.finish()
        say(stream, [audio[:3000]], 3000)
        say(recognizer.open(near), [audio, audio[:3000]], 1280)
        assert told(await ended(far, 2)) == told(await ended(near, 2))
        assert recognizer.stats.overflows >= 1, "and it is counted"


async def test_nothing_of_a_cancelled_segment_is_heard_and_the_next_one_is_whole(
    tmp_path: Path,
) -> None:
    async with linked(tmp_path) as (client, recognizer):
        far, near = Collector(), Collector()
        stream = client.open(far)
        stream.feed(noise(1, 50_000))
        stream.cancel()
        say(stream, [noise(2, 9_000)], 800)
        say(recognizer.open(near), [noise(2, 9_000)], 800)
        assert told(await ended(far, 1)) == told(await ended(near, 1))
        stream.feed(noise(1, 50_000))
        await eventually(lambda: len(far.events) > len(near.events))
        stream.cancel()
        before = len(far.events)
        say(stream, [noise(2, 9_000)], 800)
        assert told(await ended(far, 2))[1:] == told(near.finals)
        assert [e.text for e in far.events[before:]] == [e.text for e in near.events]


async def test_no_partial_comes_where_none_is_wanted(tmp_path: Path) -> None:
    async with linked(tmp_path) as (client, _):
        said = Collector()
        say(client.open(said, options=StreamOptions(partials=False)), [noise(0, 30_000)], 1280)
        (final,) = await ended(said, 1)
        assert said.events == [final] and final.words


async def test_a_second_pass_hears_the_audio_in_the_engines_process(tmp_path: Path) -> None:
    async with linked(tmp_path) as (client, recognizer):
        far, near = Collector(), Collector()
        options = StreamOptions(final_pass="full")
        say(client.open(far, options=options), [noise(0, 40_000)], 1280)
        say(recognizer.open(near, options=options), [noise(0, 40_000)], 1280)
        assert told(await ended(far, 1)) == told(await ended(near, 1))


async def test_whoever_leaves_the_final_pass_to_the_engine_feeds_it_as_that_one_wants_it(
    tmp_path: Path,
) -> None:
    async with hosted(tmp_path / "engine") as recognizer:
        recognizer.final_pass = "full"
        client = EngineClient(tmp_path / "engine")
        await client.connect()
        assert client.final_pass == "full"
        ways = [
            type(client.open(Collector(), options=StreamOptions(final_pass=chosen)).way)
            for chosen in (None, "full", "stream")
        ]
        assert ways == [ByOrders, ByOrders, ByRing]
        client.close()


async def test_a_sleeping_engine_is_woken_by_audio_alone(tmp_path: Path) -> None:
    async with linked(tmp_path) as (client, recognizer):
        said = Collector()
        stream = client.open(said)
        await eventually(lambda: bool(recognizer.scheduler.rings.asleep[0]))
        began = asyncio.get_running_loop().time()
        stream.feed(noise(0, 2_000))
        await eventually(lambda: bool(said.events))
        assert asyncio.get_running_loop().time() - began < 0.4, "sooner than it looks by itself"


@pytest.mark.parametrize("final_pass", ["stream", "full"])
async def test_a_lasting_stream_goes_on_in_the_next_engine(
    tmp_path: Path, final_pass: FinalPass
) -> None:
    said, near, options = Collector(), Collector(), StreamOptions(final_pass=final_pass)
    segments = [noise(i, 20_000) for i in range(3)]
    async with hosted(tmp_path / "engine"):
        client = EngineClient(tmp_path / "engine")
        await client.connect()
        stream = client.lasting.open(said, options=options)
        say(stream, segments[:1], 1280)
        await ended(said, 1)
        stream.feed(segments[1][:12_000])
        most = len(said.events) + 5  # partials of what it was fed
        await eventually(lambda: len(said.events) > most)
    await eventually(lambda: not client.up)
    stream.feed(segments[1][12_000:])
    stream.finish()
    async with hosted(tmp_path / "engine") as recognizer:
        await ended(said, 2)
        say(stream, segments[2:], 1280)
        say(recognizer.open(near, options=options), segments, 1280)
        assert told(await ended(said, 3)) == told(await ended(near, 3))
        assert not any(isinstance(e, Failed) for e in said.events)
    client.close()


async def test_a_slots_next_stream_hears_nothing_of_the_last(tmp_path: Path) -> None:
    async with linked(tmp_path, slots=1) as (client, recognizer):
        for seed in range(3):
            far = Collector()
            stream = await asyncio.to_thread(client.open, far)
            say(stream, [noise(seed, 30_000)], 1280)
            (final,) = await ended(far, 1)
            assert final.audio_s == 30_000 / 16_000
            stream.feed(noise(9, 700))
            stream.close()
            await eventually(lambda: recognizer.stats.open_streams == 0)


async def test_where_memory_cannot_be_reached_audio_goes_over_the_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attach(described: object) -> Rings:
        raise OSError("no such file")

    monkeypatch.setattr(Rings, "attach", attach)
    async with linked(tmp_path) as (client, recognizer):
        far, near = Collector(), Collector()
        say(client.open(far), [noise(0, 20_000)], 1280)
        say(recognizer.open(near), [noise(0, 20_000)], 1280)
        assert told(await ended(far, 1)) == told(await ended(near, 1))
        assert recognizer.scheduler.takers.taker.max() == -1


async def test_a_front_end_that_is_gone_gives_its_slots_back(tmp_path: Path) -> None:
    async with linked(tmp_path) as (client, recognizer):
        client.open(Collector()).feed(noise(0, 5_000))
        await eventually(lambda: recognizer.stats.open_streams == 1)
        client.close()
        await eventually(lambda: recognizer.stats.open_streams == 0)


async def test_every_front_end_gets_what_its_own_streams_said(tmp_path: Path) -> None:
    async with linked(tmp_path) as (one, recognizer):
        other = EngineClient(tmp_path / "engine")
        await other.connect()
        clients, said = (one, other, one, other), [Collector() for _ in range(4)]
        streams = [c.open(s) for c, s in zip(clients, said, strict=True)]
        for at in range(0, 40_000, 1280):  # all of them in the same steps
            for seed, stream in enumerate(streams):
                stream.feed(noise(seed, 40_000)[at : at + 1280])
        for stream in streams:
            stream.finish()
        finals = [(await ended(s, 1))[0] for s in said]
        for stream in streams:
            stream.close()
        await eventually(lambda: recognizer.stats.open_streams == 0)
        for seed, final in enumerate(finals):
            near = Collector()
            say(recognizer.open(near), [noise(seed, 40_000)], 1280)
            assert told([final]) == told(await ended(near, 1))
        other.close()
