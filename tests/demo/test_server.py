"""The server in a process of its own: what it says when it cannot start is what the demo says."""

import socket

import pytest

from voice_agent.cli import main
from voice_agent.demo.errors import DemoError
from voice_agent.demo.http import HttpError, ask
from voice_agent.demo.server import ServerProcess


def test_a_server_that_cannot_load_ends_with_its_own_reason():
    with ServerProcess(["--model", "nosuch"]) as server:
        with pytest.raises(DemoError, match="^the server stopped: nosuch: there is no such file"):
            server.wait_until_ready(60.0)
    assert server.exit_code == 2


def test_a_server_that_takes_too_long_is_stopped():
    with ServerProcess(["--model", "nosuch"]) as server:
        with pytest.raises(DemoError, match="not ready within 0 s"):
            server.wait_until_ready(0.0)
    assert server.exit_code is not None


def test_a_demo_without_its_model_is_a_sentence_and_exit_code_2(tmp_path, capsys):
    pytest.importorskip("moonshine_voice", reason="its clip needs the extra 'demo'")
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--model", "nosuch", "--reply", str(tmp_path / "reply.wav")])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("voice-agent: the server stopped: nosuch: ")
    assert not (tmp_path / "reply.wav").exists()


def test_nothing_at_an_address_is_told_with_the_address(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://203.0.113.1:3128")  # must not be asked
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/readyz"
    with pytest.raises(HttpError, match="cannot be reached.*refused") as refused:
        ask(url, limit_s=5.0)
    assert refused.value.status is None
