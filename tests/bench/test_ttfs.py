"""`voice-agent bench ttfs`: what it plays, what it counts, and what it says."""

import re

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from tests.support.scripted import ScriptedRecognizer
from tests.support.voice import speech
from voice_agent import engine
from voice_agent.bench import ttfs
from voice_agent.bench.app import app
from voice_agent.engine.errors import EngineError


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """A short sentence, float32 at 16 kHz."""
    return speech().astype(np.float32) / 32768


class Deaf(ScriptedRecognizer):
    """Fails as soon as it is spoken to."""

    def open(self, *args, **options):
        stream = super().open(*args, **options)
        stream.feed = lambda pcm: stream.fail()
        return stream


async def test_a_segment_counts_from_the_end_of_speech(clip):
    recognizer = ScriptedRecognizer([(0.3, "good")])
    seconds = await ttfs.measure(recognizer, [clip], 2, None)
    assert len(seconds) == 2
    assert min(seconds) >= ttfs.STOP_S, "the VAD has waited for that much silence"
    assert recognizer.streams == []


async def test_recordings_without_words_are_played_once():
    silence = np.zeros(8000, np.float32)
    with pytest.raises(ttfs.NothingHeard, match="heard no words"):
        await ttfs.measure(ScriptedRecognizer(), [silence], 5, None)


async def test_a_recogniser_that_fails_ends_the_measurement(clip):
    with pytest.raises(EngineError, match="fell off the bus"):
        await ttfs.measure(Deaf(), [clip], 5, None)


def test_percentiles_are_of_all_segments():
    row = ttfs.row([0.01 * i for i in range(101)], {}, model="m", device="cpu", context=None)
    assert (row.segments, row.p50_s, row.p99_s) == (101, 0.5, pytest.approx(0.99))


def test_the_command_tells_what_the_figures_hold_for(clip, tmp_path, monkeypatch):
    recognizer = ScriptedRecognizer([(0.3, "good")])
    recognizer.device = "cpu"
    monkeypatch.setattr(engine, "load_recognizer", lambda model, **_: recognizer)
    soundfile.write(tmp_path / "a.wav", clip, 16_000)
    done = CliRunner().invoke(app, ["ttfs", "--manifest", str(tmp_path), "--segments", "1"])
    assert done.exit_code == 0, done.output
    assert (
        "TTFS of tiny-en on cpu, right context default, VAD stop 0.2 s, 1 segments" in done.output
    )
    assert "p99 0." in done.output and "python" in done.output


def test_a_manifest_that_is_none_is_named(tmp_path):
    done = CliRunner().invoke(app, ["ttfs", "--manifest", str(tmp_path)])
    assert done.exit_code == 2
    told = re.sub("[│─╭╮╰╯]", " ", done.output)  # of the box around it
    assert "holds no recordings" in " ".join(told.split())
