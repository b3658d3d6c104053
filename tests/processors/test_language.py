"""LLM and TTS follow the language that the caller speaks."""

import pytest
from pipecat.frames.frames import (
    InterimTranscriptionFrame,
    LLMUpdateSettingsFrame,
    TranscriptionFrame,
    TTSUpdateSettingsFrame,
)
from pipecat.services.settings import LLMSettings, TTSSettings
from pipecat.transcriptions.language import Language

from tests.support.frames import of_type, run
from voice_agent.processors import LanguageFollower


def final(language: Language | None) -> TranscriptionFrame:
    return TranscriptionFrame("words", "", "now", language)


def follower(first: str | None = "en") -> LanguageFollower:
    return LanguageFollower(
        first,
        for_llm=lambda language: LLMSettings(system_instruction=f"answer in {language}"),
        for_tts=lambda language: TTSSettings(language=language) if language != "hi" else None,
    )


async def switched_to(processor, *frames) -> list[str]:
    down, _ = await run(processor, *frames)
    return [str(frame.delta.language) for frame in of_type(down, TTSUpdateSettingsFrame)]


async def test_a_new_language_reaches_llm_and_tts_before_the_words_do():
    down, _ = await run(follower(), final(Language.KN))
    down = of_type(down, LLMUpdateSettingsFrame, TTSUpdateSettingsFrame, TranscriptionFrame)
    llm, tts, words = down
    assert llm.delta.system_instruction == "answer in kn"
    assert tts.delta.language == Language.KN
    assert words.text == "words"


@pytest.mark.parametrize(
    "spoken, switches",
    [
        ([Language.EN, Language.EN], []),
        ([Language.KN, Language.KN, Language.EN], ["kn", "en"]),
        ([None, Language.EN], []),
    ],
)
async def test_only_a_change_switches(spoken, switches):
    assert await switched_to(follower(), *map(final, spoken)) == switches


async def test_where_nothing_was_set_the_first_language_is_a_change():
    assert await switched_to(follower(None), final(Language.EN)) == ["en"]


async def test_an_interim_switches_nothing():
    interim = InterimTranscriptionFrame("words", "", "now", Language.KN)
    assert await switched_to(follower(), interim) == []


async def test_without_a_voice_for_the_language_the_tts_is_left_alone():
    down, _ = await run(follower(), final(Language.HI))
    assert of_type(down, LLMUpdateSettingsFrame)
    assert not of_type(down, TTSUpdateSettingsFrame)
