"""The engine in another process: the same events over a real Unix socket, and what a loss does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.support.collect import Collector
from tests.support.scripted import Script, ScriptedRecognizer
from tests.support.serving import eventually
from voice_agent.engine.errors import BadAudio, EngineClosed, EngineError, EngineFull, StreamClosed
from voice_agent.engine.recognizer import Failed, Final, Partial, StreamOptions
from voice_agent.link.client import EngineClient
from voice_agent.link.host import EngineHost
from voice_agent.link.keeping import LIMIT_S
from voice_agent.link.packing import Op, Orders, Unframer, orders_of, packed

RATE = 16_000
SCRIPT: Script = ((0.2, "one"), (0.4, "one two"))


class Picky(ScriptedRecognizer):
    """Serves English alone."""

    def open(self, on_event, *, deliver=None, options=None):
        if options is not None and options.language == "fr":
            raise ValueError("scripted writes en, not 'fr'")
        return super().open(on_event, **({"deliver": deliver} if deliver else {}), options=options)


@asynccontextmanager
async def hosted(path: Path, recognizer: ScriptedRecognizer):
    host = EngineHost(recognizer)
    await host.listen(path)
    try:
        yield host
    finally:
        await host.close()


Link = Callable[..., Awaitable[tuple[EngineClient, ScriptedRecognizer]]]


@pytest.fixture
async def link(tmp_path: Path) -> AsyncIterator[Link]:
    """A recogniser behind a socket, and a client that is connected to it."""
    async with AsyncExitStack() as stack:

        async def make(*scripts: Script, slots: int = 8) -> tuple[EngineClient, ScriptedRecognizer]:
            recognizer = Picky(*(scripts or (SCRIPT,)), slots=slots)
            await stack.enter_async_context(hosted(tmp_path / "engine", recognizer))
            client = EngineClient(tmp_path / "engine")
            stack.callback(client.close)
            await client.connect()
            return client, recognizer

        yield make


async def ended(said: Collector, count: int = 1) -> None:
    await eventually(lambda: len([e for e in said.events if not isinstance(e, Partial)]) >= count)


def tone(seconds: float) -> np.ndarray:
    return (np.arange(round(seconds * RATE)) % 1000).astype(np.int16)


async def test_events_and_audio_come_through_as_they_are(link: Link) -> None:
    client, recognizer = await link()
    said = Collector()
    stream = client.open(said, options=StreamOptions(language="en"))
    for piece in np.array_split(tone(0.5), 7):
        stream.feed(piece)
    stream.finish()
    await ended(said)
    assert [type(e) for e in said.events] == [Partial, Partial, Final]
    direct = Collector()
    alone = recognizer.open(direct, options=StreamOptions(language="en"))
    alone.feed(tone(0.5))
    alone.finish()
    direct.final()
    assert said.events == direct.events
    assert np.array_equal(recognizer.opened[0].segments[0], recognizer.opened[1].segments[0])


async def test_floats_are_not_rounded_on_the_way(link: Link) -> None:
    client, recognizer = await link()
    said = Collector()
    first, second = client.open(said), client.open(said)
    first.feed(np.array([1, 2, 3], np.int16))
    samples = np.linspace(-1, 1, 1001, dtype=np.float32)
    second.feed(samples)
    second.finish()
    await ended(said)
    assert np.array_equal(recognizer.opened[1].segments[0], samples)


async def test_audio_after_finish_belongs_to_the_next_segment(link: Link) -> None:
    client, recognizer = await link()
    said = Collector()
    stream = client.open(said)
    for seconds in (0.3, 0.1, 0.5):
        stream.feed(tone(seconds))
        stream.finish()
    await ended(said, 3)
    assert [f.text for f in said.finals] == ["one", "", "one two"]
    assert [s.size for s in recognizer.opened[0].segments] == [4800, 1600, 8000]


async def test_cancel_drops_what_is_still_on_its_way(link: Link) -> None:
    client, _ = await link()
    said = Collector()
    stream = client.open(said)
    stream.feed(tone(0.3))
    await eventually(lambda: bool(said.partials))
    stream.feed(tone(0.3))
    stream.cancel()  # its partial is not there yet
    stream.feed(tone(0.3))
    stream.finish()
    await ended(said)
    assert [e.text for e in said.events] == ["one", "one", "one"]
    assert said.final().audio_s == pytest.approx(0.3)


async def test_wrong_audio_and_closed_streams_are_refused_at_once(link: Link) -> None:
    client, _ = await link()
    stream = client.open(Collector())
    for wrong in (np.zeros((2, 2), np.int16), np.zeros(3), np.array([np.nan], np.float32)):
        with pytest.raises(BadAudio):
            stream.feed(wrong)
    stream.close()
    stream.close()
    for use in (stream.finish, stream.cancel, lambda: stream.feed(tone(0.1))):
        with pytest.raises(StreamClosed):
            use()


async def test_a_full_engine_refuses_and_a_closed_stream_makes_room(link: Link) -> None:
    client, recognizer = await link(slots=2)
    streams = [await asyncio.to_thread(client.open, Collector()) for _ in range(2)]
    with pytest.raises(EngineFull) as full:
        await asyncio.to_thread(client.open, Collector())
    assert full.value.slots == 2
    streams[0].close()
    await asyncio.to_thread(client.open, Collector())
    assert len(recognizer.streams) == 2


async def test_an_option_that_is_not_served_is_named(link: Link) -> None:
    client, recognizer = await link()
    french = StreamOptions(language="fr")
    with pytest.raises(ValueError, match="writes en, not 'fr'"):
        await asyncio.to_thread(lambda: client.open(Collector(), options=french))
    assert not recognizer.opened


async def test_on_the_event_loop_a_refusal_comes_as_the_streams_failure(link: Link) -> None:
    client, _ = await link(slots=1)
    one, other, third = Collector(), Collector(), Collector()
    client.open(one, options=StreamOptions(language="fr"))
    client.open(other)
    client.open(third)
    await ended(one)
    await ended(third)
    assert isinstance(one.events[0], Failed) and "'fr'" in str(one.events[0].error)
    assert isinstance(third.events[0].error, EngineFull)
    assert not other.events


async def test_a_failure_of_one_stream_is_told_to_its_caller_alone(link: Link) -> None:
    client, recognizer = await link()
    one, other = Collector(), Collector()
    client.open(one)
    second = client.open(other)
    await eventually(lambda: len(recognizer.streams) == 2)
    recognizer.streams[0].fail("the device fell off the bus")
    await ended(one)
    assert isinstance(one.events[-1], Failed) and "fell off" in str(one.events[-1].error)
    second.feed(tone(0.3))
    second.finish()
    await ended(other)
    assert other.final().text == "one"


async def test_events_of_many_streams_come_in_one_call_for_each_place(link: Link) -> None:
    client, recognizer = await link()
    calls = []

    def deliver(dispatch: Callable[[], None]) -> None:
        calls.append(dispatch)
        dispatch()

    said = Collector()
    streams = [client.open(said, deliver=deliver) for _ in range(5)]
    for stream in streams:
        stream.feed(tone(0.1))
        stream.finish()
    await ended(said, 5)
    assert len(calls) < 5


async def test_an_ordinary_stream_fails_with_the_engine_and_nobody_is_admitted(
    tmp_path: Path,
) -> None:
    downs: list[bool] = []
    async with hosted(tmp_path / "engine", ScriptedRecognizer(SCRIPT)) as host:
        client = EngineClient(tmp_path / "engine", on_down=lambda: downs.append(True))
        await client.connect()
        said = Collector()
        stream = client.open(said)
        await host.close()
        await ended(said)
        assert isinstance(said.events[-1], Failed)
        assert isinstance(said.events[-1].error, EngineClosed)
        assert "started again" in str(said.events[-1].error)
        with pytest.raises(EngineClosed):
            stream.feed(tone(0.1))
        with pytest.raises(EngineClosed):
            client.open(Collector())
        with pytest.raises(EngineClosed):
            await asyncio.to_thread(client.open, Collector())
        assert downs == [True] and not client.up
    client.close()


async def test_a_lasting_stream_is_told_again_to_the_next_engine(tmp_path: Path) -> None:
    first, second = ScriptedRecognizer(SCRIPT), ScriptedRecognizer(SCRIPT)
    said = Collector()
    async with hosted(tmp_path / "engine", first) as host:
        client = EngineClient(tmp_path / "engine")
        await client.connect()
        stream = client.lasting.open(said, options=StreamOptions(language="en"))
        stream.feed(tone(0.3))
        stream.finish()  # heard: not said again
        await ended(said)
        stream.feed(tone(0.1))
        stream.cancel()
        stream.feed(tone(0.25))
        await eventually(lambda: len(said.partials) == 2)
        await host.close()
        await eventually(lambda: not client.up)
    stream.feed(tone(0.25))  # while there is no engine
    stream.finish()
    stream.feed(tone(0.3))
    async with hosted(tmp_path / "engine", second):
        await eventually(lambda: len(said.finals) == 2)
        stream.finish()
        await eventually(lambda: len(said.finals) == 3)
        stream.close()
        await eventually(lambda: not second.streams)
    assert [f.text for f in said.finals] == ["one", "one two", "one"]
    assert [s.size for s in second.opened[0].segments] == [8000, 4800]
    assert second.opened[0].options.language == "en"
    assert not any(isinstance(e, Failed) for e in said.events)
    client.close()


async def test_an_engine_that_dies_gently_does_not_end_a_lasting_stream(tmp_path: Path) -> None:
    """Its thread dies first, and tells every stream; then the process ends."""
    said, ordinary = Collector(), Collector()
    async with hosted(tmp_path / "engine", ScriptedRecognizer(SCRIPT)) as host:
        client = EngineClient(tmp_path / "engine")
        await client.connect()
        stream = client.lasting.open(said)
        stream.feed(tone(0.3))
        client.open(ordinary)
        await eventually(lambda: len(said.partials) == 1)
        host.recognizer.close()
        await ended(ordinary)
        assert "was closed" in str(ordinary.events[-1].error)
    async with hosted(tmp_path / "engine", ScriptedRecognizer(SCRIPT)):
        stream.finish()
        await ended(said)
        assert said.final().text == "one"
    client.close()


async def test_a_stream_that_owes_too_much_ends_with_the_engine(tmp_path: Path) -> None:
    said = Collector()
    async with hosted(tmp_path / "engine", ScriptedRecognizer(SCRIPT)) as host:
        client = EngineClient(tmp_path / "engine")
        await client.connect()
        stream = client.lasting.open(said)
        stream.feed(tone(LIMIT_S + 1))
        await host.close()
        await ended(said)
        assert isinstance(said.events[-1], Failed)
    client.close()


async def test_slots_are_free_again_when_the_engine_is_gone(tmp_path: Path) -> None:
    async with hosted(tmp_path / "engine", ScriptedRecognizer(SCRIPT, slots=1)) as host:
        client = EngineClient(tmp_path / "engine")
        await client.connect()
        stream = client.open(Collector())
        await host.close()
        await eventually(lambda: not client.up)
        stream.close()
    async with hosted(tmp_path / "engine", ScriptedRecognizer(SCRIPT, slots=1)):
        await eventually(lambda: client.up)
        client.open(Collector())
    client.close()


async def test_streams_of_a_front_end_that_is_gone_give_their_slots_back(link: Link) -> None:
    client, recognizer = await link()
    said = Collector()
    client.open(said)
    await eventually(lambda: len(recognizer.streams) == 1)
    client.close()
    assert isinstance(said.events[-1], Failed)
    await eventually(lambda: not recognizer.streams)
    with pytest.raises(EngineError):
        client.open(Collector())


def test_every_streams_samples_are_whole_and_aligned() -> None:
    orders, sent = Orders(), []
    for i, samples in enumerate((1, 3, 1280, 7, 2, 5)):
        pcm = (np.arange(samples) + i).astype(np.float32 if i % 2 else np.int16)
        orders.add(Op.FINISH, i)
        orders.feed(i, pcm.tobytes(), floats=bool(i % 2))
        sent.append(pcm)
    ((_, body),) = Unframer().push(orders.take())
    got = [pcm for op, _, _, pcm in orders_of(body) if pcm is not None]
    for pcm, expected in zip(got, sent, strict=True):
        assert np.array_equal(pcm, expected) and pcm.dtype == expected.dtype
        assert pcm.flags.aligned
    assert not len(orders)


def test_messages_are_found_however_the_bytes_are_cut() -> None:
    messages = [packed(2, {"n": i, "text": "x" * i}) for i in (0, 3, 70_000)]
    data = b"".join(messages)
    for size in (1, 7, 65_536, len(data)):
        unframer = Unframer()
        got = [
            bytes(body)
            for i in range(0, len(data), size)
            for _, body in unframer.push(data[i : i + size])
        ]
        assert got == [m[5:] for m in messages]
    with pytest.raises(ValueError, match="do not agree"):
        list(Unframer().push(b"\xff" * 5))
