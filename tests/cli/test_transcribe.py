"""Transcripts on stdout, and nothing else there."""

import contextlib
import json
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.cli.running import in_a_process, run
from tests.support.scripted import ScriptedRecognizer
from voice_agent.demo.clip import CLIP_RATE, known_clip
from voice_agent.demo.verdict import WER_BOUND, word_error_rate


def test_a_transcript_goes_to_stdout_and_nothing_else_does(noise, scripted, capsys):
    assert run("transcribe", noise, "--one-segment") == 0
    assert capsys.readouterr().out == "good morning\n"


def test_flags_reach_the_recogniser(noise, scripted):
    flags = ("--model", "my.nemo", "--device", "cpu", "--right-context", "6")
    precision = ("--dtype", "bfloat16", "--weights", "int8", "--kv", "int8")
    search = ("--final-pass", "search", "--language-model", "lm.arpa.gz")
    assert run("transcribe", noise, *flags, *precision, *search) == 0
    assert scripted.loaded_with["model"] == "my.nemo"
    assert scripted.loaded_with["device"] == "cpu"
    assert scripted.loaded_with["right_context"] == 6
    assert scripted.loaded_with["language_model"] == Path("lm.arpa.gz")
    assert scripted.opened[-1].options.final_pass == "search"
    chosen = {name: scripted.loaded_with[name] for name in ("dtype", "weights", "kv")}
    assert chosen == {"dtype": "bfloat16", "weights": "int8", "kv": "int8"}


@pytest.mark.parametrize("flags, right", [((), 13), (("--right-context", "1"), 1)])
def test_a_recording_is_heard_with_the_widest_look_ahead_unless_told_otherwise(
    noise, scripted, flags, right
):
    scripted.right_contexts = (0, 1, 13)
    assert run("transcribe", noise, "--one-segment", *flags) == 0
    assert [stream.options.right_context for stream in scripted.opened] == [right]


def test_without_one_segment_the_vad_finds_no_speech_in_noise(noise, scripted, capsys):
    assert run("transcribe", noise) == 0
    assert capsys.readouterr().out == ""


def test_json_of_several_files_is_one_list(noise, scripted, capsys):
    assert run("transcribe", noise, noise, "--one-segment", "-f", "json") == 0
    transcripts = json.loads(capsys.readouterr().out)
    assert [t["file"] for t in transcripts] == [noise, noise]
    assert [t["text"] for t in transcripts] == ["good morning"] * 2


def test_output_writes_a_file_for_each_recording_even_of_the_same_name(
    noise, scripted, tmp_path, capsys
):
    folder = tmp_path / "subtitles" / "today"
    assert run("transcribe", noise, noise, "--one-segment", "-f", "srt", "-o", str(folder)) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["noise-2.srt", "noise.srt"]
    assert "good morning" in (folder / "noise.srt").read_text()
    assert capsys.readouterr().out == ""


def test_subtitles_of_several_files_need_a_folder(noise, scripted, capsys):
    assert run("transcribe", noise, noise, "-f", "vtt") == 2
    assert "--output" in capsys.readouterr().err


def test_stdin_is_transcribed(noise, scripted, monkeypatch, capsys):
    with open(noise, "rb") as pipe:
        monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": pipe})())
        assert run("transcribe", "-", "--one-segment", "-f", "json") == 0
    (transcript,) = json.loads(capsys.readouterr().out)
    assert (transcript["file"], transcript["text"]) == ("-", "good morning")


def test_another_system_gets_what_the_flags_say(noise, monkeypatch, capsys):
    made = ScriptedRecognizer([(0.5, "ನಮಸ್ಕಾರ")], languages=("kn",))
    chosen = {}

    def load(name, choice):
        chosen.update(name=name, url=choice.url, model=choice.model, language=choice.language)
        return made

    monkeypatch.setattr("voice_agent.alternatives.load", load)
    flags = "--stt whisperx --stt-url http://host:8010 --language kn --one-segment -f json"
    assert run("transcribe", noise, *flags.split()) == 0
    address = "http://host:8010"
    assert chosen == {"name": "whisperx", "url": address, "model": None, "language": "kn"}
    (transcript,) = json.loads(capsys.readouterr().out)
    assert (transcript["text"], transcript["language"]) == ("ನಮಸ್ಕಾರ", "kn")


def test_a_licence_that_forbids_commercial_use_is_told(noise, monkeypatch, capsys):
    made = ScriptedRecognizer([(0.5, "hello")])
    monkeypatch.setattr("voice_agent.alternatives.wav2vec2.load_mms", lambda choice: made)
    assert run("transcribe", noise, "--stt", "mms", "--one-segment") == 0
    shown = capsys.readouterr()
    assert shown.out == "hello\n"
    assert shown.err.count("mms: its weights are CC-BY-NC-4.0, which forbids commercial use") == 1


@pytest.mark.parametrize("setting, expected", [("", None), ('language = "kn"', "kn")])
def test_without_a_language_a_recording_may_be_in_any(noise, scripted, tmp_path, setting, expected):
    settings = tmp_path / "agent.toml"
    settings.write_text(setting)
    assert run("transcribe", noise, "--one-segment", "--config", str(settings)) == 0
    assert [stream.options.language for stream in scripted.opened] == [expected]


def test_a_model_that_really_runs_gives_tokens_and_times(noise, checkpoint):
    """In a process of its own; whatever a random model makes of noise."""
    ran = in_a_process("transcribe", noise, "--model", checkpoint, "--one-segment", "-f", "json")
    assert ran.returncode == 0, ran.stderr
    (transcript,) = json.loads(ran.stdout)
    assert transcript["segments"]
    for segment in transcript["segments"]:
        assert segment["tokens"]
        assert [w["word"] for w in segment["words"]] == segment["text"].split()


def test_one_recording_after_another_does_not_wait_for_a_slot(noise, checkpoint, capsys):
    files = [noise] * 12
    assert run("transcribe", *files, "--model", checkpoint, "--one-segment", "-f", "json") == 0
    transcripts = json.loads(capsys.readouterr().out)
    assert len(transcripts) == 12 and len({t["text"] for t in transcripts}) == 1


def test_without_a_model_the_embedded_one_writes_what_a_person_says(tmp_path):
    pytest.importorskip("moonshine_voice", reason="its clip needs the extra 'demo'")
    clip = known_clip()
    soundfile.write(tmp_path / "dickens.flac", clip.pcm, CLIP_RATE)
    ran = in_a_process("transcribe", "dickens.flac", "-f", "json", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    (transcript,) = json.loads(ran.stdout)
    assert (transcript["file"], transcript["language"]) == ("dickens.flac", "en")
    assert word_error_rate(clip.text, transcript["text"]) < WER_BOUND
    for segment in transcript["segments"]:
        assert segment["tokens"]
        starts = [word["start_s"] for word in segment["words"]]
        assert segment["start_s"] <= starts[0] and starts == sorted(starts)
        assert all(word["start_s"] <= word["end_s"] for word in segment["words"])
        assert all(0 < word["confidence"] <= 1 for word in segment["words"])


def test_a_terminal_shows_partials_and_a_bar_and_a_pipe_only_the_transcript(tmp_path, checkpoint):
    long = tmp_path / "long.wav"
    soundfile.write(long, np.random.default_rng(0).normal(0, 0.1, 16000 * 30), 16000)
    screen, terminal = pty.openpty()
    shown = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):  # the last program that wrote to it is gone
            while piece := os.read(screen, 1 << 16):
                shown.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "voice_agent.cli", "transcribe", str(long)),
            *("--model", checkpoint, "--one-segment"),
        ],
        stdout=subprocess.PIPE,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(terminal)
    reader.join(10)
    os.close(screen)
    assert ran.returncode == 0, shown.decode()
    transcript = ran.stdout.decode()
    assert transcript.endswith("\n") and "\x1b" not in transcript
    assert b"loading " in shown and b"100%" in shown
    assert any(word.encode() in shown for word in transcript.split()), "a partial"
