"""A server of several processes, whose engine says what it is told; started by `Processes`.

    python -m tests.support.front_ends PORT FRONT_ENDS SESSIONS DEATHS [KEYS]

The first sample of a piece of audio may be an order to the engine: see `Mortal`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.scripted import ScriptedRecognizer, ScriptedStream
from voice_agent.config import Settings, load_settings
from voice_agent.engine.errors import EngineClosed, ModelNotFound
from voice_agent.engine.recognizer import Failed

SCRIPT = ((0.2, "one"), (0.6, "one two"), (1.4, "one two three"))
DIE, HANG = 30_001, 30_002
RATE = 16_000


class Stats:
    """Steps computed; a script takes none."""

    ticks = 0


class _Stream(ScriptedStream):
    def feed(self, pcm: np.ndarray) -> None:
        owner = self.owner
        assert isinstance(owner, Mortal)
        if pcm.size and pcm[0] == DIE:
            owner.die("CUDA out of memory")
        elif pcm.size and pcm[0] == HANG:
            owner.gate.clear()
        super().feed(pcm)


class Mortal(ScriptedRecognizer):
    """Its thread dies of a piece that begins with `DIE`, and hangs at one that does with `HANG`."""

    def __init__(self, slots: int) -> None:
        self.gate: threading.Event = threading.Event()
        self.gate.set()
        self.stats = Stats()
        self.dead: EngineClosed | None = None
        super().__init__(SCRIPT, slots=slots, gate=self.gate)

    def open(self, on_event: Any, **options: Any) -> ScriptedStream:
        if self.dead is not None:
            raise self.dead
        stream = super().open(on_event, **options)
        stream.__class__ = _Stream
        return stream

    def die(self, why: str) -> None:
        self.dead = EngineClosed(f"the engine thread died: {why}")
        for stream in self.streams:
            stream.emit(Failed(self.dead))


def load(settings: Settings) -> Mortal:
    """What the engine process loads."""
    if settings.stt.model == "missing":
        raise ModelNotFound("missing", "there is no such model")
    return Mortal(settings.slots)


class Processes:
    """A server in processes of its own, over sockets alone."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process, self.port, self.log = process, port, log
        self.ws, self.http = f"ws://127.0.0.1:{port}", f"http://127.0.0.1:{port}"

    def get(self, path: str) -> tuple[int, str]:
        """Status and body."""
        try:
            with urllib.request.urlopen(self.http + path, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def metric(self, name: str, **labels: str) -> float:
        """One sample of /metrics; 0 for a counter that has not begun."""
        inside = ",".join(f'{k}="{v}"' for k, v in labels.items())
        sample = re.escape(f"{name}{{{inside}}}" if labels else name)
        found = re.search(rf"^{sample} (\S+)$", self.get("/metrics")[1], re.M)
        assert found is not None or name.endswith("_total"), f"no sample {sample}"
        return float(found.group(1)) if found is not None else 0.0

    def pids(self) -> dict[str, int]:
        """Of its children, by what they run."""
        found = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                parent = int(entry.joinpath("stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.process.pid:
                    line = entry.joinpath("cmdline").read_bytes().split(b"\0")
                    name = line[2].decode().rpartition(".")[2]
                    found[name if name == "engine" else f"{name}:{entry.name}"] = int(entry.name)
        return found

    def listen(self, **query: object) -> str:
        query = {"encoding": "linear16", "sample_rate": RATE, "endpointing": "false", **query}
        return f"{self.ws}/v1/listen?" + "&".join(f"{k}={v}" for k, v in query.items())

    def ready(self) -> bool:
        """Whether every front-end that the kernel chose, often enough to meet all, is ready."""
        return all(self.get("/readyz")[0] == 200 for _ in range(20))

    def until(self, condition: Callable[[], bool], limit_s: float = 60.0) -> float:
        """Wait for something; returns the seconds that it took."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < limit_s, self.log.read_text()
            time.sleep(0.02)
        return time.monotonic() - began

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@contextlib.contextmanager
def processes(
    folder: Path,
    *,
    front_ends: int = 2,
    sessions: int = 16,
    deaths: int = 100,
    keys: Path | None = None,
    model: str = "scripted",
) -> Iterator[Processes]:
    """Start a server; it is killed at the end if it still runs."""
    log = folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.front_ends", json.dumps({
                "front_ends": front_ends, "sessions": sessions, "deaths": deaths,
                "keys": str(keys) if keys is not None else None, "model": model,
            })],
            stdout=subprocess.PIPE, stderr=file,
        )  # fmt: skip
    assert process.stdout is not None
    try:
        yield Processes(process, int(process.stdout.readline()), log)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main() -> int:
    from voice_agent.cli import logs
    from voice_agent.engine.errors import EngineError
    from voice_agent.processes.patience import Patience
    from voice_agent.processes.supervisor import Supervisor
    from voice_agent.server.listening import bind_shared

    given = json.loads(sys.argv[1])
    logs.set_up(False)
    settings = load_settings(
        overrides={
            "server.transcription_only": True,
            "server.front_ends": given["front_ends"],
            "server.max_sessions": given["sessions"],
            "server.keys": given["keys"],
            "stt.model": given["model"],
        }
    )
    sockets = bind_shared("127.0.0.1", 0, given["front_ends"])
    print(sockets[0].getsockname()[1], flush=True)
    supervisor = Supervisor(
        settings,
        sockets,
        on_ready=lambda ready: print(json.dumps(ready.about), flush=True),
        load="tests.support.front_ends:load",
        drain_s=5.0,
        patience=lambda: Patience(given["deaths"]),
    )
    try:
        return asyncio.run(supervisor.run())
    except EngineError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
