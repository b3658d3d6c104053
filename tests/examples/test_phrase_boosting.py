"""`examples/phrase_boosting.py` on a random model: nonsense, but with the phrase in it."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from tests.examples.load import load_example


@pytest.fixture
def recording(tmp_path) -> str:
    path = tmp_path / "said.wav"
    noise = np.random.default_rng(3).normal(0, 0.2, (16_000 * 6, 2))
    soundfile.write(path, noise, 16_000)
    return str(path)


def test_a_phrase_is_heard_with_and_not_without(recording, checkpoint, capsys):
    load_example("phrase_boosting").main(recording, "zebras=20", "the wizard", model=checkpoint)
    without, boosted = capsys.readouterr().out.splitlines()
    assert without.startswith("without: ") and "zebras" not in without
    assert boosted.startswith("with: ") and "zebras" in boosted


def test_a_phrase_that_cannot_be_written_is_named(recording, checkpoint):
    with pytest.raises(ValueError, match="ಶುಭೋದಯ"):
        load_example("phrase_boosting").main(recording, "ಶುಭೋದಯ", model=checkpoint)
