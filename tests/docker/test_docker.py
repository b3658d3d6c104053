"""The container's files, as far as they can be tried without a container engine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from voice_agent.config import load_settings

DOCKER = Path(__file__).parents[2] / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
DOCKERFILE = (DOCKER / "Dockerfile").read_text()


def entrypoint(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["sh", str(DOCKER / "entrypoint.sh"), *args], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PATH": path, "COLUMNS": "200", **environment},
    )  # fmt: skip


def test_flags_alone_are_those_of_serve(tmp_path):
    done = entrypoint("--help", HF_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "--llm-url" in done.stdout


def test_any_command_of_the_program_can_be_run(tmp_path):
    done = entrypoint("models", HF_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "tiny-en" in done.stdout


def test_a_program_by_its_path_is_run_as_it_is():
    assert entrypoint("/bin/echo", "hello", HF_HOME="/nowhere").stdout == "hello\n"


def test_a_model_folder_that_cannot_be_written_is_one_sentence():
    done = entrypoint("serve", HF_HOME="/nowhere/models")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "/nowhere/models" in done.stderr


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_healthy_asks_the_server_whether_it_is_ready(status, code):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            assert self.path == "/readyz"
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = str(server.server_address[1])
        done = entrypoint("healthy", VOICE_AGENT_SERVER__PORT=port)
        server.shutdown()
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_healthy_fails_where_nothing_listens():
    assert entrypoint("healthy", VOICE_AGENT_SERVER__PORT="9").returncode == 1


def agents():
    return [name for name in COMPOSE["services"] if name.startswith("agent-")]


def test_there_is_a_profile_for_each_part():
    profiles = {p for service in COMPOSE["services"].values() for p in service["profiles"]}
    assert profiles == {
        "cpu", "gpu", "spark", "vllm", "ollama", "nim", "whisperx", "turn", "metrics",
    }  # fmt: skip


@pytest.mark.parametrize("name", agents())
def test_the_environment_of_an_agent_is_one_that_its_settings_know(name, monkeypatch):
    for key in list(os.environ):
        if key.startswith("VOICE_AGENT_"):
            monkeypatch.delenv(key)
    for key, value in COMPOSE["services"][name]["environment"].items():
        default = re.fullmatch(r"\$\{\w+:-(.*)\}", value)
        monkeypatch.setenv(key, default[1] if default else value)
    for key, value in re.findall(r"\b(VOICE_AGENT_\w+)=(\S+)", DOCKERFILE):
        monkeypatch.setenv(key, value)
    settings = load_settings()
    assert settings.server.host == "0.0.0.0"
    assert settings.stt.model


@pytest.mark.parametrize("name", agents())
def test_an_agent_keeps_no_privileges(name):
    service = COMPOSE["services"][name]
    assert service["cap_drop"] == ["ALL"]
    assert service["read_only"] is True
    assert re.search(r"^USER \d+$", DOCKERFILE, re.MULTILINE)


def test_build_arguments_are_those_that_the_dockerfile_takes():
    taken = set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
    for service in COMPOSE["services"].values():
        assert set(service.get("build", {}).get("args", {})) <= taken


def test_only_turn_and_the_agent_listen_beyond_loopback():
    for name, service in COMPOSE["services"].items():
        if "network_mode" not in service:
            assert all(str(p).startswith("127.0.0.1:") for p in service["ports"]), name


def test_no_compiler_is_named_in_the_stage_that_runs():
    stage = DOCKERFILE.rsplit("\nFROM ", 1)[1]
    commands = "\n".join(line for line in stage.splitlines() if not line.startswith("#"))
    assert not re.search(r"gcc|g\+\+|build-essential|-dev\b", commands)
