"""The container's files, as far as they can be tried without a container engine."""

from __future__ import annotations

import contextlib
import os
import re
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import yaml

from tests.server.test_tls import certificate
from voice_agent.alternatives import SYSTEMS
from voice_agent.config import load_settings
from voice_agent.server.keys import new_key

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


@contextlib.contextmanager
def ready(status: int, chain: tuple[Path, Path] | None = None) -> Iterator[str]:
    """A server that answers `/readyz` with a status, on https where it has a certificate."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            assert self.path == "/readyz"
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if chain is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*chain)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield str(server.server_address[1])
        server.shutdown()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_healthy_asks_the_server_whether_it_is_ready(status, code):
    with ready(status) as port:
        # A proxy that the machine has is none of its own port's business.
        nowhere = "http://127.0.0.1:9"
        done = entrypoint("healthy", VOICE_AGENT_SERVER__PORT=port, http_proxy=nowhere, no_proxy="")
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_healthy_asks_a_server_with_a_certificate_by_https(tmp_path):
    chain, key = certificate(tmp_path)
    with ready(200, (chain, key)) as port:
        done = entrypoint(
            "healthy", VOICE_AGENT_SERVER__PORT=port, VOICE_AGENT_SERVER__TLS_CERTIFICATE=str(chain)
        )
    assert done.returncode == 0, done.stderr


def test_healthy_fails_where_nothing_listens():
    assert entrypoint("healthy", VOICE_AGENT_SERVER__PORT="9").returncode == 1


# The agent as the image starts it: on all addresses


@contextlib.contextmanager
def started(checkpoint: str, home: Path, **environment: str) -> Iterator[str]:
    """The entry script's server, with the environment of the image."""
    image = dict(re.findall(r"\b(VOICE_AGENT_\w+)=(\S+)", DOCKERFILE))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    said = home / "said"
    with said.open("w") as out:
        process = subprocess.Popen(
            ["sh", str(DOCKER / "entrypoint.sh"), "--device", "cpu", "--port", "0"],
            stdout=out, stderr=subprocess.STDOUT,
            env={**os.environ, **image, "PATH": path, "HF_HOME": str(home), "COLUMNS": "200",
                 "VOICE_AGENT_STT__MODEL": checkpoint, **environment},
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 90
        while (url := re.search(r"Open (http://localhost:\d+)", said.read_text())) is None:
            assert process.poll() is None and time.monotonic() < deadline, said.read_text()
            time.sleep(0.1)
        yield url[1]
    finally:
        process.kill()
        process.wait()


def test_without_keys_a_browser_on_the_host_is_served_and_a_name_that_is_not_its_own_is_not(
    checkpoint, tmp_path
):
    with started(checkpoint, tmp_path) as url:
        assert "<title>Voice agent</title>" in httpx.get(url).text
        guarded, origin = f"{url}/metrics", {"Origin": url}
        assert httpx.get(guarded, headers=origin).status_code == 200
        named = {"Host": "agent.example.com"}
        assert httpx.get(guarded, headers=named).status_code == 421


def test_keys_in_the_folder_that_compose_mounts_let_their_owners_in(checkpoint, tmp_path):
    secret, lines = new_key("alice")
    (tmp_path / "keys.toml").write_text(lines)
    keys = {"VOICE_AGENT_SERVER__KEYS": str(tmp_path / "keys.toml")}
    with started(checkpoint, tmp_path, **keys) as url:
        guarded, named = f"{url}/metrics", {"Host": "agent.example.com"}
        assert httpx.get(guarded, headers=named).status_code == 401
        assert httpx.get(guarded, headers=named, auth=("alice", secret)).status_code == 200
        assert entrypoint("healthy", VOICE_AGENT_SERVER__PORT=url.split(":")[-1]).returncode == 0


# What compose says


def agents():
    return [name for name in COMPOSE["services"] if name.startswith("agent-")]


def test_there_is_a_profile_for_each_part():
    profiles = {p for service in COMPOSE["services"].values() for p in service["profiles"]}
    assert profiles == {
        "cpu", "gpu", "spark", "vllm", "ollama", "nim", "whisperx", "turn", "metrics",
    }  # fmt: skip


def filled_in(value: str, given: dict[str, str]) -> str:
    """A value of compose's, as it replaces variables."""

    def replace(found: re.Match[str]) -> str:
        name, kind, default = found.groups()
        return default if name not in given or (kind and not given[name]) else given[name]

    return re.sub(r"\$\{(\w+)(:?)-([^}]*)\}", replace, value)


def settings_of(name: str, monkeypatch, **given: str):
    """The settings of an agent that compose starts with variables of a user's."""
    for key in list(os.environ):
        if key.startswith("VOICE_AGENT_"):
            monkeypatch.delenv(key)
    for key, value in re.findall(r"\b(VOICE_AGENT_\w+)=(\S+)", DOCKERFILE):
        monkeypatch.setenv(key, value)
    for key, value in COMPOSE["services"][name]["environment"].items():
        monkeypatch.setenv(key, filled_in(value, given))
    return load_settings()


@pytest.mark.parametrize("name", agents())
def test_the_environment_of_an_agent_is_one_that_its_settings_know(name, monkeypatch):
    settings = settings_of(name, monkeypatch)
    assert settings.server.host == "0.0.0.0"
    assert settings.stt.name == "nemotron"
    large = "nvidia/nemotron-speech-streaming-en-0.6b"
    assert settings.stt.model == (large if name == "agent-spark" else "tiny-en")


@pytest.mark.parametrize("name", agents())
def test_what_a_user_sets_reaches_the_agent(name, monkeypatch):
    settings = settings_of(
        name, monkeypatch,
        VOICE_AGENT_STT__NAME="whisperx", VOICE_AGENT_STT__MODEL="",
        VOICE_AGENT_SERVER__KEYS="/files/keys.toml",
        VOICE_AGENT_SERVER__HOSTS="a.example,b.example",
        VOICE_AGENT_SERVER__ICE_SERVERS="turn:a.example:3478",
    )  # fmt: skip
    # None of our models is asked of another system.
    assert (settings.stt.name, settings.stt.named_model) == ("whisperx", None)
    assert settings.server.keys == Path("/files/keys.toml")
    assert settings.server.hosts == ("a.example", "b.example")
    assert settings.server.ice_servers[0].urls == "turn:a.example:3478"
    assert any(v.endswith(":/files:ro") for v in COMPOSE["services"][name]["volumes"])


def test_the_speech_servers_are_where_their_systems_look_for_them():
    import voice_agent.alternatives.riva as riva
    import voice_agent.alternatives.whisperx as whisperx

    for service, address in (("nim", riva.DEFAULT_URL), ("whisperx", whisperx.DEFAULT_URL)):
        port = address.rsplit(":", 1)[1]
        ports = COMPOSE["services"][service]["ports"]
        assert any(p.startswith(f"127.0.0.1:{port}:") for p in ports)
    assert SYSTEMS.keys() >= {"riva", "whisperx"}


def test_grafana_finds_prometheus_where_it_listens():
    (source,) = yaml.safe_load((DOCKER / "grafana-datasource.yaml").read_text())["datasources"]
    address = source["url"].removeprefix("http://")
    assert f"--web.listen-address={address}" in COMPOSE["services"]["prometheus"]["command"]


def test_turn_does_not_start_with_a_password_that_everybody_knows():
    *shell, script = COMPOSE["services"]["turn"]["entrypoint"]
    script = script.replace("$$", "$")
    environment = {"PATH": os.environ["PATH"], "TURN_USER": "agent", "TURN_PASSWORD": ""}
    done = subprocess.run([*shell, script], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (2, "turn: set TURN_PASSWORD\n")


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


def test_pins_that_an_extra_cannot_keep_are_dropped_by_name(tmp_path):
    """`--build-arg LOOSE=...`: Riva's client does not go with the websockets that is pinned."""
    (tmp_path / "constraints.txt").write_text((DOCKER.parent / "constraints.txt").read_text())
    (command,) = re.findall(r"^RUN (for name in \$LOOSE.*; done)", DOCKERFILE, re.MULTILINE)
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, env={"LOOSE": "websockets"})
    before = (DOCKER.parent / "constraints.txt").read_text().splitlines()
    after = (tmp_path / "constraints.txt").read_text().splitlines()
    (gone,) = set(before) - set(after)
    assert gone.startswith("websockets>")


def test_no_compiler_is_named_in_the_stage_that_runs():
    stage = DOCKERFILE.rsplit("\nFROM ", 1)[1]
    commands = "\n".join(line for line in stage.splitlines() if not line.startswith("#"))
    assert not re.search(r"gcc|g\+\+|build-essential|-dev\b", commands)
