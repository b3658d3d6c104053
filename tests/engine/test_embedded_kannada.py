"""The shipped tiny-kn and tiny-lid, on speech that is made here."""

from __future__ import annotations

import random

import pytest

from tests.support.collect import Collector
from training.kannada_speech import kannada_voice, speak
from voice_agent.engine.indic_conformer import load_indic_conformer
from voice_agent.engine.lid import load_language_identifier
from voice_agent.models import HERE


@pytest.fixture(scope="module")
def said():
    """A plain sentence in the plain voice: "the children went to school"."""
    engine = kannada_voice()
    audio, _ = speak(engine, "ಮಕ್ಕಳು ಶಾಲೆಗೆ ಹೋದರು", random.Random(3), ("",))
    return audio


def test_tiny_kn_writes_what_its_own_voice_says(said):
    jiwer = pytest.importorskip("jiwer")
    recognizer = load_indic_conformer(str(HERE / "tiny-kn"), device="cpu", threads=1)
    heard = Collector()
    stream = recognizer.open(heard)
    for start in range(0, len(said), 3200):
        stream.feed(said[start : start + 3200])
    stream.finish()
    final = heard.final()
    recognizer.close()
    assert final.language == "kn"
    assert jiwer.cer("ಮಕ್ಕಳು ಶಾಲೆಗೆ ಹೋದರು", final.text) < 0.15
    assert [w.end_s for w in final.words] == sorted(w.end_s for w in final.words)


def test_tiny_kn_fits_its_budget():
    size = sum(p.stat().st_size for p in (HERE / "tiny-kn").rglob("*") if p.is_file())
    assert size <= 8 * 2**20
    assert (HERE / "tiny-lid.onnx").stat().st_size <= 2 * 2**20


def test_tiny_lid_tells_a_kannada_sentence_of_its_own_voice(said):
    identifier = load_language_identifier("embedded", model=str(HERE / "tiny-lid.onnx"))
    scores = identifier.identify(said)
    assert scores.speech_s > 0.8
    assert scores.best == "kn"
