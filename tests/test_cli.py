"""The command line: quick help, one sentence for every fault, transcripts on stdout."""

import json
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from tests.support.scripted import ScriptedRecognizer
from voice_agent.cli import main
from voice_agent.cli.errors import sentence


def run(*args: str) -> int:
    """Run a command in this process; its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(args)
    return int(ended.value.code or 0)


def in_a_process(*args: str, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "voice_agent.cli", *args], capture_output=True, text=True, **kwargs
    )


@pytest.fixture
def noise(tmp_path) -> str:
    path = tmp_path / "noise.flac"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 44100 * 2), 44100)
    return str(path)


@pytest.fixture
def scripted(monkeypatch):
    """`load_recognizer` gives a recogniser that says what it is told; its arguments are kept."""
    made = ScriptedRecognizer([(0.5, "good"), (1.5, "good morning")])
    made.loaded_with = {}

    def load(model, **options):
        made.loaded_with = {"model": model, **options}
        return made

    monkeypatch.setattr("voice_agent.engine.load_recognizer", load)
    yield made
    made.close()


# Help


HEAVY = ("torch", "pipecat", "numpy", "nemo", "transformers", "onnxruntime", "fastapi")


@pytest.mark.parametrize(
    "args", [["--help"], ["--version"], *([c, "--help"] for c in ("serve", "demo", "transcribe"))]
)
def test_help_imports_nothing_heavy(args):
    program = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print('heavy:', [m for m in {HEAVY!r} if m in sys.modules]))\n"
        "from voice_agent.cli import main\n"
        f"main({args!r})\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.endswith("heavy: []\n")


def test_help_lists_every_command(capsys):
    assert run("--help") == 0
    shown = capsys.readouterr().out
    for command in ("serve", "demo", "transcribe", "models", "bench"):
        assert f" {command} " in shown


def test_models_says_what_is_here_and_how_to_get_the_rest(capsys):
    assert run("models") == 0
    shown = capsys.readouterr().out
    assert "tiny-en" in shown and "tiny-en.nemo" in shown
    assert "hf download nvidia/nemotron" in shown


# Transcribe


def test_a_transcript_goes_to_stdout_and_nothing_else_does(noise, scripted, capsys):
    assert run("transcribe", noise, "--one-segment") == 0
    assert capsys.readouterr().out == "good morning\n"


def test_flags_reach_the_recogniser(noise, scripted):
    flags = ("--model", "my.nemo", "--device", "cpu", "--right-context", "6")
    assert run("transcribe", noise, *flags) == 0
    assert scripted.loaded_with["model"] == "my.nemo"
    assert scripted.loaded_with["device"] == "cpu"
    assert scripted.loaded_with["right_context"] == 6


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


def test_a_model_that_really_runs_gives_tokens_and_times(noise):
    """The embedded model, whatever it makes of noise, in a process of its own."""
    ran = in_a_process("transcribe", noise, "--one-segment", "-f", "json")
    assert ran.returncode == 0, ran.stderr
    (transcript,) = json.loads(ran.stdout)
    for segment in transcript["segments"]:
        assert segment["tokens"]
        assert [w["word"] for w in segment["words"]] == segment["text"].split()


# Faults: one sentence, exit code 2, no traceback


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A working directory with one good file and several bad ones."""
    soundfile.write(tmp_path / "good.wav", np.zeros(16000), 16000)
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("no audio at all")
    (tmp_path / "wrong.nemo").write_bytes(b"no tar file")
    (tmp_path / "agent.toml").write_text("[stt]\nmodle = 'tiny-en'\n")
    monkeypatch.chdir(tmp_path)


FAULTS = {
    "unknown model": ("transcribe good.wav --model nosuch", "nosuch: "),
    "wrong checkpoint": ("transcribe good.wav --model wrong.nemo", "wrong.nemo"),
    "wrong right context": ("transcribe good.wav --right-context 5", "right_context 5"),
    "unknown device": ("transcribe good.wav --device abacus", "stt.device"),
    "missing file": ("transcribe no.wav", "no.wav: no such file"),
    "empty file": ("transcribe empty.wav", "empty.wav: is empty"),
    "no audio": ("transcribe text.wav", "text.wav: is no audio"),
    "one of two missing": ("transcribe good.wav no.wav", "no.wav: no such file"),
    "stdin twice": ("transcribe - -", "only once"),
    "bad config": ("serve --config agent.toml", "did you mean stt.model"),
    "missing config": ("serve --config no.toml", "no.toml"),
    "half an endpoint": ("serve --llm-url http://localhost:1", "llm"),
    "no such address": ("serve --host 203.0.113.1", "no such address"),
    "closed fd": ("serve --fd 77", "--fd 77"),
    "expectation without clip": ("demo --expect hello", "--clip"),
    "missing clip": ("demo --clip no.wav", "no.wav: no such file"),
}


@pytest.mark.parametrize("command, expected", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_one_sentence_and_exit_code_2(files, command, expected, capsys):
    assert run(*command.split()) == 2
    shown = capsys.readouterr()
    (line,) = shown.err.strip().splitlines()
    assert line.startswith("voice-agent: ") and expected in line
    assert shown.out == ""


def test_a_busy_port_is_told_before_the_model_is_loaded(capsys, monkeypatch):
    monkeypatch.setattr("voice_agent.engine.load_recognizer", lambda *_, **__: pytest.fail("load"))
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        assert run("serve", "--port", str(port)) == 2
    assert f"127.0.0.1:{port}: the port is in use" in capsys.readouterr().err


def test_an_unknown_flag_is_a_usage_error(capsys):
    assert run("serve", "--nosuch") == 2
    assert "--nosuch" in capsys.readouterr().err


def test_no_memory_is_told_in_a_sentence(noise, monkeypatch, capsys):
    def load(*_, **__):
        raise MemoryError

    monkeypatch.setattr("voice_agent.engine.load_recognizer", load)
    assert run("transcribe", noise) == 2
    assert "not enough free memory" in capsys.readouterr().err


def test_a_defect_of_ours_keeps_its_traceback(noise, monkeypatch):
    def load(*_, **__):
        raise KeyError("ours")

    monkeypatch.setattr("voice_agent.engine.load_recognizer", load)
    with pytest.raises(KeyError):
        main(["transcribe", noise])
    assert sentence(KeyError("ours")) is None


def test_what_only_torch_would_raise_is_known_without_torch():
    out_of_memory = type("OutOfMemoryError", (RuntimeError,), {})
    assert "memory" in str(sentence(out_of_memory("CUDA out of memory")))
    assert "memory" in str(sentence(RuntimeError("DefaultCPUAllocator: can't allocate memory")))
    assert sentence(RuntimeError("something else")) is None


def test_ctrl_c_exits_130_without_a_word():
    """While stdin is read, which lasts until somebody closes the pipe."""
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "voice_agent.cli", "transcribe", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:  # the last import before stdin is read
        if line.rstrip().endswith("soundfile"):
            break
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate()
    assert process.returncode == 130
    assert [line for line in rest.splitlines() if not line.startswith("import time:")] == []
