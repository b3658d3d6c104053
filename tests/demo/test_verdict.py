"""What makes a call a good one; everything here can fail, and does for wrong words."""

import numpy as np
import pytest

from voice_agent.demo.call import Heard, HeardFinal
from voice_agent.demo.clip import CLIP_RATE, DICKENS, Clip
from voice_agent.demo.verdict import WER_BOUND, complaints, word_error_rate, words


def clip(text: str | None = DICKENS) -> Clip:
    return Clip("clip.wav", np.zeros(CLIP_RATE, np.int16), text, (0.5,))


def heard(*finals: str, voiced_s: float = 1.0) -> Heard:
    return Heard(finals=[HeardFinal(text, "en", 0.1) for text in finals], voiced_s=voiced_s)


@pytest.mark.parametrize(
    "expected, got, errors",
    [
        ("a b c d", "a b c d", 0),
        ("a b c d", "A, b; C -- d!", 0),
        ("a b c d", "a x c d", 1),
        ("a b c d", "b c d", 1),
        ("a b c d", "a a b c c d", 2),
        ("a b c d", "", 4),
        ("a b c d", "v w x y z", 5),
        ("it's his", "it’s his", 0),
    ],
)
def test_word_error_rate_counts_edits(expected, got, errors):
    assert word_error_rate(expected, got) == errors / len(words(expected))


def test_kannada_words_keep_their_vowel_signs():
    assert words("ನಮಸ್ಕಾರ, ಹೇಗಿದ್ದೀರಿ?") == ["ನಮಸ್ಕಾರ", "ಹೇಗಿದ್ದೀರಿ"]


def test_the_right_words_and_a_reply_are_a_good_call():
    half = DICKENS.index(", it was the epoch")
    assert complaints(clip(), heard(DICKENS[:half], DICKENS[half:])) == []


def test_hearing_only_what_the_clip_repeats_is_not_enough():
    (complaint,) = complaints(clip(), heard("it was the " * 8))
    assert complaint == "19% of the clip's different words were heard, wanted 50%"


def test_a_list_of_the_clips_words_is_not_enough_either():
    (complaint,) = complaints(clip(), heard(" ".join(sorted(set(words(DICKENS))))))
    assert complaint.endswith(f"wanted below {WER_BOUND:.0%}")


def test_inventing_words_counts_against_a_call():
    assert complaints(clip(), heard(DICKENS + " and so on" * 16))


def test_no_words_is_told_as_such():
    assert complaints(clip(), heard()) == ["no words were recognised"]
    assert complaints(clip(), heard("", "...")) == ["no words were recognised"]


def test_a_clip_of_unknown_text_only_needs_some_words():
    assert complaints(clip(None), heard("anything")) == []
    assert complaints(clip(None), heard()) == ["no words were recognised"]


def test_silence_is_no_reply_and_a_click_is_not_either():
    assert complaints(clip(), heard(DICKENS, voiced_s=0)) == ["no spoken reply came"]
    assert complaints(clip(), heard(DICKENS, voiced_s=0.1)) == [
        "the spoken reply was only 0.10 s long"
    ]
