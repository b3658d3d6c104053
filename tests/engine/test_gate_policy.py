"""The language gate's decisions, on numbers alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from voice_agent.engine.gate_policy import CallerPrior, Check, GateSettings, SegmentPolicy


def scores(kn: float, other: float = 0.0) -> dict[str, float]:
    return {"en": 1.0 - kn - other, "kn": kn, "other": other}


PLAIN = GateSettings(threshold=0.8, hysteresis=0.1, final_threshold=0.6)


@pytest.fixture
def prior():
    return CallerPrior(PLAIN)


@pytest.fixture
def policy(prior):
    return SegmentPolicy(prior.settings, prior)


def test_the_identifier_is_asked_at_rising_amounts_of_speech(policy):
    asked = []
    for _ in range(6):
        check = policy.next_check()
        asked.append(check)
        policy.hear(scores(kn=0.5), check.at_s)
    assert asked[:4] == [Check(0.5, None), Check(1.0, None), Check(1.5, None), Check(2.0, None)]
    assert asked[4:] == [Check(3.0, 2.0), Check(4.0, 2.0)]


def test_a_late_answer_skips_the_checks_that_it_covers(policy):
    policy.hear(scores(kn=0.5), 1.2)
    assert policy.next_check() == Check(1.5, None)


def test_kannada_is_diverted_once_it_passes_the_threshold(policy):
    assert policy.hear(scores(kn=0.7), 0.5) is None
    decision = policy.hear(scores(kn=0.9), 1.0)
    assert (decision.language, decision.reason) == ("kn", "evidence")
    assert decision.diverts and not decision.reversed
    assert decision.posterior == pytest.approx(0.9)


def test_english_is_decided_without_diverting_anything(policy):
    decision = policy.hear(scores(kn=0.05), 0.5)
    assert decision.language == "en" and not decision.diverts


def test_other_languages_and_noise_decide_nothing(policy):
    for at in (0.5, 1.0, 1.5, 2.0, 3.0):
        assert policy.hear(scores(kn=0.2, other=0.7), at) is None
    final = policy.finish(scores(kn=0.2, other=0.7), 3.5)
    assert (final.language, final.reason, final.diverts) == ("en", "default", False)


def test_one_doubtful_window_does_not_reverse_a_decision(policy):
    policy.hear(scores(kn=0.95), 0.5)
    assert policy.hear(scores(kn=0.02), 1.5) is None
    assert policy.hear(scores(kn=0.6), 2.5) is None
    assert policy.hear(scores(kn=0.02), 3.5) is None
    assert policy.language == "kn"


def test_a_switch_in_mid_segment_is_followed_once_it_is_confirmed(policy):
    policy.hear(scores(kn=0.05), 0.5)
    assert policy.next_check() == Check(1.5, 2.0)
    assert policy.hear(scores(kn=0.95), 3.0) is None
    decision = policy.hear(scores(kn=0.95), 4.0)
    assert (decision.language, decision.reason) == ("kn", "recheck")
    assert decision.diverts and decision.reversed


def test_hysteresis_asks_more_of_a_reversal_than_of_a_decision(policy):
    policy.hear(scores(kn=0.85), 2.0)
    for at in (3.0, 4.0, 5.0):
        assert policy.hear(scores(kn=0.15), at) is None  # 0.85 for English: not 0.9
    assert policy.language == "kn"


def test_the_whole_segment_decides_at_the_end(policy):
    policy.hear(scores(kn=0.5), 2.0)
    final = policy.finish(scores(kn=0.75), 2.4)
    assert (final.language, final.reason, final.diverts) == ("kn", "final", True)


def test_the_end_keeps_a_decision_that_the_whole_does_not_clearly_contradict(policy):
    policy.hear(scores(kn=0.95), 0.5)
    final = policy.finish(scores(kn=0.35), 3.0)
    assert (final.language, final.diverts) == ("kn", False)


def test_the_end_can_reverse_a_decision(policy):
    policy.hear(scores(kn=0.95), 0.5)
    final = policy.finish(scores(kn=0.1), 3.0)
    assert (final.language, final.diverts, final.reversed) == ("en", True, True)


def test_speech_too_short_to_tell_goes_by_the_callers_past(prior):
    for _ in range(3):
        SegmentPolicy(prior.settings, prior).finish(scores(kn=0.95), 2.0)
    short = SegmentPolicy(prior.settings, prior).finish(None, 0.2)
    assert (short.language, short.reason, short.diverts) == ("kn", "prior", True)


def test_short_speech_without_a_past_stays_with_the_default(policy):
    short = policy.finish(None, 0.2)
    assert (short.language, short.reason, short.diverts) == ("en", "default", False)


def test_a_guess_from_the_past_is_not_remembered_as_evidence(prior):
    SegmentPolicy(prior.settings, prior).finish(scores(kn=0.95), 2.0)
    before = dict(prior.counts)
    SegmentPolicy(prior.settings, prior).finish(None, 0.2)
    assert prior.counts == before


def test_the_past_tips_doubtful_speech_and_fades_as_speech_grows(prior):
    for _ in range(5):
        prior.update("kn")
    assert SegmentPolicy(prior.settings, prior).hear(scores(kn=0.7), 0.5).language == "kn"
    assert SegmentPolicy(prior.settings, prior).hear(scores(kn=0.7), 2.0) is None


def test_a_caller_who_changes_language_is_believed_after_a_few_segments(prior):
    for _ in range(10):
        prior.update("kn")
    assert prior.best == "kn"
    for _ in range(3):
        prior.update("en")
    assert prior.best == "en"


def test_a_segment_without_speech_is_not_put_down_to_the_past(prior):
    for _ in range(3):
        prior.update("kn")
    decision = SegmentPolicy(prior.settings, prior).finish(None, 0.0)
    assert (decision.language, decision.reason) == ("en", "default")


def test_a_failed_identifier_leaves_the_segment_where_it_is(policy):
    policy.hear(scores(kn=0.95), 0.5)
    final = policy.finish(None, 3.0)
    assert (final.language, final.diverts) == ("kn", False)


def test_languages_are_data():
    settings = replace(PLAIN, languages=("en", "kn", "hi"))
    policy = SegmentPolicy(settings, CallerPrior(settings))
    decision = policy.hear({"hi": 0.85, "en": 0.1, "mr": 0.05}, 1.0)
    assert decision.language == "hi" and decision.diverts


def test_without_rechecks_a_decision_stands_until_the_end():
    settings = replace(PLAIN, recheck_s=0.0)
    policy = SegmentPolicy(settings, CallerPrior(settings))
    policy.hear(scores(kn=0.9), 0.5)
    assert policy.next_check() is None


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"languages": ("en",)}, "languages"),
        ({"languages": ("en", "en")}, "languages"),
        ({"checks_s": (1.0, 0.5)}, "checks_s must rise"),
        ({"checks_s": ()}, "checks_s must rise"),
        ({"checks_s": (0.0, 0.5)}, "positive"),
        ({"threshold": 1.0}, "threshold"),
        ({"final_threshold": 0.3}, "final_threshold"),
        ({"threshold": 0.9, "hysteresis": 0.2}, "hysteresis"),
        ({"partials": "some"}, "partials must be tentative or hold"),
        ({"patience_s": -1.0}, "patience_s"),
        ({"confirmations": 0}, "confirmations"),
        ({"memory": 1.0}, "memory"),
    ],
)
def test_settings_that_make_no_sense_are_named(wrong, says):
    with pytest.raises(ValueError, match=says):
        GateSettings(**wrong)


def test_posteriors_that_are_not_numbers_are_refused(policy):
    with pytest.raises(ValueError, match="finite"):
        policy.hear({"en": math.nan, "kn": 0.5}, 1.0)
