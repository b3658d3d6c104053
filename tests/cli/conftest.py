"""A recording, and a recogniser that says what it is told."""

import numpy as np
import pytest
import soundfile

from tests.support.scripted import ScriptedRecognizer


@pytest.fixture
def noise(tmp_path) -> str:
    path = tmp_path / "noise.flac"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 44100 * 2), 44100)
    return str(path)


@pytest.fixture
def scripted(monkeypatch):
    """`load_recognizer` gives a recogniser that says what it is told; its arguments are kept."""
    made = ScriptedRecognizer([(0.5, "good"), (1.5, "good morning")], languages=("en", "kn"))
    made.loaded_with = {}

    def load(model, **options):
        made.loaded_with = {"model": model, **options}
        return made

    monkeypatch.setattr("voice_agent.engine.load_recognizer", load)
    yield made
    made.close()
