"""`voice-agent serve`: settings and an address into a running server."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

import voice_agent
from voice_agent.cli import logs
from voice_agent.cli.errors import UsageFault
from voice_agent.cli.load import load, what
from voice_agent.config import load_settings


def run(config: Path | None, overrides: Mapping[str, Any], *, fd: int | None, verbose: bool) -> int:
    """Serve until a signal.

    Args:
        config: settings file.
        overrides: flags, dotted; None where not given.
        fd: inherited listening socket, instead of the settings' address.
        verbose: log what happens.

    Returns:
        The exit code.
    """
    settings = load_settings(config, overrides)
    log = settings.log
    logs.set_up(verbose, level=log.level, as_json=log.format == "json")
    console = Console()
    with console.status("importing Pipecat"):
        from voice_agent.server import banner
        from voice_agent.server.serve import bind, serve

    sock = _inherited(fd) if fd is not None else bind(settings.server.host, settings.server.port)
    started = time.monotonic()
    begins = f"voice-agent {voice_agent.__version__}: loading {what(settings)} ..."
    console.print(begins, markup=False, highlight=False, soft_wrap=True)
    status = console.status("loading")
    status.start()

    def on_ready(recognizer: Any) -> None:
        status.stop()
        banner.print_ready(console, settings, recognizer, sock, time.monotonic() - started)

    try:
        return serve(settings, sock, on_ready=on_ready, load=load)
    finally:
        status.stop()


def _inherited(fd: int) -> socket.socket:
    try:
        sock = socket.socket(fileno=fd)
        listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise UsageFault(f"--fd {fd} is no socket: {error.strerror}") from error
    if not listening:
        raise UsageFault(f"--fd {fd} is a socket, but not a listening one")
    sock.setblocking(False)
    return sock
