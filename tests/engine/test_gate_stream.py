"""The gate's carrying out: who hears a segment, what leaves it and in which order."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest

from tests.engine.gate_fixtures import (
    LevelIdentifier,
    ManualRecognizer,
    silence,
    speech,
)
from voice_agent.engine.errors import BadAudio, EngineFull, StreamClosed
from voice_agent.engine.gate import GateTrouble, LanguageDecided
from voice_agent.engine.gate_ear import Ear
from voice_agent.engine.gate_policy import GateSettings
from voice_agent.engine.gate_stream import GatedStream
from voice_agent.engine.lid import LanguageScores
from voice_agent.engine.recognizer import (
    SAMPLE_RATE,
    Failed,
    Final,
    Partial,
    Stream,
    StreamOptions,
    deliver_here,
)


class Caller:
    """A gated stream with everything that a test turns the handle of."""

    def __init__(self, *, languages=("en", "kn"), slots=8, options=None, **settings):
        settings = {"patience_s": 60.0, **settings}
        self.recognizers = {code: ManualRecognizer(code, slots) for code in languages}
        self.identifier = LevelIdentifier(languages)
        self.ear = Ear(self.identifier)
        self.events: list = []
        self.final_came = threading.Event()
        self.observed: list = []
        self.stream = GatedStream(
            self.recognizers,
            GateSettings(languages=tuple(languages), **settings),
            self.ear,
            self._take,
            deliver=deliver_here,
            options=options or StreamOptions(),
            observe=self.observed.append,
        )

    def _take(self, event):
        self.events.append(event)
        if isinstance(event, Final):
            self.final_came.set()

    @property
    def en(self):
        """The stream that every segment starts on."""
        return self.recognizers["en"].opened[0]

    @property
    def kn(self):
        """The newest stream of the other recogniser."""
        return self.recognizers["kn"].opened[-1]

    def say(self, language, seconds):
        """Feed speech in pieces of 80 ms, letting the ear answer as it goes."""
        pcm = speech(language, seconds) if language else silence(seconds)
        for start in range(0, len(pcm), 1280):
            self.stream.feed(pcm[start : start + 1280])
            self.hear()

    def hear(self):
        while self.ear.answer():
            pass

    def end(self):
        self.stream.finish()
        self.hear()

    def of(self, kind):
        return [e for e in self.events if isinstance(e, kind)]

    def told(self):
        """The events in short."""
        short = {Partial: "partial", Final: "final", LanguageDecided: "decided"}
        return [
            (short[type(e)], e.language) if type(e) in short else type(e).__name__
            for e in self.events
        ]


@pytest.fixture
def caller():
    return Caller()


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
