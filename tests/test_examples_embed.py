"""`examples/embed_in_pipecat_bot.py` runs as it stands."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from tests.support.checkpoints import random_nemo
from tests.support.voice import speech

EXAMPLE = Path(__file__).parents[1] / "examples" / "embed_in_pipecat_bot.py"


@pytest.fixture
def recording(tmp_path) -> Path:
    """Speech at 8 kHz in stereo, so that the example must convert it."""
    mono = soxr.resample(speech("It was the best of times. It was the worst of times."), 16, 8)
    path = tmp_path / "said.wav"
    soundfile.write(path, np.stack([mono, mono], axis=1), 8_000)
    return path


def test_it_prints_what_it_hears(recording, tmp_path):
    _, model = random_nemo(tmp_path)  # which hears nonsense, but hears
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), str(recording), str(model)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) > 3, done.stderr


def test_it_fits_on_a_screen():
    assert len(EXAMPLE.read_text().splitlines()) <= 40
