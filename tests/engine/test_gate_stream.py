"""The gate's carrying out: who hears a segment, what leaves it and in which order."""

from __future__ import annotations

import numpy as np
import pytest

from tests.engine.gate_fixtures import Caller, silence, speech
from voice_agent.engine.gate import LanguageDecided
from voice_agent.engine.recognizer import SAMPLE_RATE, Final, Partial, Stream


def test_it_is_a_stream(caller):
    assert isinstance(caller.stream, Stream)


# -- the default language ------------------------------------------------------------------------


def test_english_goes_through_and_the_other_recogniser_is_never_opened(caller):
    caller.say("en", 0.3)
    caller.en.partial()
    caller.say("en", 0.7)
    caller.en.partial()
    caller.end()
    caller.en.final()
    assert caller.told() == [
        ("partial", None),
        ("decided", "en"),
        ("partial", "en"),
        ("decided", "en"),
        ("final", "en"),
    ]
    assert [e.text for e in caller.of(Final)] == ["en 16000"]
    assert not caller.recognizers["kn"].opened


def test_an_english_final_waits_for_nothing_but_the_final_decision(caller):
    caller.say("en", 1.0)
    caller.stream.finish()
    caller.en.final()
    assert not caller.of(Final)
    caller.hear()
    assert [e.text for e in caller.of(Final)] == ["en 16000"]


def test_a_final_after_a_pause_waits_for_no_identifier(caller):
    caller.say("en", 1.0)
    caller.say(None, 0.2)  # as a VAD leaves it
    asked = len(caller.identifier.heard)
    caller.stream.finish()
    caller.en.final()
    assert caller.told()[-2:] == [("decided", "en"), ("final", "en")]
    caller.hear()
    assert len(caller.identifier.heard) == asked


def test_what_was_foreseen_in_a_pause_is_forgotten_when_speech_goes_on(caller):
    caller.say("en", 0.3)
    caller.say(None, 0.2)
    caller.stream.feed(speech("kn", 4.0))
    caller.stream.finish()
    caller.en.final()
    assert not caller.of(Final)
    caller.hear()
    caller.kn.final()
    assert caller.told()[-1] == ("final", "kn")


def test_foresight_that_comes_after_the_end_still_counts_and_once(caller):
    caller.stream.feed(np.concatenate([speech("en", 0.45), silence(0.2)]))
    caller.stream.finish()
    caller.en.final()
    caller.hear()
    assert caller.told() == [("decided", "en"), ("final", "en")]
    assert len(caller.identifier.heard) == 1


def test_a_pause_is_found_however_the_audio_is_cut(caller):
    pcm = np.concatenate([speech("en", 1.0), silence(0.2)])
    caller.say(None, 0.1)
    for start in range(0, len(pcm), 100):
        caller.stream.feed(pcm[start : start + 100])
        caller.hear()
    caller.stream.finish()
    caller.en.final()
    assert caller.of(Final)


def test_kannada_that_was_foreseen_is_replayed_at_the_end(caller):
    caller.stream.feed(speech("kn", 0.45))
    caller.say(None, 0.2)
    assert not caller.recognizers["kn"].opened
    caller.stream.finish()
    caller.kn.final()
    assert [e.text for e in caller.of(Final)] == [f"kn {round(0.65 * SAMPLE_RATE)}"]


def test_held_partials_come_with_the_decision():
    caller = Caller(partials="hold")
    caller.say("en", 0.4)
    caller.en.partial()
    assert not caller.events
    caller.say("en", 0.2)
    assert caller.told() == [("decided", "en"), ("partial", "en")]


def test_held_partials_of_the_wrong_language_are_never_seen():
    caller = Caller(partials="hold")
    caller.say("kn", 0.4)
    caller.en.partial()
    caller.say("kn", 0.4)
    assert caller.told() == [("decided", "kn")]


# -- diversion -----------------------------------------------------------------------------------


def test_kannada_is_replayed_from_its_first_sample(caller):
    caller.say(None, 0.5)  # the pre-roll
    caller.say("kn", 1.0)
    assert caller.kn.heard == round(1.5 * SAMPLE_RATE)
    assert caller.kn.options.language == "kn"
    assert caller.en.heard == 0, "the default recogniser has forgotten it"
    caller.say("kn", 0.5)
    caller.kn.partial()
    caller.end()
    caller.kn.final()
    assert caller.told() == [
        ("decided", "kn"),
        ("partial", "kn"),
        ("decided", "kn"),
        ("final", "kn"),
    ]
    assert caller.of(Final)[0].text == "kn 32000"
    first, last = caller.of(LanguageDecided)
    assert (first.reason, last.reason) == ("evidence", "final")
    assert first.recognizer == last.recognizer == "rec-kn"
    assert first.speech_s == pytest.approx(0.5, abs=0.1) and first.posterior > 0.8


def test_a_diverted_segment_gives_its_slot_back(caller):
    caller.say("kn", 1.0)
    caller.end()
    caller.kn.final()
    assert not caller.recognizers["kn"].streams


def test_a_late_partial_of_the_default_recogniser_is_dropped(caller):
    caller.say("kn", 0.4)
    caller.en.partial()
    late = caller.en.on_event
    caller.say("kn", 0.4)
    late(Partial("en late"))  # it was on its way when the segment was cancelled
    assert caller.told() == [("partial", None), ("decided", "kn")]


def test_the_end_diverts_what_was_too_short_to_tell_before(caller):
    caller.stream.feed(speech("kn", 0.45))
    caller.end()
    assert caller.told() == [("decided", "kn")]
    caller.kn.partial()
    caller.en.final()
    assert caller.of(Final) == []
    caller.kn.final()
    assert caller.of(Final)[0].text == "kn 7200"
    assert caller.told()[-1] == ("final", "kn")


def test_a_final_that_came_before_the_decision_gives_way_to_it(caller):
    caller.stream.feed(speech("kn", 0.45))
    caller.stream.finish()
    caller.en.final()
    caller.hear()
    caller.kn.final()
    assert [e.text for e in caller.of(Final)] == ["kn 7200"]


def test_a_switch_in_mid_segment_is_followed_both_ways(caller):
    caller.say("en", 2.0)
    caller.say("kn", 5.0)
    assert caller.told() == [("decided", "en"), ("decided", "kn")]
    assert caller.of(LanguageDecided)[-1].reversed
    assert caller.kn.heard == 7 * SAMPLE_RATE
    first = caller.kn
    caller.say("en", 6.0)
    assert caller.told()[2:] == [("decided", "en")]
    assert first.closed
    assert caller.en.heard == 13 * SAMPLE_RATE
    caller.end()
    caller.en.final()
    assert caller.of(Final)[0].text == f"en {13 * SAMPLE_RATE}"


def test_the_whole_segment_can_reverse_to_the_default_language(caller):
    caller.say("kn", 0.6)
    caller.stream.feed(speech("en", 6.0))
    caller.end()  # before the rechecks got round to it
    private = caller.recognizers["en"].opened[1]
    private.final()
    assert [e.text for e in caller.of(Final)] == [f"en {round(6.6 * SAMPLE_RATE)}"]
    assert caller.told() == [("decided", "kn"), ("decided", "en"), ("final", "en")]
    assert not caller.recognizers["kn"].streams
    assert caller.recognizers["en"].streams == [caller.en]


def test_languages_are_data():
    caller = Caller(languages=("en", "kn", "hi"))
    caller.say("hi", 1.0)
    caller.end()
    caller.recognizers["hi"].opened[0].final()
    assert caller.told()[-1] == ("final", "hi")


# -- segments after each other -------------------------------------------------------------------


def test_finals_keep_the_segments_order_when_a_later_one_is_ready_first(caller):
    caller.say("kn", 1.0)
    caller.end()
    caller.say("en", 1.0)
    caller.en.partial()
    caller.end()
    caller.en.final()
    assert not caller.of(Final)
    caller.kn.final()
    assert [e.language for e in caller.of(Final)] == ["kn", "en"]
    assert caller.told()[-4:] == [
        ("decided", "en"),
        ("partial", "en"),
        ("decided", "en"),
        ("final", "en"),
    ]


def test_partials_find_their_segment_while_finals_are_owed(caller):
    caller.say("en", 1.0)
    caller.stream.finish()
    caller.stream.feed(speech("en", 0.2))
    caller.en.partial()
    caller.hear()
    caller.en.final()
    caller.en.partial()
    texts = [e.text for e in caller.events if isinstance(e, Partial | Final)]
    assert texts == ["en 16000", "en 16000", "en 3200"]


def test_short_segments_follow_what_the_caller_spoke_before(caller):
    for _ in range(3):
        caller.say("kn", 2.0)
        caller.end()
        caller.kn.final()
    caller.say("noise", 0.2)
    caller.end()
    caller.kn.final()
    assert caller.of(LanguageDecided)[-1].reason == "prior"
    assert caller.of(Final)[-1].text == "kn 3200"


# -- what is no speech ---------------------------------------------------------------------------
