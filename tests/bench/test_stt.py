"""`voice-agent bench stt`: what it reads, measures, keeps and reports."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer import Typer
from typer.testing import CliRunner

from tests.support.scripted import ScriptedRecognizer
from voice_agent.alternatives.loading import Choice
from voice_agent.bench import corpus, stt, stt_report, systems
from voice_agent.bench.scores import indic, score
from voice_agent.engine.errors import EngineError


@pytest.fixture
def clips(tmp_path) -> Path:
    """A folder of two recordings, one with its text."""
    folder = tmp_path / "clips"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        pcm = rng.standard_normal(8_000) * 0.1
        soundfile.write(folder / f"{name}.wav", pcm, 8_000)
    (folder / "a.txt").write_text("hello world")
    return folder


# What is transcribed


def test_a_folder_is_a_corpus_and_text_files_are_its_texts(clips):
    found = corpus.read(clips)
    assert [(c.name, c.text, c.language) for c in found] == [
        ("a.wav", "hello world", "en"), ("b.wav", "", "en"),
    ]  # fmt: skip
    assert found[0].pcm().shape == (16_000,)  # resampled from 8 kHz


def test_a_manifest_names_parts_of_files_and_other_languages(clips):
    lines = [
        {"audio": "a.wav", "text": "x", "language": "kn-IN", "from_s": 0.25, "to_s": 0.5},
        {"audio": "b.wav", "lang": "en"},
    ]
    (clips / "manifest.jsonl").write_text("\n".join(json.dumps(x) for x in lines))
    part, other = corpus.read(clips)
    assert (part.name, part.language, part.pcm().size) == ("a.wav@0.25-0.5", "kn", 4_000)
    assert [c.name for c in corpus.read(clips, language="en")] == [other.name]
    assert [c.name for c in corpus.read(clips, language="EN-us")] == [other.name]
    with pytest.raises(corpus.BadManifest, match="'hi'"):
        corpus.read(clips, language="hi")


def test_a_bad_line_is_named_by_its_number(clips):
    (clips / "manifest.jsonl").write_text('{"audio": "a.wav"}\n{"text": "x"}\n')
    with pytest.raises(corpus.BadManifest, match="line 2"):
        corpus.read(clips)


def test_the_manifest_that_ships_is_human_speech_with_its_text():
    pytest.importorskip("moonshine_voice", reason="its recordings come with the extra 'demo'")
    found = corpus.read(corpus.DEFAULT)
    assert all(c.text and c.language == "en" for c in found)
    assert sum(c.pcm().size for c in found) / 16_000 > 40
    rows = [json.loads(line) for line in corpus.DEFAULT.read_text().splitlines()]
    assert all(row["licence"] for row in rows)


def test_the_long_clip_is_thirty_seconds_however_short_the_clips(clips):
    assert corpus.long_clip(corpus.read(clips)).shape == (480_000,)


# Scores


def test_english_is_scored_after_whispers_normaliser():
    pytest.importorskip("whisper_normalizer")
    rates = score([("Mr. Brown's colour, twenty one!", "mister brown's color 21", "en")])
    assert rates.wer == 0.0


def test_kannada_keeps_its_vowel_signs_and_loses_what_writers_differ_in():
    said = "ಕನ್ನಡ, ಭಾಷೆ\u200c ೨೧!"
    assert indic(said) == "ಕನ್ನಡ ಭಾಷೆ 21"
    rates = score([("ಕನ್ನಡ ಭಾಷೆ", "ಕನನಡ ಭಾಷೆ", "kn")])  # a lost virama is an error
    assert (rates.wer, rates.words) == (0.5, 2)
    assert 0 < rates.cer < 0.2


def test_errors_are_pooled_over_words_and_clips_without_text_do_not_count():
    rates = score([("ಅ ಆ ಇ", "ಅ ಆ ಇ", "kn"), ("ಅ", "ಉ", "kn"), ("", "ಅ ಆ", "kn")])
    assert (rates.wer, rates.words) == (0.25, 4)
    assert score([("", "ಅ", "kn")]) is None


# Measurements


class Clock:
    """Time that only sleeping moves."""

    def __init__(self):
        self.now = 100.0
        self.slept = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


def test_live_audio_comes_when_a_microphone_would_give_it():
    clock = Clock()
    recognizer = ScriptedRecognizer([(0.1, "one"), (0.9, "one two")])
    pcm = np.zeros(16_000, np.float32)
    final, _, _ = systems.measure(recognizer, pcm, "en", live=True, clock=clock, sleep=clock.sleep)
    recognizer.close()
    assert final.text == "one two"
    assert clock.now == pytest.approx(101.0)
    assert max(clock.slept) == pytest.approx(0.08)
    assert [p.size for p in recognizer.opened[0].segments] == [16_000]


def test_fast_audio_comes_at_once_and_asks_for_no_partials():
    clock = Clock()
    recognizer = ScriptedRecognizer([(0.1, "one")])
    systems.measure(
        recognizer, np.zeros(800, np.float32), "en", live=False, clock=clock, sleep=clock.sleep
    )
    assert not recognizer.opened[0].options.partials
    assert clock.slept == []
    recognizer.close()


def test_a_language_that_the_system_cannot_be_told_is_left_to_it():
    recognizer = ScriptedRecognizer([], languages=("en",))
    systems.measure(recognizer, np.zeros(800, np.float32), "kn", live=False)
    assert recognizer.opened[0].options.language is None
    recognizer.close()


def test_a_clip_that_cannot_be_read_is_one_failure_among_the_results(tmp_path):
    recognizer = ScriptedRecognizer([(0.0, "x")])
    clip = corpus.Clip("gone.wav", tmp_path / "gone.wav", "", "en")
    done = systems.do(recognizer, systems.Task("fast", clip.name, clip, "en"))
    recognizer.close()
    assert "gone.wav" in done.error


def test_a_system_that_cannot_load_says_why_from_its_process():
    with pytest.raises(EngineError, match="no server answers"):
        list(systems.run("whisperx", Choice(url="http://127.0.0.1:9"), [], 1))


def test_clips_in_parallel_come_back_in_order_after_the_long_one_alone(clips):
    recognizer = ScriptedRecognizer([(0.0, "x")])
    found = corpus.read(clips)
    tasks = [systems.Task("fast", c.name, c, "en") for c in found * 4]
    tasks.append(systems.Task("long", "30 s", None, "en", np.zeros(800, np.float32)))
    with ThreadPoolExecutor(4) as pool:
        done = list(systems._in_order(pool, recognizer, tasks))
    assert [d.clip for d in done] == ["30 s", *(t.name for t in tasks[:-1])]
    # Three runs of the long clip, each over before anything else was opened.
    assert [s.segments[0].size for s in recognizer.opened[:3]] == [800] * 3
    recognizer.close()


# The whole, on our own engine with random weights


@pytest.fixture
def command():
    app = Typer()
    app.command()(stt.stt)
    return lambda *args: CliRunner().invoke(app, [str(a) for a in args])


def test_it_compares_writes_three_reports_and_resumes(
    clips, checkpoint, tmp_path, command, monkeypatch
):
    monkeypatch.setattr(corpus, "LONG_S", 1.0)
    pytest.importorskip("jiwer")
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    systems_asked = f"nemotron={checkpoint},whisperx"
    args = ("--stt", systems_asked, "--manifest", clips, "--out", out, "--device", "cpu",
            "--live", 1, "--url", "whisperx=http://127.0.0.1:9")  # fmt: skip
    done = command(*args)
    assert done.exit_code == 0, done.output
    report = json.loads((out / "stt.json").read_text())
    ours, theirs = report["rows"]
    assert (ours["clips"], ours["failed"], ours["words"]) == (2, 0, 2)
    assert ours["memory_mb"] > 50
    assert ours["rtf"] > 0
    assert ours["ttfs_p50_ms"] is not None
    assert theirs["clips"] == 0
    assert "no server answers" in report["problems"]["whisperx"]
    assert report["conditions"]["cpu"]
    assert "| nemotron=random.nemo | 2 |" in (out / "stt.md").read_text()
    assert (out / "stt.png").read_bytes().startswith(b"\x89PNG")

    # Cut the last measurements off, as a kill would, in the middle of a line.
    lines = (out / "clips.jsonl").read_text().splitlines()
    kept = [x for x in lines if json.loads(x)["is"] == "Measured"][:2]
    (out / "clips.jsonl").write_text("\n".join(kept) + '\n{"system": "nem')
    assert command(*args).exit_code == 0
    again = [line for line in (out / "clips.jsonl").read_text().splitlines() if line in kept]
    assert again == kept  # measured once
    assert json.loads((out / "stt.json").read_text())["rows"][0]["clips"] == 2


def test_what_is_wrong_with_a_manifest_is_told_without_a_traceback(tmp_path, command):
    done = command("--stt", "nemotron", "--manifest", tmp_path)
    assert done.exit_code == 2
    assert "holds no recordings" in " ".join(done.output.replace("│", " ").split())


def test_an_unknown_system_is_refused_before_anything_runs(clips, tmp_path):
    with pytest.raises(EngineError, match="did you mean nemotron"):
        stt.run_stt("nemotrn", manifest=clips, out=tmp_path / "out")
    with pytest.raises(ValueError, match="NAME=URL"):
        stt.run_stt("nemotron", manifest=clips, out=tmp_path / "out", urls=["whisperx"])


def test_a_licence_that_forbids_commercial_use_is_shown_when_its_system_is_selected(
    clips, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(systems, "run", lambda *args: iter(()))
    stt.run_stt("mms", manifest=clips, out=tmp_path / "out", device="cpu", live=0)
    assert "forbids commercial use" in " ".join(capsys.readouterr().err.split())


def row(**values):
    blank = dict.fromkeys(stt_report.Row.__dataclass_fields__)
    return stt_report.Row(**{**blank, "system": "x", "clips": 1, "failed": 0, **values})


def test_the_table_says_what_was_not_measured_and_what_failed():
    text = stt_report.table([row(system="a=/models/b", wer=0.125, failed=2)])
    assert "| a=b | 1 (2 failed) | 12.5 | - |" in text


def test_the_ratio_is_to_the_yardsticks_own_time(clips, tmp_path, monkeypatch):
    times = {"nemotron": 2.0, "faster-whisper": 4.0}

    def run(system, choice, tasks, parallel):
        for task in tasks:
            yield systems.Measured(task.kind, task.name, 1.0, "hi", times[system])
        yield systems.Process(system, 0.1, 10.0, None)

    monkeypatch.setattr(systems, "run", run)
    rows = stt.run_stt(
        "nemotron,faster-whisper", manifest=clips, out=tmp_path / "out", device="cpu", live=0
    )
    assert [r.ratio for r in rows] == [2.0, 1.0]
    # On a GPU the yardstick is measured besides, on the CPU.
    rows = stt.run_stt(
        "nemotron", manifest=clips, out=tmp_path / "out", device="cuda", live=0, baseline="small"
    )
    assert [r.ratio for r in rows] == [2.0]
    rows = stt.run_stt("nemotron", manifest=clips, out=tmp_path / "out", device="cuda", live=0)
    assert [r.ratio for r in rows] == [None]
