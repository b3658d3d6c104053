"""The command line's quick help, and the commands that only look."""

import subprocess
import sys

import pytest

from tests.cli.running import run
from voice_agent.models import KNOWN

COMMANDS = ("serve", "demo", "transcribe", "models", "doctor")
HEAVY = ("torch", "pipecat", "numpy", "nemo", "transformers", "onnxruntime", "fastapi")


@pytest.mark.parametrize(
    "args", [["--help"], ["--version"], *([command, "--help"] for command in COMMANDS)]
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
    for command in (*COMMANDS, "bench"):
        assert f" {command} " in shown


def test_help_says_what_happens_without_a_flag(capsys):
    """Square brackets in a help text would be taken for markup and vanish."""
    assert run("serve", "--help") == 0
    shown = capsys.readouterr().out
    for default in ("tiny-en", "auto", "a stand-in", "espeak", "127.0.0.1", "7860"):
        assert f"[default: ({default})]" in shown


def test_models_says_what_is_here_and_how_to_get_the_rest(capsys):
    assert run("models") == 0
    shown = capsys.readouterr().out
    for info, status in ((info, shown.split(f"{info.name}  (")[1]) for info in KNOWN.values()):
        assert info.summary in status
    assert "hf download nvidia/nemotron" in shown
    assert "mms: " in shown and "CC-BY-NC-4.0: no commercial use" in shown


def test_bench_help_lists_its_commands_and_a_wrong_one_is_a_usage_error(capsys):
    assert run("bench", "--help") == 0
    shown = capsys.readouterr().out
    assert " wer " in shown and " stt " in shown
    assert run("bench", "nosuch") == 2
    assert "nosuch" in capsys.readouterr().err


def test_the_exit_code_of_a_benchmark_is_that_of_the_command(monkeypatch, tmp_path):
    """1 where no system could be measured; `bench stt` says so with typer.Exit."""
    monkeypatch.setattr("voice_agent.bench.stt.run_stt", lambda *_, **__: [])
    assert run("bench", "stt", "--stt", "nemotron", "--out", str(tmp_path)) == 1


def test_doctor_looks_at_this_machine(capsys):
    assert run("doctor", "--profile", "cpu", "--port", "0") in (0, 1)
    assert "profile cpu: can" in capsys.readouterr().out
