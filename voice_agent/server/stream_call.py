"""A transcription session on a websocket: the shell around a protocol that knows no socket.

    event loop       reads messages, in time limits and no faster than the session can take them
    pool threads     `ProtocolSession` decodes, listens for speech and maps messages (`Serial`)
    recogniser       its events go to the pool, as further calls of the same session

A resumable session outlives its connection by `grace_s`, unless its client has sent nothing yet
or closed it with 1000; another connection takes it over. Its own close waits until the client
has confirmed the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial

from loguru import logger
from starlette.websockets import WebSocket, WebSocketState

from voice_agent.engine.recognizer import Deliver
from voice_agent.server.debt import Debt
from voice_agent.server.limits import Pace, StreamLimits
from voice_agent.server.serial import Serial
from voice_agent.server.sessions import session_header
from voice_agent.server.silence import Silence
from voice_agent.server.socketless import CLOSED, SERVER_FAILED, Ended, ProtocolSession

IDLE = 1011  # Deepgram's code for a client that sends nothing (NET-0001)
POLICY = 1008
GOING_AWAY = 1001
TAKEN_OVER = 4001
LOST = 1006
_MAX_REASON_BYTES = 123  # RFC 6455, 5.5
_CLOSE_HANDSHAKE_S = 5.0
_UNREAD_S = 5.0  # as nothing is read meanwhile, pongs are not, and pings time out
_OWED_AT_MOST = 3  # segments that wait for their text before the client has to wait


@dataclass(eq=False)
class _Connection:
    """One websocket of a session."""

    ws: WebSocket
    generation: int
    unsent: asyncio.Queue[str | Ended] = field(default_factory=asyncio.Queue)
    task: asyncio.Task[None] | None = None
    farewell: Ended | None = None  # how to close it where the task is cancelled


class StreamCall:
    """See the module docstring. Implements `voice_agent.server.sessions.Call`. Event loop only.

    Attributes:
        id: of the session, for logs, traces and the client.
        session: the protocol's side; its `receive` and `take` belong to the pool's threads.
    """

    session: ProtocolSession

    def __init__(
        self,
        *,
        session_id: str,
        pool: Executor,
        limits: StreamLimits,
        resumable: bool = False,
        on_audio: Callable[[float], None] = lambda _: None,
        on_drop: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Make a call; `open` opens its session.

        Args:
            session_id: for logs; the client is told it.
            pool: threads for its work.
            limits: of this client.
            resumable: whether it outlives a connection.
            on_audio: told the seconds of audio that were heard, now and then.
            on_drop: told in a word why the client was cut off, where it was.
        """
        self.id = session_id
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._serial = Serial(pool, after=self._publish, crashed=self._crashed)
        self._limits = limits
        self._resumable = resumable
        self._on_audio = on_audio
        self._on_drop = on_drop
        self._connection: _Connection | None = None
        self._taking_over = asyncio.Lock()
        self._generation = 0
        self._session_generation = 0  # the one that `session` writes for; pool threads
        self._processed = 0  # bytes; pool threads
        self._posted = 0
        self._progress = asyncio.Event()
        self._over = asyncio.Event()
        self._afterwards: list[Callable[[], object]] = []
        self._grace: asyncio.TimerHandle | None = None
        self._debt = Debt(limits.stuck_s, self._give_up, later=self._loop.call_later)
        self._counted_s = self._paced_s = 0.0
        self._pace = Pace(limits.pace, limits.burst_s, time.monotonic())

    async def open(self, make: Callable[[Deliver], ProtocolSession]) -> None:
        """Open the session on one of the pool's threads: phrases are compiled there, for one.

        Args:
            make: opens it; given what delivers the recogniser's callbacks.

        Raises:
            EngineFull, ValueError: whatever `make` raises.
        """
        opening = self._loop.run_in_executor(self._pool, make, self._serial.post)
        try:
            self.session = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_unwanted)  # nobody is there any more
            raise

    # sessions.Call

    async def run(self) -> None:
        """Return when the session is over; see `Call.run`."""
        try:
            try:
                async with asyncio.timeout(self._limits.total_s):
                    await self._over.wait()
            except TimeoutError:
                self._on_drop("total")
                self._fail(POLICY, "LimitError", f"a session lasts {self._limits.total_s:g} s")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_CLOSE_HANDSHAKE_S):
                        await self._over.wait()
        finally:
            if self._grace is not None:
                self._grace.cancel()
            self._debt.forget()
            self._over.set()
            self._serial.post(self.session.close)
            for then in self._afterwards:
                then()
            await self._drop_connection(GOING_AWAY, "the session is over")

    async def end(self) -> None:
        """Flush what was said, then hang up; see `Call.end`."""
        self._serial.post(self.session.finish)
        if self._connection is None:
            self._over.set()

    def when_over(self, then: Callable[[], object]) -> None:
        """Call this once, when `run` returns."""
        self._afterwards.append(then)

    @property
    def heard_s(self) -> float:
        """Seconds of audio so far; 0 where the session was never opened."""
        return self.session.heard_s if hasattr(self, "session") else 0.0

    @property
    def over(self) -> bool:
        """Whether nobody can come back to it."""
        return self._over.is_set()

    # Connections

    async def attach(
        self,
        ws: WebSocket,
        *,
        received: int = 0,
        subprotocol: str | None = None,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        """Serve a connection until it or the session ends.

        Args:
            ws: not accepted yet.
            received: number of the last event that a returning client has.
            subprotocol: to answer the handshake with.
            headers: to answer the handshake with.
        """
        with logger.contextualize(session=self.id):
            await self._attach(ws, received, subprotocol, headers)

    async def _attach(
        self,
        ws: WebSocket,
        received: int,
        subprotocol: str | None,
        headers: Sequence[tuple[bytes, bytes]],
    ) -> None:
        async with self._taking_over:  # many may come back at once
            await self._drop_connection(TAKEN_OVER, "resumed by another connection")
            self._generation += 1
            connection = _Connection(ws, self._generation)
            self._connection = connection
            if self._grace is not None:
                self._grace.cancel()
            try:
                await ws.accept(subprotocol, headers=[*headers, session_header(self.id)])
            except BaseException:
                self._detach(connection, LOST)
                raise
            self._serial.post(partial(self._attached, connection.generation, received))
            task = connection.task = asyncio.create_task(self._drive(connection))
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
        self._detach(connection, LOST)  # had it been cancelled before its first step
        if connection.farewell is not None:
            await _close(ws, connection.farewell)
        if not task.cancelled() and (error := task.exception()):
            raise error

    async def _drop_connection(self, code: int, reason: str) -> None:
        connection = self._connection
        if connection is None or connection.task is None:
            return
        connection.farewell = Ended(code, reason)
        connection.task.cancel()
        await asyncio.wait({connection.task})

    async def _drive(self, connection: _Connection) -> None:
        sender = asyncio.create_task(self._send(connection))
        code = LOST
        try:
            code = await self._receive(connection)
        finally:
            sender.cancel()
            await asyncio.wait({sender})
            self._detach(connection, code)

    def _detach(self, connection: _Connection, code: int) -> None:
        if self._connection is not connection:
            return
        self._connection = None
        self._serial.post(self.session.detached)
        done = code == CLOSED if self.session.ended is None else self.session.settled
        if self._resumable and self._posted and not done:
            self._grace = self._loop.call_later(self._limits.grace_s, self._over.set)
        else:
            self._over.set()

    # In

    async def _receive(self, connection: _Connection) -> int:
        """Read until the connection is closed; returns the close code."""
        silence = Silence(self._silence_s)
        while True:
            silence.begins()
            try:
                message = await connection.ws.receive()
            except asyncio.CancelledError:
                if not silence.was_too_long():
                    raise
                if self.session.ended is not None:
                    await _close(connection.ws, self.session.ended)
                    return LOST
                if self.session.closing:  # nothing has to come; the text that is owed has a limit
                    continue
                limit_s = self._limits.idle_s
                if self._resumable:  # a connection that is half open: its client may come back
                    await _close(connection.ws, Ended(IDLE, f"nothing came for {limit_s:g} s"))
                    return LOST
                self._on_drop("idle")
                text = f"nothing came for {limit_s:g} s; send audio, or KeepAlive now and then"
                self._fail(IDLE, "LimitError", text)
                continue
            silence.ends()
            if message["type"] == "websocket.disconnect":
                return int(message.get("code") or LOST)
            data = message.get("bytes")
            data = data if data is not None else message.get("text", "")
            self._posted += len(data)
            self._serial.post(partial(self._take_in, data))
            await self._hold_back()

    def _silence_s(self) -> float:
        return self._limits.idle_s if self.session.ended is None else _CLOSE_HANDSHAKE_S

    async def _hold_back(self) -> None:
        """Wait until the session can take more: for its backlog, then for the pace."""
        while self.session.ended is None and (
            self._posted - self._processed > self._limits.backlog_bytes
            or self.session.owed > _OWED_AT_MOST
        ):
            self._progress.clear()
            await self._progress.wait()
        heard_s = self.session.heard_s
        wait_s = self._pace.spend(heard_s - self._paced_s, time.monotonic())
        self._paced_s = heard_s
        if wait_s:
            await asyncio.sleep(min(wait_s, _UNREAD_S))

    # Pool threads

    def _take_in(self, data: bytes | str) -> None:
        try:
            self.session.receive(data)
        finally:
            self._processed += len(data)

    def _attached(self, generation: int, received: int) -> None:
        self._session_generation = generation
        self.session.attached(received)

    def _publish(self) -> None:
        texts, ended = self.session.take(), self.session.ended
        self._call_loop(self._queue, self._session_generation, texts, ended)

    def _crashed(self, error: BaseException) -> None:
        logger.opt(exception=error).error("a transcription session crashed")
        self._call_loop(self._crash)

    def _call_loop(self, call: Callable[..., None], *args: object) -> None:
        if threading.get_ident() == self._thread:
            call(*args)
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(call, *args)

    # Out

    def _queue(self, generation: int, texts: Sequence[str], ended: Ended | None) -> None:
        self._progress.set()
        heard_s = self.session.heard_s
        if heard_s > self._counted_s:
            self._on_audio(heard_s - self._counted_s)
            self._debt.hear(heard_s - self._counted_s)
            self._counted_s = heard_s
        if not self.over:
            self._debt.watch(self.session.owed, self.session.paid)
        connection = self._connection
        if connection is None or connection.generation != generation:
            # Non-resumable sessions are always settled.
            if ended is not None and connection is None and self.session.settled:
                self._over.set()
            return
        for text in texts:
            connection.unsent.put_nowait(text)
        if ended is not None and self.session.settled:
            connection.unsent.put_nowait(ended)
        if connection.unsent.qsize() > self._limits.unsent and connection.task is not None:
            logger.warning(f"a client left {connection.unsent.qsize()} messages unread; cut off")
            self._on_drop("unread")
            connection.task.cancel()

    def _give_up(self) -> None:
        self._on_drop("stuck")
        text = f"the recogniser has owed a text for {self._limits.stuck_s:g} s"
        self._fail(SERVER_FAILED, "ServerError", text)

    async def _send(self, connection: _Connection) -> None:
        while True:
            item = await connection.unsent.get()
            if isinstance(item, Ended):
                await _close(connection.ws, item)
                return
            try:
                await connection.ws.send_text(item)
            except Exception as error:  # what a lost connection raises depends on the server
                logger.debug(f"a client is gone: {error!r}")
                return

    def _fail(self, code: int, variant: str, description: str) -> None:
        self._serial.post(partial(self.session.fail, code, variant, description))

    def _crash(self) -> None:
        self._on_drop("crash")
        if self._connection is not None:
            self._connection.unsent.put_nowait(Ended(1011, "internal error"))
        self._loop.call_later(_CLOSE_HANDSHAKE_S, self._over.set)


def _close_unwanted(opening: asyncio.Future[ProtocolSession]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


async def _close(ws: WebSocket, ended: Ended) -> None:
    if ws.application_state is not WebSocketState.CONNECTED:
        return
    reason = ended.reason.encode()[:_MAX_REASON_BYTES].decode(errors="ignore")
    with contextlib.suppress(Exception):  # gone already, or it does not read
        async with asyncio.timeout(_CLOSE_HANDSHAKE_S):
            await ws.close(ended.code, reason)
