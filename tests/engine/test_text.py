from __future__ import annotations

import numpy as np
import pytest

from voice_agent.engine.recognizer import Word
from voice_agent.engine.text import Tokenizer, Transcript


@pytest.fixture(scope="module")
def tokenizer(random_checkpoint):
    return random_checkpoint.tokenizer


def test_words_joined_are_what_sentencepiece_decodes(tokenizer, random_model):
    decode = random_model[0].tokenizer.tokenizer.DecodeIds
    rng = np.random.default_rng(0)
    for _ in range(200):
        tokens = rng.integers(0, len(tokenizer), rng.integers(1, 30)).tolist()
        transcript = Transcript(tokenizer, 0.08)
        for frame, token in enumerate(tokens):
            transcript.append(token, frame, 0.5)
        assert transcript.text.split() == decode(tokens).split()
        assert " ".join(w.word for w in transcript.words()) == transcript.text


def test_a_word_reaches_from_its_first_token_to_its_last(tokenizer):
    transcript = Transcript(tokenizer, 0.08)
    ids = {surface: i for i, surface in enumerate(tokenizer.surfaces)}
    for surface, frame, prob in ((" b", 3, 1.0), ("o", 5, 0.5), (" d", 9, 0.25)):
        transcript.append(ids[surface], frame, prob)
    first, second = transcript.words()
    assert (first.word, first.start_s, first.end_s, first.confidence) == (
        "bo",
        3 * 0.08,
        6 * 0.08,
        0.75,
    )
    assert second == Word("d", 9 * 0.08, 10 * 0.08, 0.25)


def test_times_do_not_run_past_the_audio(tokenizer):
    transcript = Transcript(tokenizer, 0.08)
    transcript.append(5, 20, 1.0)
    (word,) = transcript.words(audio_s=1.0)
    assert word.start_s == word.end_s == 1.0


@pytest.mark.parametrize("tag", [["<en-US>"], ["<", "en", "-US", ">"]], ids=["whole", "in pieces"])
def test_a_language_tag_is_reported_and_never_written(tag):
    tokenizer = Tokenizer((" hel", "lo", ".", *tag), tags=True)
    transcript = Transcript(tokenizer, 0.08)
    seen = []
    for frame, token in enumerate([0, 1, 2, *range(3, 3 + len(tag)), 0, 1]):
        transcript.append(token, frame, 1.0)
        seen.append(transcript.text)
    assert seen[-1] == "hello. hello"
    assert not any("US" in text or ">" in text for text in seen)
    assert transcript.language == "en-US"


def test_text_that_looks_like_a_tag_stays_where_the_model_writes_none():
    transcript = Transcript(Tokenizer((" <en-US>",)), 0.08)
    transcript.append(0, 0, 1.0)
    assert (transcript.text, transcript.language) == ("<en-US>", None)
