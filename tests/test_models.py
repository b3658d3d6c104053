"""Models by Hugging Face id, from a hub that is there, is not there, or does not know them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import soundfile


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does: it knows `us/closed`, which is gated, and no other model."""

    def do_GET(self) -> None:
        gated = self.path.startswith("/api/models/us/closed")
        code, error = (403, "GatedRepo") if gated else (404, "RepoNotFound")
        body = json.dumps({"error": "no"}).encode()
        self.send_response(code)
        self.send_header("X-Error-Code", error)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def transcribe(folder, model: str, endpoint: str) -> subprocess.CompletedProcess:
    """In a process of its own, since the hub's address is read when it is imported."""
    soundfile.write(folder / "noise.wav", np.zeros(16_000), 16_000)
    return subprocess.run(
        [sys.executable, "-m", "voice_agent.cli", "transcribe", "noise.wav", "--model", model],
        cwd=folder,
        env={
            **os.environ,
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(folder / "cache"),
            "HF_HUB_OFFLINE": "0",  # which other tests set, and the libraries that they import
        },
        capture_output=True,
        text=True,
    )


def said(ran: subprocess.CompletedProcess) -> str:
    assert (ran.returncode, ran.stdout) == (2, ""), ran.stderr
    (line,) = ran.stderr.splitlines()
    return line


@pytest.mark.parametrize("model", ["us/speech", "nvidia/nemotron-speech-streaming-en-0.6b"])
def test_without_a_network_the_command_that_fetches_a_model_is_named(tmp_path, model):
    line = said(transcribe(tmp_path, model, "http://127.0.0.1:9"))
    assert line.startswith(f"voice-agent: {model}: not in the local Hugging Face cache")
    assert f"`hf download {model}`" in line


def test_a_repository_that_does_not_exist_is_told_as_such(tmp_path, hub):
    line = said(transcribe(tmp_path, "us/speech", hub))
    assert line.startswith("voice-agent: us/speech: no such repository on huggingface.co")


def test_a_gated_repository_is_told_with_what_to_do(tmp_path, hub):
    assert "accept its licence" in said(transcribe(tmp_path, "us/closed", hub))
