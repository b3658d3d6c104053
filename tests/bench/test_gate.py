"""`bench gate`: how segments are played and timed, and how times add up."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.engine.gate_fixtures import LevelIdentifier, speech
from tests.support.scripted import ScriptedRecognizer
from voice_agent.bench import gate as bench
from voice_agent.bench.app import app
from voice_agent.bench.gate_speech import Utterance
from voice_agent.engine.errors import EngineError
from voice_agent.engine.gate import GatedRecognizer
from voice_agent.engine.recognizer import SAMPLE_RATE


@pytest.fixture
def gated():
    made = GatedRecognizer(
        {
            "en": ScriptedRecognizer([(0.2, "good"), (0.6, "good morning")], name="rec-en"),
            "kn": ScriptedRecognizer([(0.2, "ಶುಭ"), (0.6, "ಶುಭೋದಯ")], languages=["kn"]),
        },
        LevelIdentifier(),
    )
    yield made
    made.close()


def test_a_diverted_segment_is_timed_from_partials_in_its_own_language(gated):
    heard = bench.play(gated, speech("kn", 0.9))
    assert heard.language == "kn"
    assert heard.partial_s >= 0.5, "the English one before the decision does not count"
    assert heard.decided_s == pytest.approx(heard.partial_s, abs=0.2)
    assert heard.audio_s == pytest.approx(0.9 + bench.STOP_S)
    assert heard.final_s >= 0


def test_an_english_segments_first_partial_counts_though_it_was_tentative(gated):
    heard = bench.play(gated, speech("en", 0.9))
    assert heard.language == "en"
    assert heard.partial_s < heard.decided_s


def test_a_failure_of_the_recogniser_is_raised():
    recognizer = ScriptedRecognizer([(0.1, "good")])

    class Failing(ScriptedRecognizer):
        def open(self, on_event, **options):
            stream = recognizer.open(on_event, **options)
            stream.fail("the device fell off the bus")
            return stream

    with pytest.raises(EngineError, match="fell off the bus"):
        bench.play(Failing(), speech("en", 0.2), "en")


def test_pairs_play_the_same_segment_with_the_gate_off_and_on(gated):
    clips = [Utterance("a", "en", speech("en", 0.7)), Utterance("b", "kn", speech("kn", 0.7))]
    found = bench.pair_up(gated, clips, 2)
    assert [(off.language, on.language) for off, on in found] == [("en", "en")] * 2
    assert all(off.decided_s is None and on.decided_s is not None for off, on in found)
    row, slow = bench.diverted(gated, clips, "kn", 0.8, 2)
    assert (row.segments, row.diverted, len(slow)) == (2, 2, 2)
    assert row.final_p99_s >= row.final_p50_s


def test_stretches_have_the_length_that_was_asked_for_and_differ():
    clips = [speech("en", 0.5), speech("kn", 0.5)]
    stretches = bench.stretches(clips, 1.2)
    first, second = next(stretches), next(stretches)
    assert len(first) == len(second) == round(1.2 * SAMPLE_RATE)
    assert not np.array_equal(first, second)
    assert list(bench.stretches([], 1.0)) == []


def heard(partial_s, final_s):
    return bench.Heard("en", partial_s, final_s, None, 1.0)


def test_differences_are_within_pairs():
    # Segments differ by far more than the two halves of a pair.
    found = [(heard(t, t), heard(t + 0.01, t + 0.002)) for t in (0.1, 0.9, 0.3, 0.5)]
    partial, final = bench.paired(found)
    assert (partial.what, partial.segments) == ("first partial", 4)
    assert partial.difference_s == pytest.approx(0.01)
    assert (final.low_s, final.high_s) == pytest.approx((0.002, 0.002))
    assert "| first partial | 4 | 400 | 410 |" in bench.table("en", [partial, final], [])


def test_a_pair_without_a_partial_counts_for_finals_alone():
    (row,) = bench.paired([(heard(None, 0.1), heard(0.2, 0.1))] * 2)
    assert row.what == "final"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "kn"], "is not CODE=MODEL"),
        (["--lengths", "one"], "could not convert"),
    ],
)
def test_a_wrong_option_is_named(arguments, says):
    ran = CliRunner().invoke(app, ["gate", *arguments])
    assert ran.exit_code == 2
    assert says in ran.output


def test_the_command_writes_down_what_it_prints(gated, monkeypatch, tmp_path):
    clips = [Utterance("a", "en", speech("en", 0.7)), Utterance("b", "kn", speech("kn", 0.8))]
    monkeypatch.setattr("voice_agent.bench.gate_speech.read", lambda *_: clips)
    monkeypatch.setattr("voice_agent.engine.gate.load_gate", lambda *_, **__: gated)
    out = tmp_path / "gate.json"
    options = ["--pairs", "2", "--lengths", "0.8", "--repeats", "1", "--out", str(out)]
    ran = CliRunner().invoke(app, ["gate", *options])
    assert ran.exit_code == 0, ran.output
    report = json.loads(out.read_text())
    assert bench.markdown(report) in ran.output
    assert "| kn | 0.8 s | 1 of 1 |" in ran.output
    slowest = max(report["diverted"][0]["final_p99_s"], report["paired"][1]["on_p99_s"])
    assert report["ttfs_p99_s"] == pytest.approx(slowest + bench.STOP_S)
