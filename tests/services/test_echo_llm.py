"""The stand-in for a language model."""

import pytest
from pipecat.frames.frames import (
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    LLMUpdateSettingsFrame,
)
from pipecat.processors.aggregators.llm_context import LLMContext

from tests.support.frames import of_type, run
from voice_agent.services import EchoLLMService
from voice_agent.services.echo_llm import answer, last_turn


@pytest.mark.parametrize(
    "heard, language, said",
    [
        ("it was the best of times", None, "You said: it was the best of times."),
        ("It was the best of times.", "en", "You said: It was the best of times."),
        ("ನಮಸ್ಕಾರ", None, "ನೀವು ಹೇಳಿದ್ದು: ನಮಸ್ಕಾರ."),
        ("namaskara", "kn-IN", "ನೀವು ಹೇಳಿದ್ದು: namaskara."),
        ("नमस्ते", None, "आपने कहा: नमस्ते।"),
        ("guten Tag", "de", "guten Tag"),
        ("", None, "I did not catch that. Please say it again."),
        ("...", "kn", "ನನಗೆ ಕೇಳಿಸಲಿಲ್ಲ. ದಯವಿಟ್ಟು ಮತ್ತೆ ಹೇಳಿ."),
        ("{0} {}", None, "You said: {0} {}."),
    ],
)
def test_it_answers_from_what_it_heard_in_the_language_it_heard(heard, language, said):
    assert answer(heard, language) == said


@pytest.mark.parametrize(
    "messages, turn",
    [
        ([], ""),
        ([{"role": "user", "content": "one"}, {"role": "user", "content": "two"}], "two"),
        ([{"role": "user", "content": [{"type": "text", "text": "one"}]}], "one"),
        ([{"role": "user", "content": "one"}, {"role": "developer", "content": "silence"}], ""),
    ],
)
def test_only_the_newest_turn_is_answered(messages, turn):
    assert last_turn(messages) == turn


async def spoken(*frames) -> list[str]:
    """Its answers, each from its start frame to its end frame."""
    down, _ = await run(EchoLLMService(), *frames)
    answers: list[str] = []
    for frame in down:
        if isinstance(frame, LLMFullResponseStartFrame):
            text: list[str] = []
        elif isinstance(frame, LLMTextFrame):
            text.append(frame.text)
        elif isinstance(frame, LLMFullResponseEndFrame):
            assert len(text) > 1, "word by word"
            answers.append("".join(text))
    assert len(of_type(down, LLMFullResponseStartFrame)) == len(answers)
    return answers


def turn(text: str) -> LLMContextFrame:
    return LLMContextFrame(LLMContext([{"role": "user", "content": text}]))


async def test_it_streams_its_answer_between_start_and_end():
    assert await spoken(turn("good  morning")) == ["You said: good  morning."]


async def test_it_follows_a_language_that_it_is_told():
    update = LLMUpdateSettingsFrame(delta=EchoLLMService.Settings(language="kn"))
    assert await spoken(turn("one"), update, turn("two")) == [
        "You said: one.",
        "ನೀವು ಹೇಳಿದ್ದು: two.",
    ]
