"""`--stt NAME` from the command line to the words, with real weights (Whisper tiny.en)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import soundfile

from examples import websocket_client
from tests.alternatives import checkpoints
from tests.server.test_serve import Process

SAID = "it was the best of times"


@pytest.fixture(scope="module")
def chosen(tiny_whisper) -> tuple[str, ...]:
    """The flags that choose another system than ours."""
    pytest.importorskip("faster_whisper")
    return ("--stt", "faster-whisper", "--model", str(tiny_whisper), "--device", "cpu")


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    """Two seconds of a man reading."""
    wheel = pytest.importorskip("moonshine_voice", reason="its clip needs the extra 'demo'")
    pcm, rate = soundfile.read(Path(wheel.__path__[0]) / "assets" / "two_cities.wav")
    file = tmp_path_factory.mktemp("recording") / "reader.wav"
    soundfile.write(file, pcm[round(0.7 * rate) : round(2.95 * rate)], rate)
    return file


def words(text: str) -> str:
    """Without case and punctuation."""
    return " ".join("".join(c for c in text.lower() if c.isalpha() or c == " ").split())


def command(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "voice_agent.cli", *map(str, args)], capture_output=True, text=True,
        timeout=200, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip


def test_transcribe_writes_what_the_other_system_hears(chosen, recording):
    done = command("transcribe", recording, *chosen, "--format", "json")
    assert done.returncode == 0, done.stderr
    (transcript,) = json.loads(done.stdout)
    assert words(transcript["text"]) == SAID
    assert transcript["language"] == "en"


@pytest.fixture(scope="module")
def server(chosen) -> Iterator[Process]:
    process = Process(*chosen)
    try:
        yield process
        assert process.end(signal.SIGTERM) == 0
        assert "Traceback" not in process.text()
    finally:
        process.kill()


async def test_serve_hears_a_call_through_the_other_system(server, recording, tmp_path):
    url = server.url().replace("http", "ws", 1) + "/ws"
    finals = await websocket_client.talk(url, str(recording), str(tmp_path / "reply.wav"))
    assert words(" ".join(finals)) == SAID
    assert soundfile.info(tmp_path / "reply.wav").duration > 1


def test_serve_transcribes_a_file_for_openais_client_through_it(server, recording):
    client = openai.OpenAI(api_key="any", base_url=f"{server.url()}/v1", max_retries=0)
    with recording.open("rb") as file:
        got = client.audio.transcriptions.create(model="whisper-1", file=file, language="en")
    assert words(got.text) == SAID


def test_serve_names_the_system_that_it_runs(server):
    server.url()
    assert "faster-whisper, chosen with stt.name" in server.text()


def test_serve_says_that_a_licence_forbids_commercial_use(tmp_path):
    pytest.importorskip("transformers")
    model = checkpoints.wav2vec2(tmp_path, languages=("kan",))
    process = Process("--stt", "mms", "--model", str(model), "--language", "kn", "--device", "cpu")
    try:
        process.url()
        assert "its weights are CC-BY-NC-4.0, which forbids commercial use" in process.text()
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--stt", "faster-whisper", "--model", "no/such"), 'download_model("no/such")'),
        (
            ("--stt", "whisperx", "--stt-url", "http://127.0.0.1:9"),
            "start one with `docker",
        ),
        (("--stt", "deepgram"), "DEEPGRAM_API_KEY"),
        (("--stt", "faster-wisper"), "did you mean faster-whisper?"),
    ],
)
@pytest.mark.parametrize("name", ["transcribe", "serve"])
def test_what_is_missing_is_one_sentence_and_exit_code_2(name, flags, told, recording, monkeypatch):
    monkeypatch.delenv("DEEPGRAM_API_KEY", raising=False)
    given = (recording,) if name == "transcribe" else ("--port", "0")
    done = command(name, *given, *flags)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("voice-agent: ")
    assert told in last
    assert "Traceback" not in done.stderr
