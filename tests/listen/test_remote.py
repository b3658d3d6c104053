"""`RemoteRecognizer`: the recogniser protocol over a real socket, as services see it."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator

import numpy as np
import pytest
from pipecat.frames.frames import (
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.tests.utils import SleepFrame, run_test

from tests.listen.flaky_line import Line, line_to
from tests.support.serving import RATE, Serve, Server, eventually, pieces, speech
from voice_agent.engine.errors import BadAudio, EngineClosed, StreamClosed
from voice_agent.engine.recognizer import (
    Event,
    Failed,
    Final,
    Partial,
    Recognizer,
    Stream,
    StreamOptions,
)
from voice_agent.remote import RemoteRecognizer, remote_recognizer
from voice_agent.services import NemotronSTTService

FIRST = [(0.2, "One"), (0.6, "One two.")]
SECOND = [(0.2, "Three")]


class Heard:
    """A stream, and what it has said."""

    def __init__(self, recognizer: Recognizer, options: StreamOptions | None = None) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.stream: Stream = recognizer.open(self.events.put, options=options)

    async def next(self) -> Event:
        return await asyncio.to_thread(self.events.get, True, 10)

    async def final(self) -> Final:
        while not isinstance(event := await self.next(), Final):
            assert isinstance(event, Partial), event
        return event


@pytest.fixture
async def server(serve: Serve) -> Server:
    return await serve(FIRST, SECOND)


@pytest.fixture
async def remote(server: Server) -> AsyncIterator[RemoteRecognizer]:
    recognizer = RemoteRecognizer(server.ws)
    yield recognizer
    await asyncio.to_thread(recognizer.close)
    await server.quiet()


async def test_it_keeps_the_protocol(remote: RemoteRecognizer) -> None:
    assert isinstance(remote, Recognizer)
    heard = Heard(remote)
    assert isinstance(heard.stream, Stream)
    for piece in np.array_split(speech(1.0), 13):
        heard.stream.feed(piece)
    heard.stream.finish()
    heard.stream.feed(speech(0.5))
    heard.stream.finish()
    partials = [await heard.next(), await heard.next()]
    assert [p.text for p in partials if isinstance(p, Partial)] == ["One", "One two."]
    first, second = await heard.final(), await heard.final()
    assert (first.text, second.text) == ("One two.", "Three")
    assert (first.audio_s, second.audio_s) == (1.0, 0.5)
    assert [w.word for w in first.words] == ["One", "two."]
    assert second.words[0].start_s == pytest.approx(0.0) and first.decode_ms > 0


async def test_no_partials_where_none_are_wanted(remote: RemoteRecognizer) -> None:
    heard = Heard(remote, StreamOptions(partials=False, language="en"))
    heard.stream.feed(speech(1.0))
    heard.stream.finish()
    final = await heard.next()
    assert isinstance(final, Final) and final.language == "en"


async def test_phrases_reach_the_recogniser_there(remote: RemoteRecognizer, server: Server) -> None:
    phrases = {"Bengaluru": None, "NeMo 2:1": 2.5}
    Heard(remote, StreamOptions(extra={"phrases": phrases}))
    await eventually(lambda: bool(server.recognizer.opened))
    assert server.recognizer.opened[0].options.extra == {"phrases": phrases}


async def test_every_finish_is_answered_even_without_audio(remote: RemoteRecognizer) -> None:
    heard = Heard(remote)
    heard.stream.finish()
    heard.stream.finish()
    assert [(await heard.final()).text for _ in range(2)] == ["", ""]


async def test_floats_arrive_as_the_same_samples(remote: RemoteRecognizer, server: Server) -> None:
    heard = Heard(remote)
    pcm = np.array([0.0, 0.5, -1.0, 1.0, 1 / 32768], np.float32)
    heard.stream.feed(pcm)
    heard.stream.finish()
    await heard.final()
    (segment,) = server.recognizer.opened[0].segments
    np.testing.assert_allclose(segment, pcm, atol=1 / 32768)


async def test_cancel_emits_nothing_and_the_next_segment_is_whole(
    remote: RemoteRecognizer, server: Server
) -> None:
    heard = Heard(remote)
    heard.stream.cancel()  # nothing fed: nothing to drop
    heard.stream.feed(speech(1.0))
    heard.stream.cancel()
    heard.stream.feed(speech(0.5))
    heard.stream.finish()
    final = await heard.final()
    assert (final.text, final.audio_s) == ("Three", 0.5)


async def test_close_is_silent_and_frees_the_servers_slot(
    remote: RemoteRecognizer, server: Server
) -> None:
    heard = Heard(remote)
    heard.stream.feed(speech(1.0))
    assert isinstance(await heard.next(), Partial)
    heard.stream.close()
    heard.stream.close()
    await server.quiet()
    with pytest.raises(StreamClosed):
        heard.stream.feed(speech(0.1))


async def test_a_lost_line_is_not_noticed(server: Server) -> None:
    async with line_to(server.port) as line:
        recognizer = RemoteRecognizer(f"ws://127.0.0.1:{line.port}")
        heard = Heard(recognizer)
        for i, piece in enumerate(np.array_split(speech(2.0), 40)):
            heard.stream.feed(piece)
            if i % 8 == 5:
                line.cut()
            await asyncio.sleep(0.01)
        heard.stream.finish()
        assert (await heard.final()).audio_s == 2.0
        assert server.recognizer.opened[0].segments[0].size == 2 * RATE
        assert line.connections > 2
        await asyncio.to_thread(recognizer.close)


async def test_a_full_server_is_a_failed_stream(serve: Serve) -> None:
    server = await serve(FIRST, max_sessions=1)
    recognizer = RemoteRecognizer(server.ws)
    first, second = Heard(recognizer), Heard(recognizer)
    first.stream.feed(speech(0.5))
    failed = [event for heard in (first, second) if isinstance(event := await heard.next(), Failed)]
    assert len(failed) == 1 and "1 sessions are taken" in str(failed[0].error)
    await asyncio.to_thread(recognizer.close)


async def test_a_recogniser_that_dies_there_fails_here(
    remote: RemoteRecognizer, server: Server
) -> None:
    heard = Heard(remote)
    heard.stream.feed(speech(0.1))
    await eventually(lambda: bool(server.recognizer.streams))
    server.recognizer.streams[0].fail()
    event = await heard.next()
    assert isinstance(event, Failed) and "fell off" in str(event.error)


async def test_closing_the_recogniser_fails_its_streams(server: Server) -> None:
    recognizer = RemoteRecognizer(server.ws)
    heard = Heard(recognizer)
    await eventually(lambda: bool(server.recognizer.streams))
    await asyncio.to_thread(recognizer.close)
    recognizer.close()
    event = await heard.next()
    assert isinstance(event, Failed) and isinstance(event.error, EngineClosed)
    with pytest.raises(EngineClosed):
        recognizer.open(print)


def test_what_it_does_not_serve_is_named() -> None:
    recognizer = RemoteRecognizer("ws://127.0.0.1:1")
    with pytest.raises(ValueError, match="final_pass"):
        recognizer.open(print, options=StreamOptions(final_pass="full"))
    with pytest.raises(ValueError, match="'beam'"):
        recognizer.open(print, options=StreamOptions(extra={"beam": 4}))
    stream = recognizer.open(lambda _: None)
    with pytest.raises(BadAudio):
        stream.feed(np.array([np.nan], np.float32))
    recognizer.close()


async def test_a_bot_without_a_model_hears_through_the_server(serve: Serve) -> None:
    server = await serve(FIRST, SECOND)

    def spoken(seconds: float) -> list[InputAudioRawFrame]:
        return [InputAudioRawFrame(p, RATE, 1) for p in pieces(speech(seconds), 0.02)]

    async def cut_mid_word(line: Line) -> None:
        await eventually(lambda: bool(server.recognizer.opened))
        await eventually(lambda: len(server.recognizer.opened[0].current) > 10)
        line.cut()

    async with line_to(server.port) as line:
        url = f"ws://127.0.0.1:{line.port}"
        cutting = asyncio.create_task(cut_mid_word(line))
        down, _ = await run_test(
            Pipeline([NemotronSTTService(url=url)]),
            frames_to_send=[
                VADUserStartedSpeakingFrame(start_secs=0.2),
                *spoken(0.5),
                SleepFrame(0.5),
                *spoken(0.5),
                VADUserStoppedSpeakingFrame(stop_secs=0.2),
                SleepFrame(1.0),
                VADUserStartedSpeakingFrame(start_secs=0.2),
                *spoken(0.5),
                VADUserStoppedSpeakingFrame(stop_secs=0.2),
                SleepFrame(0.5),
            ],
        )
        await cutting
        finals = [f for f in down if isinstance(f, TranscriptionFrame)]
        assert [f.text for f in finals] == ["One two.", "Three"]
        assert all(f.finalized for f in finals) and line.connections == 2
        assert any(isinstance(f, InterimTranscriptionFrame) for f in down)
        assert server.recognizer.opened[0].segments[0].size == RATE
        await server.quiet()
    remote_recognizer(url, None).close()


def test_a_service_hears_here_or_there() -> None:
    with pytest.raises(ValueError, match="not both"):
        NemotronSTTService(url="ws://127.0.0.1:1", recognizer=RemoteRecognizer("ws://127.0.0.1:1"))
    with pytest.raises(ValueError, match="ws://HOST:PORT"):
        NemotronSTTService(url="somewhere")
