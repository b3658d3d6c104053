"""Every fault of a command is one sentence and exit code 2, without a traceback."""

import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from tests.cli.running import run
from voice_agent.cli import main
from voice_agent.cli.errors import sentence


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
    "unknown system": ("transcribe good.wav --stt whisprex", "did you mean whisperx"),
    "unknown device": ("transcribe good.wav --device abacus", "stt.device"),
    "missing file": ("transcribe no.wav", "no.wav: no such file"),
    "empty file": ("transcribe empty.wav", "empty.wav: is empty"),
    "no audio": ("transcribe text.wav", "text.wav: is no audio"),
    "one of two missing": ("transcribe good.wav no.wav", "no.wav: no such file"),
    "stdin twice": ("transcribe - -", "only once"),
    "bad config": ("serve --config agent.toml", "did you mean stt.model"),
    "missing config": ("serve --config no.toml", "no.toml"),
    "half an endpoint": ("serve --llm-url http://localhost:1", "llm"),
    "language model without search": ("serve --language-model lm.arpa", "set final_pass to"),
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


@pytest.mark.parametrize("command", ["transcribe good.wav", "serve --port 0"])
def test_a_right_context_that_the_model_was_not_trained_for(files, checkpoint, command, capsys):
    flags = ("--model", checkpoint, "--right-context", "5")
    assert run(*command.split(), *flags) == 2
    *before, line = capsys.readouterr().err.splitlines()
    assert all("WARNING" in told for told in before), before  # once: no CUDA graphs on a CPU
    assert line.startswith("voice-agent: ") and "0, 1, 6, 13" in line


def test_a_language_model_that_is_none_keeps_a_server_from_starting(files, checkpoint, capsys):
    flags = ("--final-pass", "search", "--language-model", "good.wav")
    assert run("serve", "--port", "0", "--model", checkpoint, *flags) == 2
    assert "voice-agent: good.wav: is no ARPA file" in capsys.readouterr().err.splitlines()[-1]


def test_a_busy_port_is_told_before_the_model_is_loaded(capsys, monkeypatch):
    monkeypatch.setattr("voice_agent.engine.load_recognizer", lambda *_, **__: pytest.fail("load"))
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        assert run("serve", "--port", str(port)) == 2
    assert f"127.0.0.1:{port}: the port is in use" in capsys.readouterr().err


def test_an_unknown_flag_is_a_usage_error(capsys):
    assert run("serve", "--nosuch") == 2
    assert "--nosuch" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["transcribe good.wav", "serve --port 0"])
def test_no_memory_is_told_in_a_sentence(files, command, monkeypatch, capsys):
    def load(*_, **__):
        raise MemoryError

    monkeypatch.setattr("voice_agent.engine.load_recognizer", load)
    assert run(*command.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("voice-agent: there is not enough free memory")


@pytest.mark.parametrize(
    "flags, told",
    [
        ("--model nosuch", "nosuch: there is no such file"),
        ("--tts nvidia", "tts.name is nvidia"),
        ("--language xx", "language is 'xx', for which espeak-ng has no voice"),
        ("--keys no.toml", "no.toml: cannot read the keys file"),
    ],
)
def test_what_no_call_could_use_keeps_a_server_from_starting(flags, told, capsys):
    assert run("serve", "--port", "0", *flags.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"voice-agent: {told}")


def test_a_language_that_the_model_does_not_write_keeps_a_server_from_starting(capsys):
    """Without a flag, an agent's callers speak English."""
    assert run("serve", "--port", "0", "--model", "tiny-kn") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("voice-agent: tiny-kn writes kn, not 'en'; ") and "--language" in line


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
