"""`bench lid`: what is asked, how answers add up, and a run on the shipped identifier."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from tests.engine.gate_fixtures import LevelIdentifier, silence, speech
from voice_agent.bench import gate_speech, gate_thresholds, lid
from voice_agent.bench.app import app
from voice_agent.bench.gate_speech import Utterance, excerpts
from voice_agent.engine.gate_policy import GateSettings
from voice_agent.engine.lid import speech_seconds
from voice_agent.engine.recognizer import SAMPLE_RATE


def test_an_excerpt_ends_where_its_speech_is_enough():
    pcm = np.concatenate([silence(1.0), speech("en", 4.0)])
    first, second = excerpts(pcm, 1.0)
    assert first.size / SAMPLE_RATE == pytest.approx(2.0, abs=0.08)
    assert second.size / SAMPLE_RATE == pytest.approx(1.0, abs=0.08)
    assert speech_seconds(first) >= 1.0
    assert list(excerpts(silence(5.0), 0.5)) == []


@pytest.mark.parametrize(
    ("own", "rest", "area"),
    [
        ([0.9, 0.8], [0.1, 0.2], 1.0),
        ([0.1, 0.2], [0.9, 0.8], 0.0),
        ([0.5], [0.5], 0.5),
        ([0.9, 0.3], [0.5], 0.5),
        ([], [0.5], None),
    ],
)
def test_auc_is_the_chance_that_a_positive_outranks_a_negative(own, rest, area):
    assert lid.auc(own, rest) == area


def test_a_language_that_the_gate_does_not_serve_is_right_when_it_is_other():
    other = lid.Answer("hi", {"en": 0.1, "kn": 0.2, "other": 0.7}, 1.0, 0.01)
    assert other.right(("en", "kn"))
    assert not lid.Answer("kn", other.posteriors, 1.0, 0.01).right(("en", "kn"))


def test_answers_add_up_by_language_and_seconds_of_speech():
    utterances = [
        Utterance("a", "en", speech("en", 2.5)),
        Utterance("b", "kn", speech("kn", 1.2)),
        Utterance("c", "hi", speech("noise", 1.2)),
    ]
    answers = lid.ask(LevelIdentifier(), utterances, ("en", "kn"))
    rows = lid.rows_of("levels", "levels", answers, ("en", "kn"))
    assert {r.accuracy for r in rows} == {1.0}
    assert {(r.language, r.speech_s): r.auc for r in rows}["kn", 1.0] == 1.0
    assert [r.speech_s for r in rows if r.language == "other"] == [0.25, 0.5, 1.0]
    assert [r.auc for r in rows if r.language == "other"] == [None] * 3
    assert "| levels | en | 100 % of 1, 1.000 |" in lid.table(rows)


def hear(pcm):
    return lambda start, stop: LevelIdentifier().identify(pcm[start:stop]).posteriors


@pytest.mark.parametrize(
    ("spoken", "parts", "final", "strayed"),
    [
        ("en", [("en", 3.0)], "en", False),
        ("kn", [("kn", 3.0)], "kn", False),
        ("en", [("kn", 1.0), ("en", 9.0)], "en", True),
        ("hi", [("noise", 3.0)], "en", False),
    ],
)
def test_the_policy_is_led_as_the_gate_would(spoken, parts, final, strayed):
    pcm = np.concatenate([speech(code, seconds) for code, seconds in parts])
    outcome = gate_thresholds.lead(spoken, pcm, GateSettings(), hear(pcm))
    assert (outcome.final, outcome.strayed) == (final, strayed)
    if spoken == "kn":
        assert outcome.decided_s == pytest.approx(0.5, abs=0.08)


def test_clips_are_cut_into_segments_and_no_sample_is_lost():
    clips = [Utterance("a", "en", speech("en", 9.5)), Utterance("b", "kn", speech("kn", 0.4))]
    cut = list(gate_thresholds.segments(clips, 4.0))
    assert [(code, len(pcm) / SAMPLE_RATE) for code, pcm in cut] == [
        ("en", 4.0),
        ("en", 4.0),
        ("en", 1.5),
        ("kn", 0.4),
    ]


def test_a_higher_threshold_never_diverts_more():
    rng = np.random.default_rng(0)
    clips = []
    for number in range(12):
        mix = rng.random(20) < 0.5
        pcm = np.concatenate([speech("kn" if other else "en", 0.2) for other in mix])
        clips.append(Utterance(str(number), "en", pcm))
    found = gate_thresholds.search(LevelIdentifier(), clips, ("en", "kn"), 4.0)
    rest = GateSettings()
    strayed = {
        row.threshold: row.strayed
        for row in found
        if (row.final_threshold, row.window_s) == (rest.final_threshold, rest.window_s)
    }
    by_threshold = [strayed[t] for t in gate_thresholds.THRESHOLDS]
    assert by_threshold == sorted(by_threshold, reverse=True) and by_threshold[0] > 0


def test_a_change_of_language_is_followed_and_more_slowly_with_more_confirmations():
    clips = [Utterance("a", "en", speech("en", 4.0)), Utterance("b", "kn", speech("kn", 7.0))]
    found = gate_thresholds.search(LevelIdentifier(), clips, ("en", "kn"), 4.0)
    changed = {row.settings: row for row in found if row.group == "en>kn"}
    assert [row.segments for row in changed.values()] == [1] * len(changed)
    rest = GateSettings()
    own = (rest.threshold, rest.final_threshold, rest.hysteresis, rest.window_s)
    one, two, three = (changed[*own, n] for n in gate_thresholds.CONFIRMATIONS)
    assert one.right == two.right == three.right == 1
    assert one.decided_p50_s < two.decided_p50_s < three.decided_p50_s


def decided(group, segments, right, strayed, threshold=0.9):
    rest = GateSettings()
    return gate_thresholds.Decided(
        threshold, rest.final_threshold, rest.hysteresis, rest.window_s, rest.confirmations,
        group, segments, right, strayed, None,
    )  # fmt: skip


def test_the_best_finds_most_of_what_leaves_english_alone():
    found = [
        decided("en", 1000, 994, 6, 0.6), decided("kn", 10, 10, 0, 0.6),  # too many diverted
        decided("en", 1000, 996, 4, 0.7), decided("kn", 10, 8, 0, 0.7),
        decided("en", 1000, 999, 1, 0.8), decided("kn", 10, 8, 0, 0.8),
        decided("en", 1000, 1000, 0, 0.9), decided("kn", 10, 7, 0, 0.9),
        decided("other", 5, 3, 2, 0.7), decided("other", 5, 4, 1, 0.8),
    ]  # fmt: skip
    assert gate_thresholds.best(found, "en").threshold == 0.8
    assert gate_thresholds.best([], "en") is None


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    lines = []
    for number, clip in enumerate(gate_speech.spoken(("en", "kn"))[::8]):
        soundfile.write(folder / f"{number}.wav", clip.pcm, SAMPLE_RATE)
        lines.append(json.dumps({"audio": f"{number}.wav", "language": clip.language}))
    (folder / "manifest.jsonl").write_text("\n".join(lines))
    return folder


def test_the_command_prints_a_table_and_draws_the_curves(manifest, tmp_path):
    pytest.importorskip("matplotlib")
    arguments = ["lid", "--backend", "embedded", "--manifest", str(manifest)]
    ran = CliRunner().invoke(app, [*arguments, "--thresholds", "--out", str(tmp_path)])
    assert ran.exit_code == 0, ran.output
    assert "| embedded | kn |" in ran.output and "diverted wrongly" in ran.output
    rows = json.loads((tmp_path / "lid.json").read_text())["rows"]
    assert {row["identifier"] for row in rows} == {"tiny-lid"}
    assert (tmp_path / "lid.png").read_bytes().startswith(b"\x89PNG")


def test_a_manifest_that_is_none_is_named(tmp_path):
    ran = CliRunner().invoke(app, ["lid", "--manifest", str(tmp_path / "none.jsonl")])
    assert ran.exit_code == 2
    assert "none.jsonl" in re.sub(r"[\s│]", "", ran.output)  # a long path is told in two lines
