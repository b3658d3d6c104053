"""Partials that work their words out late are what plain ones are."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import pytest

from voice_agent.engine.heard import HeardPartial
from voice_agent.engine.recognizer import Partial
from voice_agent.engine.text import Tokenizer, Transcript

TOKENS = Tokenizer((" he", "llo", " you"))


@pytest.fixture
def transcript():
    transcript = Transcript(TOKENS, 0.08)
    for token, frame in ((0, 1), (1, 2), (2, 9)):
        transcript.append(token, frame, 0.5)
    return transcript


@pytest.fixture
def event(transcript):
    return HeardPartial.of(transcript, 0.75, 0.7, "en")


def test_it_is_equal_to_a_plain_one_and_can_be_handled_like_it(event):
    same = Partial(event.text, event.tokens, event.words, 0.7, "en")
    assert event == same and same == event and hash(event) == hash(same)
    assert event != replace(same, text="else") and event != "hello you"
    assert replace(event, language="kn") == replace(same, language="kn")
    assert pickle.loads(pickle.dumps(event)) == same
    assert copy.copy(event) == same
    assert event.text == "hello you" and event.tokens == (0, 1, 2)
    assert [w.word for w in event.words] == ["hello", "you"]
    assert event.words[-1].end_s == 0.75, "cut at the audio's end"
    with pytest.raises(AttributeError, match="no attribute 'mood'"):
        _ = event.mood


def test_a_partial_stays_what_it_was_while_the_transcript_grows(transcript):
    early = HeardPartial.of(transcript, 2.0, 0.7, None)
    transcript.append(0, 12, 0.9)
    transcript.append(1, 13, 0.9)
    assert early.tokens == (0, 1, 2) and early.text == "hello you"
    assert [w.word for w in early.words] == ["hello", "you"]
    late = HeardPartial.of(transcript, 2.0, 0.7, None)
    assert late.text == "hello you hello" and len(late.words) == 3
