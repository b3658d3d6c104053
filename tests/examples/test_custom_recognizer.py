"""`examples/custom_recognizer.py`, started as somebody would and asked over the network."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.examples.load import EXAMPLES, load_example
from tests.support.collect import Collector
from tests.support.voice import speech
from voice_agent.config import Settings
from voice_agent.engine.recognizer import Recognizer


def buzz(hz: int, seconds: float) -> np.ndarray:
    """Pulses, as a larynx gives them: float32 at 16 kHz."""
    pulses = np.zeros(round(16_000 * seconds), np.float32)
    pulses[:: 16_000 // hz] = 0.5
    return pulses


@pytest.fixture
def recognizer() -> Iterator[Recognizer]:
    recognizer = load_example("custom_recognizer").load(Settings())
    yield recognizer
    recognizer.close()


def test_it_keeps_the_protocol(recognizer):
    assert isinstance(recognizer, Recognizer)
    heard = Collector()
    stream = recognizer.open(heard)
    stream.feed(buzz(200, 1.0))
    stream.finish()
    assert heard.final().text == "a voice of 200 hertz"
    stream.feed(buzz(100, 1.0))
    stream.finish()
    assert heard.final().text == "a voice of 100 hertz"
    stream.feed(buzz(100, 0.001))
    stream.finish()
    assert heard.final().text == ""


def test_clients_of_the_server_hear_from_it(tmp_path: Path):
    recording = tmp_path / "said.wav"
    pcm = np.concatenate([speech(), np.zeros(16_000, np.int16)])
    soundfile.write(recording, pcm, 16_000)
    command = [sys.executable, EXAMPLES / "custom_recognizer.py", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            ready = server.stdout.readline()
            assert ready.startswith("pitch-meter: http://localhost:")
            url = ready.split()[-1].replace("http", "ws")
            client = subprocess.run(
                [sys.executable, EXAMPLES / "listen.py", recording, url],
                capture_output=True,
                text=True,
                timeout=60,
            )
        finally:
            server.send_signal(signal.SIGTERM)
    assert client.returncode == 0, client.stderr
    assert re.fullmatch(r"(a voice of \d+ hertz\n)+", client.stdout)
    assert server.returncode == 0
