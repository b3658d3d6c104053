"""The gate behind faces that know nothing of it: `/v1/listen` and files, with two languages."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import websockets

from tests.engine.gate_fixtures import LEVELS, LevelIdentifier
from tests.support.scripted import ScriptedRecognizer
from tests.support.serving import RATE, pieces, serving, silence
from voice_agent.engine.gate import GatedRecognizer, GateSettings
from voice_agent.transcribe.audio import open_audio
from voice_agent.transcribe.transcriber import transcribe

ENGLISH, KANNADA = "good morning", "ಶುಭೋದಯ"


@pytest.fixture
def gate():
    made = GatedRecognizer(
        {
            "en": ScriptedRecognizer([(0.4, "good"), (0.8, ENGLISH)], name="rec-en"),
            "kn": ScriptedRecognizer([(0.8, KANNADA)], name="rec-kn", languages=["kn"]),
        },
        LevelIdentifier(),
        settings=GateSettings(patience_s=5.0),
    )
    yield made
    made.close()


def spoken(language: str) -> np.ndarray:
    """A second and a half: int16, shape (n,)."""
    return np.full(round(1.5 * RATE), round(LEVELS[language] * 32768), np.int16)


async def test_results_of_the_listen_protocol_are_in_the_language_that_was_spoken(gate):
    audio = np.concatenate([spoken("en"), silence(1.0), spoken("kn"), silence(1.0)])
    async with serving(gate) as server:
        url = server.listen(language="multi")
        async with websockets.connect(url) as ws:
            for piece in pieces(audio):
                await ws.send(piece)
            await ws.send('{"type": "CloseStream"}')
            got = [json.loads(text) async for text in ws]
    best = [m["channel"]["alternatives"][0] for m in got if m["type"] == "Results"]
    finals = [(b["transcript"], b["languages"]) for b in best if b["transcript"]]
    assert finals == [(ENGLISH, ["en"]), (KANNADA, ["kn"])]


def test_a_file_is_transcribed_in_the_language_that_is_spoken(gate, tmp_path):
    for language, text in (("en", ENGLISH), ("kn", KANNADA)):
        file = tmp_path / f"{language}.wav"
        soundfile.write(file, spoken(language), RATE)
        with open_audio(str(file)) as audio:
            transcript = transcribe(audio, gate, one_segment=True)
        assert (transcript.text, transcript.language) == (text, language)
