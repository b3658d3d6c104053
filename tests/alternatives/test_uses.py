"""Another system in the places where recognisers are used: a file, and a call's pipeline."""

from __future__ import annotations

import pytest
import soundfile

from voice_agent.alternatives import Choice, load, service

WORDS = ("complaint", "wizard", "curtain")


@pytest.fixture
def choice(tiny_whisper) -> Choice:
    pytest.importorskip("faster_whisper")
    return Choice(model=str(tiny_whisper), device="cpu")


def test_a_file_is_transcribed_by_it(choice, speech, tmp_path):
    from voice_agent.transcribe.audio import open_audio
    from voice_agent.transcribe.transcriber import transcribe

    pcm, _ = speech
    soundfile.write(tmp_path / "reader.wav", pcm, 16_000)
    recognizer = load("faster-whisper", choice)
    with open_audio(str(tmp_path / "reader.wav")) as audio:
        said = transcribe(audio, recognizer)
    recognizer.close()
    assert all(word in said.text for word in WORDS), said
    assert said.language == "en"


async def test_a_call_hears_through_it(choice, speech):
    from pipecat.frames.frames import (
        InputAudioRawFrame,
        TranscriptionFrame,
        VADUserStartedSpeakingFrame,
        VADUserStoppedSpeakingFrame,
    )
    from pipecat.tests.utils import SleepFrame, run_test

    pcm, _ = speech
    audio = (pcm * 32767).astype("<i2").tobytes()
    stt = service("faster-whisper", choice)
    frames = [VADUserStartedSpeakingFrame()]
    frames += [
        InputAudioRawFrame(audio=audio[i : i + 2_560], sample_rate=16_000, num_channels=1)
        for i in range(0, len(audio), 2_560)
    ]
    frames += [VADUserStoppedSpeakingFrame(), SleepFrame(sleep=0.1)]
    # The service's stop waits for the final that it owes, so no sleep here has to be long enough.
    down, _ = await run_test(stt, frames_to_send=frames)
    stt._recognizer.close()
    finals = [f for f in down if isinstance(f, TranscriptionFrame)]
    assert len(finals) == 1
    assert finals[0].finalized
    assert all(word in finals[0].text for word in WORDS)


def test_the_gate_gives_each_language_to_the_system_that_writes_it(choice, speech, tmp_path):
    pytest.importorskip("transformers")
    from tests.alternatives import checkpoints
    from tests.support.collect import Collector
    from voice_agent.engine.gate import load_gate

    mms = str(checkpoints.wav2vec2(tmp_path, languages=("kan",)))
    english = load("faster-whisper", choice)
    kannada = load("mms", Choice(model=mms, device="cpu", language="kn"))
    gate = load_gate({"kn": kannada, "en": english}, device="cpu")
    got = Collector()
    stream = gate.open(got)
    stream.feed(speech[0])
    stream.finish()
    final = got.final()
    gate.close()
    assert final.language == "en"
    assert all(word in final.text for word in WORDS), final.text
