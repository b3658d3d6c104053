"""One call's stream across reopenings, without Pipecat."""

import asyncio

import numpy as np
import pytest

from tests.support.scripted import ScriptedRecognizer
from voice_agent.engine.errors import EngineFull
from voice_agent.engine.recognizer import Failed, Final, Partial, StreamOptions
from voice_agent.services.call_stream import CallStream

HALF_A_SECOND = np.ones(8000, np.int16)


@pytest.fixture
def recognizer():
    return ScriptedRecognizer([(0.1, "word")])


def opened(recognizer, final_timeout_s: float = 10.0) -> CallStream:
    stream = CallStream(final_timeout_s)
    stream.open(recognizer, StreamOptions())
    return stream


async def test_a_segment_is_begun_fed_and_finished_and_its_final_settled(recognizer):
    stream = opened(recognizer)
    assert stream.begin() and not stream.begin()
    stream.feed(HALF_A_SECOND)
    assert stream.finish() and not stream.finish()
    assert stream.finals_owed == 1
    assert isinstance(await stream.next_event(), Partial)
    assert isinstance(await stream.next_event(), Final)
    stream.settle()
    await asyncio.wait_for(stream.wait_until_settled(), 1)


async def test_what_a_closed_stream_said_last_is_not_heard_by_the_next(recognizer):
    """Its events may already be on their way to the loop when it is closed."""
    stream = opened(recognizer)
    (old,) = recognizer.streams
    stream.close()
    stream.open(recognizer, StreamOptions())
    old.on_event(Partial("old"))
    (new,) = recognizer.streams
    new.on_event(Partial("new"))
    assert (await stream.next_event()).text == "new"


async def test_a_recogniser_that_owes_a_final_too_long_has_failed(recognizer):
    stream = opened(recognizer, final_timeout_s=0.05)
    recognizer.streams[0].finish = lambda: None
    stream.begin()
    stream.finish()
    failed = await stream.next_event()
    assert isinstance(failed, Failed)
    assert "no final within 0.05 s" in str(failed.error)


async def test_closing_forgives_what_is_owed_and_is_idempotent(recognizer):
    stream = opened(recognizer)
    stream.begin()
    stream.finish()
    stream.close()
    stream.close()
    await asyncio.wait_for(stream.wait_until_settled(), 1)
    assert not stream.is_open and not stream.begin()
    assert recognizer.streams == []


async def test_a_full_recogniser_leaves_it_closed():
    stream = CallStream(10.0)
    with pytest.raises(EngineFull):
        stream.open(ScriptedRecognizer(slots=0), StreamOptions())
    assert not stream.is_open
