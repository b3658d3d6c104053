"""Captions: what the client's page gets beside RTVI's own transcription messages."""

from pipecat.frames.frames import InterimTranscriptionFrame, TextFrame, TranscriptionFrame
from pipecat.processors.frameworks.rtvi import RTVIServerMessageFrame
from pipecat.transcriptions.language import Language

from tests.support.frames import of_type, run
from voice_agent.engine.recognizer import Final, Word
from voice_agent.processors import Captions

WORDS = (Word("It", 0.1, 0.3, 0.9), Word("was.", 0.4, 0.5, 0.8))


async def captions(*frames) -> list[dict]:
    down, _ = await run(Captions(), *frames)
    assert of_type(down, *{type(frame) for frame in frames}), "they pass on as well"
    return [frame.data for frame in of_type(down, RTVIServerMessageFrame)]


async def test_an_interim_becomes_a_caption_that_is_not_final():
    interim = InterimTranscriptionFrame("it", "", "now", Language.EN)
    assert await captions(interim) == [
        {"type": "caption", "text": "it", "final": False, "language": "en"}
    ]


async def test_a_final_tells_its_language_and_its_words_with_times():
    result = Final("It was.", words=WORDS, language="kn")
    (caption,) = await captions(TranscriptionFrame("It was.", "", "now", Language.KN, result))
    assert caption["final"] is True
    assert caption["language"] == "kn"
    assert caption["words"][1] == {"word": "was.", "start_s": 0.4, "end_s": 0.5, "confidence": 0.8}


async def test_a_transcription_of_another_service_has_no_words_to_tell():
    foreign = TranscriptionFrame("hello", "", "now", None, result={"vendor": 1})
    assert await captions(foreign) == [
        {"type": "caption", "text": "hello", "final": True, "language": None}
    ]


async def test_other_text_is_no_caption():
    assert await captions(TextFrame("hello")) == []
