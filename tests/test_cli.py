"""The command line: quick help, one sentence for every fault, transcripts on stdout."""

import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
import soundfile

from tests.support.scripted import ScriptedRecognizer
from voice_agent.cli import main
from voice_agent.cli.errors import sentence
from voice_agent.demo.clip import CLIP_RATE, known_clip
from voice_agent.demo.verdict import WER_BOUND, word_error_rate
from voice_agent.models import KNOWN


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
    made = ScriptedRecognizer([(0.5, "good"), (1.5, "good morning")], languages=("en", "kn"))
    made.loaded_with = {}

    def load(model, **options):
        made.loaded_with = {"model": model, **options}
        return made

    monkeypatch.setattr("voice_agent.engine.load_recognizer", load)
    yield made
    made.close()


# Help


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


# Transcribe


def test_a_transcript_goes_to_stdout_and_nothing_else_does(noise, scripted, capsys):
    assert run("transcribe", noise, "--one-segment") == 0
    assert capsys.readouterr().out == "good morning\n"


def test_flags_reach_the_recogniser(noise, scripted):
    flags = ("--model", "my.nemo", "--device", "cpu", "--right-context", "6")
    precision = ("--dtype", "bfloat16", "--weights", "int8", "--kv", "int8")
    assert run("transcribe", noise, *flags, *precision) == 0
    assert scripted.loaded_with["model"] == "my.nemo"
    assert scripted.loaded_with["device"] == "cpu"
    assert scripted.loaded_with["right_context"] == 6
    chosen = {name: scripted.loaded_with[name] for name in ("dtype", "weights", "kv")}
    assert chosen == {"dtype": "bfloat16", "weights": "int8", "kv": "int8"}


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
