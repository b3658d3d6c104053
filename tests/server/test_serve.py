"""`voice-agent serve` in a process of its own: what it says, how it ends."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

import pytest
import websockets

from tests.server.test_websocket import bot_ready, closed
from tests.support.agent_server import eventually


class Process:
    """A server, and the lines that it prints."""

    def __init__(self, *flags: str) -> None:
        self.lines: list[str] = []
        self._ready = threading.Event()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "voice_agent.cli", "serve", "--port", "0", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "COLUMNS": "200"},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip())
            if "Open http" in line:
                self._ready.set()

    def url(self) -> str:
        """Where it is, once it has said so."""
        assert self._ready.wait(60), self.lines
        found = re.search(r"http://localhost:\d+", self.text())
        assert found is not None
        return found.group()

    def text(self) -> str:
        return "\n".join(self.lines)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self, number: int) -> int:
        """Send a signal; the exit code."""
        self.signal(number)
        return self.exit_code()

    def exit_code(self) -> int:
        code = self._process.wait(30)
        self._reader.join(10)
        return code

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    with contextlib.ExitStack() as stack:

        def start(*flags: str) -> Process:
            process = Process(*flags)
            stack.callback(process.kill)
            return process

        yield start


def get(url: str) -> tuple[int, dict]:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_start_says_what_runs_where_and_how_to_change_it(start, checkpoint):
    server = start("--model", checkpoint, "--device", "cpu")
    url = server.url()
    said = server.text()
    assert f"loading {checkpoint} ..." in said
    assert "on cpu, as asked for" in said
    for flag in ("--llm-url", "--tts", "voice-agent models", "Ctrl-C stops"):
        assert flag in said
    assert get(f"{url}/healthz") == (200, {"status": "ok"})
    assert get(f"{url}/readyz")[0] == 200
    with urllib.request.urlopen(url, timeout=10) as page:
        assert b"<title>Voice agent</title>" in page.read()
    assert server.end(signal.SIGTERM) == 0
    assert "Traceback" not in server.text()


def test_ctrl_c_is_exit_code_130(start, checkpoint):
    server = start("--model", checkpoint)
    server.url()
    assert server.end(signal.SIGINT) == 130


async def test_sigterm_ends_a_conversation_that_runs(start, checkpoint):
    server = start("--model", checkpoint)
    async with websockets.connect(server.url().replace("http", "ws") + "/ws") as caller:
        await bot_ready(caller)
        server.signal(signal.SIGTERM)
        code, _ = await closed(caller)
    assert code in (1000, 1001), "hung up, not broken off"
    assert server.exit_code() == 0


def listens(url: str) -> bool:
    with contextlib.suppress(urllib.error.URLError):
        get(f"{url}/healthz")
        return True
    return False


@pytest.fixture
def slow_model(tmp_path) -> str:
    """A checkpoint that takes for ever to read: a pipe into which nobody writes."""
    os.mkfifo(tmp_path / "slow.nemo")
    return str(tmp_path / "slow.nemo")


def test_while_the_model_loads_the_server_answers_and_admits_nobody(start, slow_model):
    """And it stops at once if it is told to, though nothing interrupts the load."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    server = start("--model", slow_model, "--port", str(port))
    url = f"http://127.0.0.1:{port}"
    eventually(lambda: listens(url), 60)
    assert get(f"{url}/healthz") == (200, {"status": "ok"})
    status, body = get(f"{url}/readyz")
    assert (status, body["status"]) == (503, "the model is loading")
    assert server.end(signal.SIGTERM) == 0
    assert "Open http" not in server.text()
