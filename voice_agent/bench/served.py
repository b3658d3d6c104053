"""`voice-agent serve` in a process of its own, for programs that put load on it."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

_LOADING_S = 300.0
_STOPPING_S = 60.0
_ANSWER_S = 30.0


class ServerFailed(RuntimeError):
    """The server did not start, or did not stop as it should; the message says how."""


@dataclass(frozen=True, slots=True)
class Started:
    """A server that runs.

    Attributes:
        address: "127.0.0.1:PORT".
        pid: of its process.
    """

    address: str
    pid: int


@contextlib.contextmanager
def served(settings: Mapping[str, object], *, shaped: bool = False) -> Iterator[str]:
    """As `started`, but only the address is of interest."""
    with started(settings, shaped=shaped) as server:
        yield server.address


@contextlib.contextmanager
def started(
    settings: Mapping[str, object],
    *,
    cores: Collection[int] | None = None,
    shaped: bool = False,
    program: Sequence[str] = ("voice_agent.cli", "serve"),
) -> Iterator[Started]:
    """Start a server on a free port and stop it with SIGTERM.

    Args:
        settings: dotted (`{"stt.model": "tiny-en"}`).
        cores: numbers of those that it may run on; None for any.
        shaped: `stt.model` names a shape, which gets random weights.
        program: module and arguments that serve, unless it is shaped.

    Yields:
        The server, once it is ready.

    Raises:
        ServerFailed: it ended before it was ready, or with another exit code than 0.
    """
    variables = {
        f"VOICE_AGENT_{name.upper().replace('.', '__')}": str(value)
        for name, value in settings.items()
    }
    program = ["voice_agent.bench.shaped"] if shaped else program
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as sock:
        port = sock.getsockname()[1]
        address = f"127.0.0.1:{port}"
        where = ["--fd", str(sock.fileno())]
        if settings.get("server.front_ends"):
            sock.close()  # each front-end has a socket of its own, or the kernel could not share
            where = ["--port", str(port)]
        process = subprocess.Popen(
            [sys.executable, "-m", *program, *where],
            pass_fds=[] if sock.fileno() < 0 else [sock.fileno()],
            stdout=subprocess.DEVNULL,
            env={**os.environ, **variables},
        )
    try:
        if cores is not None:  # before it has any other thread
            os.sched_setaffinity(process.pid, cores)
        # Often enough to meet each front-end.
        _until_ready(process, address, looks=1 + 6 * int(str(settings.get("server.front_ends", 0))))
        yield Started(address, process.pid)
        process.terminate()
        code = process.wait(_STOPPING_S)
        if code != 0:
            raise ServerFailed(f"the server ended with exit code {code} after SIGTERM")
    finally:
        process.kill()
        process.wait()


def _until_ready(process: subprocess.Popen[bytes], address: str, looks: int) -> None:
    deadline = time.monotonic() + _LOADING_S
    good = 0
    while True:
        if process.poll() is not None:
            raise ServerFailed(f"the server ended with exit code {process.returncode} at its start")
        with contextlib.suppress(OSError):  # 503 while it loads is one
            _get(f"http://{address}/readyz")
            good += 1
            if good == looks:
                return
            continue
        good = 0
        if time.monotonic() > deadline:
            raise ServerFailed(f"the server was not ready within {_LOADING_S:g} s")
        time.sleep(0.1)


def samples(address: str) -> dict[str, float]:
    """All of the server's metrics, by name and labels as they are written."""
    text = _get(f"http://{address}/metrics").decode()
    return {name: float(value) for name, value in re.findall(r"^([^#\s].*) (\S+)$", text, re.M)}


def metrics(address: str) -> dict[str, float]:
    """The server's metrics that have no labels, by name."""
    text = _get(f"http://{address}/metrics").decode()
    return {name: float(value) for name, value in re.findall(r"^(\w+) (\S+)$", text, re.M)}


def _get(url: str) -> bytes:
    # Past any proxy: the server is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=_ANSWER_S) as answer:
        return bytes(answer.read())
