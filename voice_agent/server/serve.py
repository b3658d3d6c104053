"""Serve until told to stop: the address, the model, the signals, the exit code.

    bind           before the model is read: a busy port is a matter of milliseconds
    listen         /healthz answers; /readyz and every offer say 503 "the model is loading"
    load           on a worker thread
    ready          the address is announced, sessions are admitted
    SIGTERM        nobody new, sessions end within a limit, exit code 0
    SIGINT         the same, exit code 130; a second signal cuts everything off
    gone           the recogniser has died or is stuck (watch.py): sessions are told, and the
                   process ends with an error, exit code 70 where it is stuck

One thread, one event loop; the recogniser's own thread does the computing.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import uvicorn
from loguru import logger

from voice_agent.config import ServerSettings, Settings
from voice_agent.config_errors import ConfigError
from voice_agent.engine.recognizer import Recognizer
from voice_agent.recognizers import load_recognizer
from voice_agent.server.agent import DRAIN_S, Agent, Load
from voice_agent.server.app import create_app
from voice_agent.server.errors import CannotListen
from voice_agent.server.watch import Gone, gone

EXIT_INTERRUPTED = 130
EXIT_STUCK = 70

_MAX_MESSAGE_BYTES = 1 << 20  # a websocket message: five seconds of stereo audio at 48 kHz
_PING_S = 10.0  # a websocket whose client vanished is noticed within two of these
_GONE_DRAIN_S = 1.0  # what sessions of a recogniser that is gone have to be told
_LAST_REQUESTS_S = 3  # what a response in flight may still take when sessions are gone


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


def serve(
    settings: Settings,
    sock: socket.socket,
    *,
    on_ready: Callable[[Recognizer], None],
    load: Load = load_recognizer,
    drain_s: float = DRAIN_S,
) -> int:
    """Serve until a signal or a failure to load. Blocks; call it on the main thread.

    Args:
        settings: of the whole agent.
        sock: a listening socket, from `bind` or inherited.
        on_ready: called once, when sessions are admitted.
        load: reads the weights.
        drain_s: seconds that sessions have to end after the first signal.

    Returns:
        The exit code: 0 after SIGTERM, 130 after SIGINT.

    Raises:
        EngineError: a model that cannot be used.
        Gone: the recogniser has died.
        ConfigError: a certificate, or an event loop, that cannot be used.
    """
    with asyncio.Runner(loop_factory=_loop_factory(settings.server.event_loop)) as runner:
        return runner.run(_serve(Agent(settings, load=load), sock, on_ready, drain_s))


def _loop_factory(wanted: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
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


async def _serve(
    agent: Agent, sock: socket.socket, on_ready: Callable[[Recognizer], None], drain_s: float
) -> int:
    tls = tls_options(agent.settings.server)
    server = _Server(
        uvicorn.Config(
            create_app(agent),
            access_log=False,
            log_config=None,
            ws_max_size=_MAX_MESSAGE_BYTES,
            ws_ping_interval=_PING_S,
            ws_ping_timeout=_PING_S,
            timeout_graceful_shutdown=_LAST_REQUESTS_S,
            **tls,
        )
    )
    with _signals() as received:
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        told = asyncio.create_task(received.get())
        loading = asyncio.create_task(agent.load())
        try:
            await asyncio.wait({serving, told, loading}, return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                on_ready(loading.result())
                watching = asyncio.create_task(gone(agent.watched, agent.sessions))
                await asyncio.wait({serving, told, watching}, return_when=asyncio.FIRST_COMPLETED)
                if watching.done():
                    await _give_up(agent, watching.result())
                watching.cancel()
            interrupted = told.done() and told.result() == signal.SIGINT
            if told.done():
                await _drain(agent, received, drain_s)
        finally:
            told.cancel()
            loading.cancel()
            server.should_exit = True
            await serving
            await agent.close()
        return EXIT_INTERRUPTED if interrupted else 0


async def _give_up(agent: Agent, gone: Gone) -> NoReturn:
    """Tell every session, then end the process, or raise what ends it.

    Raises:
        Gone: the recogniser's thread has ended, so the process can end like any other.
    """
    await agent.sessions.drain(_GONE_DRAIN_S, str(gone))
    if gone.stuck:
        logger.critical(str(gone))
        os._exit(EXIT_STUCK)  # an exit waits for every thread
    raise gone


async def _drain(agent: Agent, received: asyncio.Queue[int], drain_s: float) -> None:
    """Let sessions end, until the limit or a second signal."""
    draining = asyncio.create_task(agent.sessions.drain(drain_s))
    again = asyncio.create_task(received.get())
    await asyncio.wait({draining, again}, return_when=asyncio.FIRST_COMPLETED)
    if not draining.done():
        draining.cancel()
        await asyncio.gather(draining, return_exceptions=True)
        await agent.sessions.drain(0.0)
    again.cancel()


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers, which would end the process by the signal itself."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def _signals() -> Iterator[asyncio.Queue[int]]:
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
