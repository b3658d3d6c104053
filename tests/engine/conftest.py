from __future__ import annotations

import numpy as np
import pytest

from tests.support.checkpoints import random_nemo


@pytest.fixture(scope="session")
def random_model(tmp_path_factory):
    """A random NeMo model and its `.nemo` file."""
    return random_nemo(tmp_path_factory.mktemp("random"))


@pytest.fixture(scope="session")
def random_checkpoint(random_model):
    from voice_agent.engine.checkpoint import read_nemo

    return read_nemo(random_model[1])


@pytest.fixture(scope="module")
def recognizer(random_checkpoint):
    """Four slots of the random model on the CPU; a module that wants another has its own."""
    from voice_agent.engine.nemotron import NemotronRecognizer
    from voice_agent.engine.runner import EngineRunner

    recognizer = NemotronRecognizer(
        random_checkpoint, EngineRunner(random_checkpoint, slots=4), slots=4
    )
    yield recognizer
    recognizer.close()


@pytest.fixture
def noise():
    """Audio of any length that a random model does not find dull."""

    def make(samples: int, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        swell = np.sin(np.arange(samples) / 3000) ** 2
        return (rng.standard_normal(samples) * 0.2 * swell).astype(np.float32)

    return make


@pytest.fixture
def caller():
    """A gated stream of English and Kannada; see `Caller`."""
    from tests.engine.gate_fixtures import Caller

    return Caller()
