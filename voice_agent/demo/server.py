"""The server that the demo calls, in a process of its own.

A process, not a thread: the caller's pace and clock are then not disturbed by the recogniser,
so the latencies are those of a real caller, and what is shown is what `voice-agent serve` does.
The port is chosen here and handed over as an open socket, so nobody else can take it meanwhile.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import IO

from voice_agent.demo.errors import DemoError
from voice_agent.demo.http import HttpError, ask

_STOP_LIMIT_S = 20.0


class ServerProcess:
    """`voice-agent serve` on a free port of loopback, from `__enter__` to `__exit__`.

    Attributes:
        url: where it is.
        exit_code: of the process after `__exit__`; None while it runs.
    """

    def __init__(self, flags: Sequence[str] = ()) -> None:
        """Prepare a server.

        Args:
            flags: further flags of `voice-agent serve`.
        """
        self.url = ""
        self.exit_code: int | None = None
        self._flags = list(flags)
        self._log: IO[bytes] = tempfile.TemporaryFile()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ServerProcess:
        """Start it; it is not ready yet."""
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "voice_agent.cli", "serve"),
                    *("--fd", str(sock.fileno())),
                    *self._flags,
                ],
                pass_fds=[sock.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
            )
        return self

    def wait_until_ready(
        self, limit_s: float, on_status: Callable[[str], None] = lambda status: None
    ) -> str:
        """Wait until it admits calls.

        Args:
            limit_s: seconds that it may take; a first start may download weights.
            on_status: is told what the server says that it waits for.

        Returns:
            The model's name.

        Raises:
            DemoError: it stopped, with what it said last, or it is not ready in time.
        """
        assert self._process is not None
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise DemoError(f"the server stopped: {self._last_line()}")
            ready, body = self._readyz()
            if ready:
                return str(body["model"])
            on_status(str(body.get("status", "the server is starting")))
            time.sleep(0.1)
        raise DemoError(f"the server was not ready within {limit_s:.0f} s: {self._last_line()}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it with SIGTERM, as an operator would."""
        assert self._process is not None
        self._process.terminate()
        try:
            self.exit_code = self._process.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self.exit_code = self._process.wait()
        self._log.close()

    def _readyz(self) -> tuple[bool, dict[str, object]]:
        try:
            return True, ask(f"{self.url}/readyz", limit_s=2.0)
        except HttpError as error:
            return False, error.body

    def _last_line(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("voice-agent: ") if lines else "it said nothing"
