"""A gated segment that says nothing, is cancelled or closed, and whom its events call."""

from __future__ import annotations

import pytest

from tests.engine.gate_fixtures import speech
from voice_agent.engine.errors import StreamClosed
from voice_agent.engine.gate import LanguageDecided
from voice_agent.engine.gate_policy import GateSettings
from voice_agent.engine.gate_stream import GatedStream
from voice_agent.engine.recognizer import Final, StreamOptions, deliver_here


@pytest.mark.parametrize("sound", [None, "noise"])
def test_silence_and_noise_decide_nothing(caller, sound):
    caller.say(sound, 3.0)
    caller.end()
    caller.en.final()
    assert caller.told() == [("final", "en")]


def test_silence_is_not_put_down_to_the_language_of_the_past(caller):
    caller.say("kn", 2.0)
    caller.end()
    caller.kn.final()
    caller.say(None, 1.0)
    caller.end()
    caller.en.final()
    assert caller.told()[-1] == ("final", "en")


def test_the_identifier_is_not_asked_about_silence(caller):
    caller.say(None, 3.0)
    caller.end()
    assert caller.identifier.heard == []


def test_pauses_do_not_count_as_speech(caller):
    caller.say(None, 1.0)
    caller.say("kn", 0.4)
    assert caller.identifier.heard == []
    caller.say("kn", 0.2)
    assert caller.identifier.heard == [pytest.approx(1.52, abs=0.1)]


def test_every_finish_gets_a_final_even_without_audio(caller):
    caller.end()
    caller.stream.feed(speech("en", 0.01))
    caller.end()
    while caller.en.final():
        pass
    assert [e.text for e in caller.of(Final)] == ["en 0", "en 160"]


# -- cancel and close ----------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.3, 1.0], ids=["undecided", "diverted"])
def test_cancel_drops_the_segment_and_the_next_is_whole(caller, seconds):
    caller.say("kn", seconds)
    caller.stream.cancel()
    before = len(caller.events)
    caller.say("en", 1.0)
    caller.end()
    caller.en.final()
    assert not caller.recognizers["kn"].streams
    assert [e.text for e in caller.of(Final)] == ["en 16000"]
    assert all(e.language == "en" for e in caller.events[before:])


def test_cancel_while_the_ear_is_about_to_answer_diverts_nothing(caller):
    caller.stream.feed(speech("kn", 1.0))
    caller.stream.cancel()
    caller.hear()
    assert caller.events == [] and not caller.recognizers["kn"].opened


def test_cancel_after_finish_is_of_the_next_segment(caller):
    caller.say("kn", 1.0)
    caller.stream.finish()
    caller.stream.feed(speech("en", 0.2))
    caller.stream.cancel()
    caller.hear()
    caller.kn.final()
    assert [e.text for e in caller.of(Final)] == ["kn 16000"]


def test_close_gives_every_slot_back_and_tells_nothing_more(caller):
    caller.say("kn", 1.0)
    caller.end()
    caller.say("en", 0.6)
    caller.stream.finish()
    before = list(caller.events)
    caller.stream.close()
    caller.stream.close()
    caller.hear()
    assert caller.events == before
    assert not any(r.streams for r in caller.recognizers.values())
    for call in (caller.stream.finish, caller.stream.cancel):
        with pytest.raises(StreamClosed):
            call()
    with pytest.raises(StreamClosed):
        caller.stream.feed(speech("en", 0.1))


# -- what goes wrong -----------------------------------------------------------------------------


def test_a_callback_that_raises_does_not_lose_the_events_after_it(caller):
    seen = []

    def fussy(event):
        seen.append(event)
        raise RuntimeError("not today")

    stream = GatedStream(
        caller.recognizers,
        GateSettings(),
        caller.ear,
        fussy,
        deliver=deliver_here,
        options=StreamOptions(),
        observe=print,
    )
    stream.feed(speech("en", 1.0))
    caller.hear()
    stream.finish()
    caller.hear()
    caller.recognizers["en"].opened[1].final()
    assert isinstance(seen[-1], Final)


def test_decisions_are_observed_as_they_are_delivered(caller):
    caller.say("kn", 1.0)
    caller.end()
    caller.kn.final()
    assert caller.observed == caller.of(LanguageDecided)


def test_callbacks_may_call_the_stream(caller):
    replies = []
    stream = GatedStream(
        caller.recognizers,
        GateSettings(),
        caller.ear,
        lambda e: (replies.append(e), stream.finish() if isinstance(e, LanguageDecided) else None),
        deliver=deliver_here,
        options=StreamOptions(),
        observe=lambda _: None,
    )
    stream.feed(speech("kn", 1.0))
    caller.ear.answer()
    caller.ear.answer()
    caller.kn.final()
    assert [e.text for e in replies if isinstance(e, Final)] == ["kn 16000"]
