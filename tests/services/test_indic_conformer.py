"""IndicConformer alone in a real Pipecat pipeline, on the shipped model and espeak-ng's Kannada."""

from __future__ import annotations

import random

import numpy as np
import pytest
from pipecat.frames.frames import ErrorFrame, InputAudioRawFrame, TranscriptionFrame
from pipecat.tests.utils import SleepFrame
from pipecat.transcriptions.language import Language

from tests.support.frames import CHUNK, RATE, of_type, run, started, stopped
from training.kannada_speech import kannada_voice, speak
from voice_agent.services import IndicConformerSTTService

SENTENCE = "ಮಕ್ಕಳು ಶಾಲೆಗೆ ಹೋದರು"


@pytest.fixture(scope="module")
def frames():
    audio, _ = speak(kannada_voice(), SENTENCE, random.Random(3), ("",))
    pieces = [audio[i : i + CHUNK] for i in range(0, len(audio), CHUNK)]
    return [
        started(),
        *(InputAudioRawFrame(p.astype(np.int16).tobytes(), RATE, 1) for p in pieces),
        stopped(),
    ]


async def test_kannada_comes_as_one_finalised_final_in_kannada_script(frames):
    jiwer = pytest.importorskip("jiwer")
    stt = IndicConformerSTTService(device="cpu", ttfs_p99_latency=1.0)
    down, _ = await run(stt, frames)
    (final,) = of_type(down, TranscriptionFrame)
    assert final.language == Language.KN and final.finalized
    assert jiwer.cer(SENTENCE, final.text) < 0.4


async def test_calls_share_one_load():
    first, second = (IndicConformerSTTService(device="cpu") for _ in range(2))
    loaded = [await s.load_recognizer() for s in (first, second)]
    assert loaded[0] is loaded[1]


async def test_a_language_that_the_model_does_not_know_ends_the_call_with_a_sentence():
    settings = IndicConformerSTTService.Settings(language="ta")
    stt = IndicConformerSTTService(device="cpu", settings=settings, ttfs_p99_latency=1.0)
    _, up = await run(stt, SleepFrame(0.1))
    assert "tiny-kn writes kn, not 'ta'" in of_type(up, ErrorFrame)[0].error
