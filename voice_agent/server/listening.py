"""What a process needs to listen and to be told to stop: its address, its options, its signals."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from voice_agent.config_errors import ConfigError
from voice_agent.config_server import ServerSettings
from voice_agent.server.agent import Agent
from voice_agent.server.errors import CannotListen

MAX_MESSAGE_BYTES = 1 << 20  # a websocket message: five seconds of stereo audio at 48 kHz
_PING_S = 10.0  # a websocket whose client vanished is noticed within two of these
_LAST_REQUESTS_S = 3  # what a response in flight may still take when sessions are gone
_BACKLOG = 1024


def bind(host: str, port: int) -> socket.socket:
    """Claim an address.

    Args:
        host: name or address to listen on.
        port: TCP port; 0 picks a free one.

    Raises:
        CannotListen: it is taken, forbidden or not ours.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, proto)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(128)  # here, so that a port which somebody else listens on fails here
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        raise CannotListen(host, port, _why(error)) from error
    sock.setblocking(False)
    return sock


def bind_shared(host: str, port: int, count: int) -> list[socket.socket]:
    """Claim an address with several sockets, among which the kernel spreads clients.

    Args:
        host: name or address to listen on.
        port: TCP port; 0 picks a free one.
        count: sockets.

    Raises:
        CannotListen: as `bind`.
    """
    # Alone first: sockets that share a port would share it with a server that runs already.
    with bind(host, port) as probe:
        address = probe.getsockname()
    shared = []
    try:
        for _ in range(count):
            sock = socket.socket(probe.family, socket.SOCK_STREAM)
            shared.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(address)
            sock.listen(_BACKLOG)
            sock.setblocking(False)
    except OSError as error:
        for sock in shared:
            sock.close()
        raise CannotListen(host, port, _why(error)) from error
    return shared


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is in use; stop what uses it or choose another with --port"
    if error.errno == errno.EACCES:
        return "ports below 1024 need privileges; choose another with --port"
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address; choose another with --host"
    return error.strerror or str(error)


def tls_options(server: ServerSettings) -> dict[str, Any]:
    """Uvicorn's options for the certificate that is set, which is tried first.

    Raises:
        ConfigError: it, or its key, cannot be used.
    """
    certificate, key = server.tls_certificate, server.tls_key
    if certificate is None:
        return {}
    try:
        # Without a password function, OpenSSL would ask for one on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, lambda: "")
    except OSError as error:  # ssl.SSLError is one
        files = f"{certificate} and {key}" if key is not None else str(certificate)
        raise ConfigError(
            f"server.tls_certificate: {files} cannot be used: {error}; PEM files of the chain and "
            "of its key, without a password, are wanted"
        ) from error
    return {"ssl_certfile": certificate, "ssl_keyfile": key}


def loop_factory(wanted: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the event loop; None for asyncio's own.

    Raises:
        ConfigError: uvloop is asked for and not installed.
    """
    if wanted == "asyncio":
        return None
    try:
        import uvloop
    except ModuleNotFoundError:
        if wanted == "auto":
            return None
        raise ConfigError(
            "server.event_loop: uvloop is not installed: pip install 'voice-agent[scale]', or "
            "leave it at auto"
        ) from None
    return uvloop.new_event_loop


def server_options(server: ServerSettings) -> dict[str, Any]:
    """Uvicorn's options.

    Raises:
        ConfigError: a certificate that cannot be used.
    """
    return {
        "access_log": False,
        "log_config": None,
        "ws_max_size": MAX_MESSAGE_BYTES,
        "ws_ping_interval": _PING_S,
        "ws_ping_timeout": _PING_S,
        "timeout_graceful_shutdown": _LAST_REQUESTS_S,
        **tls_options(server),
    }


async def drain(agent: Agent, received: asyncio.Queue[int], drain_s: float) -> None:
    """Let sessions end, until the limit or a second signal."""
    draining = asyncio.create_task(agent.sessions.drain(drain_s))
    again = asyncio.create_task(received.get())
    await asyncio.wait({draining, again}, return_when=asyncio.FIRST_COMPLETED)
    if not draining.done():
        draining.cancel()
        await asyncio.gather(draining, return_exceptions=True)
        await agent.sessions.drain(0.0)
    again.cancel()


class QuietServer(uvicorn.Server):
    """Uvicorn without its signal handlers, which would end the process by the signal itself."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to others."""
        yield


@contextlib.contextmanager
def signals() -> Iterator[asyncio.Queue[int]]:
    """SIGTERM and SIGINT as items of a queue."""
    loop = asyncio.get_running_loop()
    received: asyncio.Queue[int] = asyncio.Queue()
    handled = (signal.SIGTERM, signal.SIGINT)
    for number in handled:
        loop.add_signal_handler(number, received.put_nowait, number)
    try:
        yield received
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
