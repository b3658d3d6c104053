"""The server that the tests of this folder share, and the speech that they send to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent_server import SAID, RunningServer, scripted_server
from voice_agent.demo.clip import Clip, load_clip


@pytest.fixture(scope="session")
def shared_server() -> Iterator[RunningServer]:
    running = scripted_server()
    yield running
    running.stop()


@pytest.fixture
def server(shared_server) -> Iterator[RunningServer]:
    """The shared server, which is idle before and after each test."""
    shared_server.assert_idle()
    yield shared_server
    shared_server.assert_idle()


@pytest.fixture(scope="session")
def speech_file() -> Path:
    """A recording of a human voice, out of the wheel of the extra `demo`."""
    moonshine = pytest.importorskip("moonshine_voice", reason="its clip needs the extra 'demo'")
    return Path(moonshine.__file__).parent / "assets" / "two_cities.wav"


@pytest.fixture(scope="session")
def clip(speech_file) -> Clip:
    """Two seconds of it: "It was the best of times"."""
    return load_clip(str(speech_file), SAID, from_s=1.0, to_s=2.95)
