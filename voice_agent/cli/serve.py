"""`voice-agent serve`: settings and an address into a running server."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.console import Console

import voice_agent
from voice_agent.cli import logs
from voice_agent.cli.errors import UsageFault
from voice_agent.cli.load import load, what
from voice_agent.config import Settings, load_settings


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
    if settings.server.front_ends:
        return _serve_processes(settings, console, fd, verbose)
    with console.status("importing"):
        from voice_agent.server import banner
        from voice_agent.server.listening import bind
        from voice_agent.server.serve import serve

    sock = _inherited(fd) if fd is not None else bind(settings.server.host, settings.server.port)
    started = time.monotonic()
    _say(console, _begins(settings))
    status = console.status("loading")
    status.start()

    def on_ready(recognizer: Any) -> None:
        status.stop()
        banner.print_ready(console, settings, recognizer, sock, time.monotonic() - started)

    try:
        return serve(settings, sock, on_ready=on_ready, load=load)
    finally:
        status.stop()


def _serve_processes(settings: Settings, console: Console, fd: int | None, verbose: bool) -> int:
    """Serve from several processes; see `voice_agent.processes`."""
    from voice_agent.processes.supervisor import Supervisor
    from voice_agent.server import banner
    from voice_agent.server.listening import bind_shared, loop_factory, tls_options

    server = settings.server
    tls_options(server)  # here, where what cannot be used is told once
    loop_factory(server.event_loop)
    if fd is not None:
        sockets = [_inherited(fd)]
    else:
        sockets = bind_shared(server.host, server.port, server.front_ends)
    started = time.monotonic()
    _say(console, _begins(settings))
    status = console.status("loading")
    status.start()

    def on_ready(ready: Any) -> None:
        status.stop()
        recognizer = SimpleNamespace(**ready.about)
        banner.print_ready(console, settings, recognizer, sockets[0], time.monotonic() - started)

    try:
        return asyncio.run(Supervisor(settings, sockets, on_ready=on_ready, verbose=verbose).run())
    finally:
        status.stop()


def _begins(settings: Settings) -> str:
    return f"voice-agent {voice_agent.__version__}: loading {what(settings)} ..."


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


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
