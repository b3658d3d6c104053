"""Cutting, scheduling and agreement: numbers in, numbers out."""

from __future__ import annotations

import numpy as np
import pytest

from voice_agent.engine.indic.decode import Token, ctc_tokens, words_of
from voice_agent.engine.indic.segments import Schedule, StablePrefix, first_cut, pieces
from voice_agent.engine.recognizer import SAMPLE_RATE, Word


def loud(seconds: float) -> np.ndarray:
    rng = np.random.default_rng(1)
    return (0.3 * rng.standard_normal(int(seconds * SAMPLE_RATE))).astype(np.float32)


def with_pauses(seconds: float, *pauses: float) -> np.ndarray:
    pcm = loud(seconds)
    for at in pauses:
        start = int(at * SAMPLE_RATE)
        pcm[start : start + SAMPLE_RATE // 2] *= 0.01
    return pcm


def test_long_audio_is_cut_inside_its_pauses():
    pcm = with_pauses(48, 5.0, 12.0, 25.0, 38.0)
    cuts = [stop / SAMPLE_RATE for _, stop in pieces(pcm)[:-1]]
    assert len(cuts) == 3
    for cut, pause in zip(cuts, (12.0, 25.0, 38.0), strict=True):
        assert pause < cut < pause + 0.5


def test_pieces_cover_the_audio_and_none_is_too_long():
    for seconds in (0.01, 14.9, 15.0, 15.1, 61.3):
        pcm = loud(seconds)
        found = pieces(pcm)
        assert found[0][0] == 0 and found[-1][1] == len(pcm)
        assert all(a[1] == b[0] for a, b in zip(found, found[1:], strict=False))
        assert all(b - a <= 15 * SAMPLE_RATE for a, b in found)


def test_a_cut_does_not_depend_on_audio_that_comes_later():
    pcm = with_pauses(30, 11.0, 13.5)
    assert first_cut(pcm[: 15 * SAMPLE_RATE + 1]) == first_cut(pcm)


def test_decodes_of_a_growing_piece_cost_a_bounded_multiple_of_one():
    schedule = Schedule()
    at, total = schedule.first_s, 0.0
    while at <= 15.0:
        total += at
        at = schedule.next_s(at, cost_s=0.0)
    assert total < 5.5 * 15.0


def test_a_slow_machine_decodes_less_often():
    assert Schedule().next_s(2.0, cost_s=1.0) == pytest.approx(4.0)
    assert Schedule().next_s(2.0, cost_s=0.01) == pytest.approx(2.5)


def words(text: str) -> list[Word]:
    return [Word(w, i, i + 1, 1.0) for i, w in enumerate(text.split())]


def shown(*hypotheses: str) -> list[str]:
    prefix, seen = StablePrefix(), []
    for hypothesis in hypotheses:
        if prefix.update(words(hypothesis)):
            seen.append(" ".join(w.word for w in prefix.shown))
    return seen


def test_a_word_is_shown_once_two_decodes_agree_on_it():
    assert shown("a", "a b", "a b c", "a b d") == ["a", "a b"]


def test_a_shown_word_is_never_taken_back():
    assert shown("a b", "a b c", "x b c d", "x b c d e") == ["a b", "a b c d"]


def test_ctc_joins_repeats_and_drops_blanks():
    path = [3, 3, 4, 4, 3, 4, 0, 0]
    scores = np.full((8, 5), -10.0, np.float32)
    scores[np.arange(8), path] = 0.0
    tokens = ctc_tokens(scores, blank=4)
    assert [(t.number, t.first, t.last) for t in tokens] == [(3, 0, 1), (3, 4, 4), (0, 6, 7)]
    assert all(0.99 < t.probability <= 1.0 for t in tokens)


def test_words_carry_times_confidence_and_composed_letters():
    pieces_ = ["▁ಕ", "\u0cc6\u0cd6", "▁ನ"]  # e + ai mark: NFC composes them into one sign
    tokens = [Token(0, 2, 2, 0.5), Token(1, 4, 5, 1.0), Token(2, 9, 9, 0.8)]
    first, second = words_of(tokens, pieces_, 0.04, offset_s=10.0)
    assert first.word == "ಕ\u0cc8" and second.word == "ನ"
    assert (first.start_s, first.end_s) == pytest.approx((10.08, 10.24))
    assert first.confidence == pytest.approx(0.75)


def test_silence_and_empty_scores_give_no_words():
    assert ctc_tokens(np.zeros((0, 5), np.float32), blank=4) == []
    assert words_of([], ["▁a"], 0.04) == []
