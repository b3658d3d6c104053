"""The gate when a recogniser is full or fails, the identifier is slow or wrong, or the audio is."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.engine.gate_fixtures import Caller, speech
from voice_agent.engine.errors import BadAudio, EngineFull
from voice_agent.engine.gate import GateTrouble, LanguageDecided
from voice_agent.engine.gate_policy import GateSettings
from voice_agent.engine.gate_stream import GatedStream
from voice_agent.engine.lid import LanguageScores
from voice_agent.engine.recognizer import SAMPLE_RATE, Failed, Final, StreamOptions, deliver_here


def test_a_full_kannada_recogniser_leaves_the_segment_with_english_and_says_so():
    caller = Caller(slots=1)
    other = caller.recognizers["kn"].open(print)
    caller.say("kn", 1.0)
    assert caller.told() == ["GateTrouble", ("decided", "kn")]
    assert "rec-kn cannot take over (all 1 slots" in caller.of(GateTrouble)[0].problem
    assert caller.of(LanguageDecided)[0].recognizer == "rec-en"
    caller.en.partial()
    assert caller.told()[-1] == ("partial", None)
    caller.end()
    caller.en.final()
    assert caller.told()[-1] == ("final", "en")
    assert caller.of(Final)[0].text == "en 16000"
    other.close()
    caller.say("kn", 1.0)
    caller.end()
    caller.kn.final()
    assert caller.of(Final)[1].text == "kn 16000"


def test_a_slot_that_gets_free_before_the_end_still_serves_the_whole_segment():
    caller = Caller(slots=1)
    other = caller.recognizers["kn"].open(print)
    caller.say("kn", 1.0)
    other.close()
    caller.end()
    caller.kn.final()
    assert caller.of(Final)[0].text == "kn 16000"


def test_a_reversal_at_the_end_stays_where_it_is_when_english_is_full():
    caller = Caller(slots=1)
    caller.say("kn", 0.6)
    caller.stream.feed(speech("en", 6.0))
    caller.end()
    caller.kn.final()
    assert caller.of(Final)[0].text == f"kn {round(6.6 * SAMPLE_RATE)}"
    assert "rec-en cannot take over" in caller.of(GateTrouble)[0].problem


def test_kannada_that_fails_in_mid_segment_leaves_english_with_all_of_it(caller):
    caller.say("kn", 1.0)
    caller.kn.fail()
    caller.say("kn", 0.2)
    caller.recognizers["kn"].dead = True
    caller.end()
    caller.en.final()
    assert caller.of(Final)[0].text == f"en {round(1.2 * SAMPLE_RATE)}"
    assert caller.of(Final)[0].language == "en"
    assert "rec-kn failed (out of memory)" in caller.of(GateTrouble)[0].problem


def test_kannada_that_dies_unheard_is_noticed_when_it_is_fed(caller):
    caller.say("kn", 1.0)
    caller.recognizers["kn"].dead = True
    caller.say("kn", 0.2)
    caller.end()
    caller.en.final()
    assert caller.of(Final)[0].text == f"en {round(1.2 * SAMPLE_RATE)}"
    assert "rec-kn died" in caller.of(GateTrouble)[0].problem


def test_kannada_that_dies_before_the_end_is_noticed_when_it_is_finished(caller):
    caller.say("kn", 1.0)
    caller.recognizers["kn"].dead = True
    caller.end()
    caller.en.final()
    assert [e.text for e in caller.of(Final)] == ["en 16000"]


def test_kannada_that_fails_after_the_end_gives_way_to_the_final_that_english_made(caller):
    caller.stream.feed(speech("kn", 0.45))
    caller.end()
    caller.en.final()
    caller.kn.fail()
    assert [e.text for e in caller.of(Final)] == ["en 7200"]


def test_english_makes_up_its_final_when_kannada_failed_first(caller):
    caller.stream.feed(speech("kn", 0.45))
    caller.end()
    caller.kn.fail()
    caller.en.final()
    assert [e.text for e in caller.of(Final)] == ["en 7200"]


def test_kannada_that_fails_after_a_diverted_segments_end_is_replayed_into_english(caller):
    caller.say("kn", 1.0)
    caller.end()
    caller.stream.feed(speech("en", 0.3))  # the next segment has the shared stream by now
    caller.kn.fail()
    caller.recognizers["en"].opened[1].final()
    assert [e.text for e in caller.of(Final)] == ["en 16000"]
    assert caller.en.heard == round(0.3 * SAMPLE_RATE)


def test_a_segment_that_nobody_can_write_still_has_its_final():
    caller = Caller(slots=1)
    caller.say("kn", 1.0)
    caller.end()
    caller.kn.fail()
    final = caller.of(Final)[0]
    assert (final.text, final.audio_s) == ("", 1.0)
    assert "nobody can write the segment" in caller.of(GateTrouble)[-1].problem


def test_a_failure_of_the_default_recogniser_is_the_streams_last_event(caller):
    caller.say("kn", 1.0)
    caller.end()
    caller.en.fail()
    assert isinstance(caller.events[-1], Failed)
    caller.hear()
    assert isinstance(caller.events[-1], Failed)
    assert not caller.recognizers["kn"].streams


def test_an_identifier_that_fails_leaves_the_caller_with_english_and_says_so_once(caller):
    caller.identifier.error = RuntimeError("no memory")
    caller.say("kn", 3.0)
    caller.en.partial()
    caller.end()
    caller.en.final()
    assert caller.told() == ["GateTrouble", ("partial", None), ("final", "en")]
    assert "levels failed (no memory)" in caller.of(GateTrouble)[0].problem
    caller.identifier.error = None
    caller.say("kn", 1.0)
    caller.end()
    caller.kn.final()
    assert caller.told()[-1] == ("final", "kn")


def test_posteriors_that_are_no_numbers_are_a_failure_too(caller):
    caller.identifier.identify = lambda pcm: LanguageScores({"en": math.nan, "kn": 0.9}, 1.0)
    caller.say("kn", 1.0)
    caller.end()
    caller.en.final()
    assert caller.told() == ["GateTrouble", ("final", "en")]


def test_a_final_waits_no_longer_than_its_patience_for_a_slow_identifier():
    caller = Caller(patience_s=0.01)
    caller.stream.feed(speech("kn", 1.0))
    caller.stream.finish()
    caller.en.final()
    assert caller.final_came.wait(10)
    caller.hear()  # too late
    assert caller.told() == ["GateTrouble", ("final", "en")]
    assert "levels has not named the language within 0.01 s" in caller.events[0].problem


def test_audio_that_cannot_be_audio_is_refused_and_leaves_no_trace(caller):
    caller.say("kn", 1.0)
    with pytest.raises(BadAudio):
        caller.stream.feed(np.zeros(10))
    caller.say("kn", 0.2)
    assert caller.kn.heard == round(1.2 * SAMPLE_RATE)


def test_a_full_default_recogniser_refuses_the_caller():
    caller = Caller(slots=1)
    with pytest.raises(EngineFull):
        GatedStream(
            caller.recognizers,
            GateSettings(),
            caller.ear,
            print,
            deliver=deliver_here,
            options=StreamOptions(),
            observe=print,
        )
