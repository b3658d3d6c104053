"""`examples/embed_in_pipecat_bot.py` runs as it stands, and beside packages of the bot's own."""

import shutil
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


def heard_by(bot: Path, recording: Path, folder: Path) -> list[str]:
    """The words that a bot prints, with a model that hears nonsense, but hears."""
    _, model = random_nemo(folder)
    done = subprocess.run(
        [sys.executable, str(bot), str(recording), str(model)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_it_prints_what_it_hears(recording, tmp_path):
    assert len(heard_by(EXAMPLE, recording, tmp_path)) > 3


def test_it_runs_in_a_folder_that_has_services_and_processors_of_its_own(recording, tmp_path):
    for package in ("services", "processors"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('ours were meant')\n")
    bot = shutil.copy(EXAMPLE, tmp_path / "bot.py")
    assert len(heard_by(bot, recording, tmp_path)) > 3


def test_it_fits_on_a_screen():
    assert len(EXAMPLE.read_text().splitlines()) <= 40
