"""A recording through a recogniser that says what it is told."""

import json

import numpy as np
import pytest
import soundfile

from tests.support.scripted import ScriptedRecognizer
from voice_agent.engine.errors import EngineError
from voice_agent.engine.recognizer import Failed, Word
from voice_agent.transcribe import formats
from voice_agent.transcribe.audio import open_audio
from voice_agent.transcribe.errors import OptionNotServed
from voice_agent.transcribe.transcriber import Segment, Transcript, transcribe


@pytest.fixture
def recording(tmp_path):
    """Three seconds of noise at 8 kHz."""
    path = tmp_path / "noise.wav"
    noise = np.random.default_rng(0).normal(0, 0.1, 24000)
    soundfile.write(path, noise, 8000)
    return str(path)


@pytest.fixture
def recognizer():
    made = ScriptedRecognizer([(0.5, "good"), (1.0, "good morning"), (2.0, "good morning all")])
    yield made
    made.close()


def test_one_segment_is_the_whole_file(recording, recognizer):
    partials: list[str] = []
    done: list[float] = []
    with open_audio(recording) as audio:
        transcript = transcribe(
            audio,
            recognizer,
            one_segment=True,
            on_partial=partials.append,
            on_progress=done.append,
        )
    (segment,) = transcript.segments
    assert transcript.text == segment.text == "good morning all"
    assert partials == ["good", "good morning", "good morning all"]
    assert done == [0.5, 1.0, 2.0, pytest.approx(3.0, abs=0.01)]
    assert (segment.start_s, segment.end_s) == pytest.approx((0.0, 3.0), abs=0.01)
    (heard,) = recognizer.opened[0].segments
    assert heard.size == pytest.approx(48000, abs=3)
    assert recognizer.streams == [], "the slot is given back"


def test_noise_has_no_segment_for_the_vad(recording, recognizer):
    done: list[float] = []
    with open_audio(recording) as audio:
        transcript = transcribe(audio, recognizer, on_progress=done.append)
    assert len(done) > 2 and done[-1] == pytest.approx(3.0, abs=0.01), "a second at a time"
    assert transcript.segments == () and transcript.text == "" and transcript.language is None


def test_word_times_count_from_the_start_of_the_recording(monkeypatch, recording, recognizer):
    # The VAD hears speech from the second second on.
    position = iter(range(10**6))
    monkeypatch.setattr(
        "voice_agent.transcribe.transcriber.silero",
        lambda: lambda window: float(next(position) * 512 >= 16000),
    )
    with open_audio(recording) as audio:
        (segment,) = transcribe(audio, recognizer).segments
    assert segment.start_s == pytest.approx(1.0 - 0.4, abs=0.07)  # pre-roll less proof
    assert segment.words[0].start_s == pytest.approx(segment.start_s)
    assert segment.words[-1].end_s == pytest.approx(segment.end_s, abs=0.1)


def test_a_failing_recogniser_ends_the_transcription_with_its_error(recording):
    class Failing(ScriptedRecognizer):
        def open(self, *args, **kwargs):
            stream = super().open(*args, **kwargs)
            stream.emit(Failed(EngineError("the device fell off the bus")))
            return stream

    recognizer = Failing([(0.1, "x")])
    with open_audio(recording) as audio, pytest.raises(EngineError, match="fell off the bus"):
        transcribe(audio, recognizer, one_segment=True)
    assert recognizer.streams == []


def test_an_option_that_the_recogniser_does_not_have_is_named(recording):
    class EnglishAlone(ScriptedRecognizer):
        def open(self, on_event, *, options=None, **kwargs):
            if options.language != "en":
                raise ValueError(f"scripted writes en, not {options.language!r}")
            return super().open(on_event, options=options, **kwargs)

    recognizer = EnglishAlone([(0.1, "x")])
    with open_audio(recording) as audio, pytest.raises(OptionNotServed, match="en, not 'kn'"):
        transcribe(audio, recognizer, language="kn")
    with open_audio(recording) as audio:
        assert transcribe(audio, recognizer, language="en", one_segment=True).language == "en"


# Formats


def words(text: str, start_s: float, each_s: float) -> tuple[Word, ...]:
    return tuple(
        Word(word, start_s + i * each_s, start_s + (i + 0.9) * each_s, 0.87654)
        for i, word in enumerate(text.split())
    )


LONG = "it was the best of times it was the worst of times it was the age of wisdom"
TRANSCRIPT = Transcript(
    file="two.wav",
    text=f"good <b> day {LONG}",
    language="en",
    segments=(
        Segment("good <b> day", 0.5, 2.0, (4, 2), words("good <b> day", 0.6, 0.4), "en"),
        Segment(LONG, 3600.0, 3612.0, (7,), words(LONG, 3600.25, 0.5), "en"),
    ),
)


def test_txt_is_a_line_a_segment():
    assert formats.to_txt(TRANSCRIPT) == f"good <b> day\n{LONG}\n"


def test_json_has_the_keys_that_are_promised():
    (file,) = json.loads(formats.to_json([TRANSCRIPT]))
    assert list(file) == ["file", "text", "language", "segments"]
    first = file["segments"][0]
    assert list(first) == ["text", "start_s", "end_s", "tokens", "words"]
    assert first["tokens"] == [4, 2]
    assert first["words"][0] == {
        "word": "good",
        "start_s": 0.6,
        "end_s": 0.96,
        "confidence": 0.8765,
    }


def test_json_keeps_kannada_readable():
    kannada = Transcript("kn.wav", "ನಮಸ್ಕಾರ", "kn", ())
    assert "ನಮಸ್ಕಾರ" in formats.to_json([kannada])


def test_srt_breaks_long_segments_into_readable_cues():
    text = formats.to_srt(TRANSCRIPT)
    assert text.startswith("1\n00:00:00,600 --> 00:00:01,760\ngood <b> day\n\n2\n")
    assert "01:00:00,250 --> " in text
    lines = [line for line in text.splitlines() if line and "-->" not in line]
    assert all(len(line) <= formats.CUE_LINE for line in lines)
    shown = " ".join(line for line in lines if not line.isdigit())
    assert shown == TRANSCRIPT.text
    for cue in formats.cues(TRANSCRIPT):
        assert 0 < cue.end_s - cue.start_s <= formats.CUE_S


def test_vtt_has_a_header_and_escapes_markup():
    text = formats.to_vtt(TRANSCRIPT)
    assert text.startswith("WEBVTT\n\n00:00:00.600 --> 00:00:01.760\ngood &lt;b&gt; day\n")


def test_words_without_times_get_their_share_of_the_segment():
    bare = Transcript("a.wav", "hello", None, (Segment("hello", 1.0, 2.5, (), (), None),))
    assert formats.to_srt(bare) == "1\n00:00:01,000 --> 00:00:02,500\nhello\n"
    long = Transcript("a.wav", LONG, None, (Segment(LONG, 10.0, 30.0, (), (), None),))
    cues = list(formats.cues(long))
    assert " ".join(cue.text for cue in cues) == LONG
    assert len(cues) > 2 and (cues[0].start_s, cues[-1].end_s) == pytest.approx((10.0, 30.0))
    for cue, after in zip(cues, cues[1:], strict=False):
        assert cue.end_s == pytest.approx(after.start_s)
        assert cue.end_s - cue.start_s <= formats.CUE_S
