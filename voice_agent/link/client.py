"""The front-end's side: the engine in another process, behind the recogniser protocol.

`EngineClient` lives on a front-end's event loop; its streams may be used from any thread, as the
protocol has it. What streams are asked for is collected for `FLUSH_S` and sent as one message.

The engine process may die and be started again. Then an ordinary stream ends with `Failed`, and
one of `lasting` is opened again and told its open segments once more: its caller notices a delay.
While there is no engine, `open` raises EngineClosed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from loguru import logger

from voice_agent.engine.errors import EngineClosed
from voice_agent.engine.recognizer import (
    Deliver,
    Failed,
    Final,
    OnEvent,
    StreamOptions,
    deliver_here,
)
from voice_agent.link.keeping import Keeping
from voice_agent.link.packing import (
    EVENTS,
    HELLO,
    STATS,
    Op,
    Orders,
    Row,
    Tag,
    Unframer,
    error_of,
    event_of,
    rows_of,
    unpacked,
)
from voice_agent.link.stream import Lasting, LinkedStream, Posting, publish

FLUSH_S = 0.004
"""Seconds for which orders are collected: a twentieth of a chunk."""
LOST = "the engine process has ended and is being started again"
_RETRY_S = 0.05
_ANSWER_S = 30.0


def wait_elsewhere(answer: Future[None]) -> bool:
    """Wait on this thread, unless it is an event loop's."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        with contextlib.suppress(Exception):  # whoever asks for its result has it
            answer.exception(_ANSWER_S)
        return answer.done()
    return False


class EngineClient:
    """See the module docstring. Implements `voice_agent.engine.recognizer.Recognizer`.

    Attributes:
        name: of the engine's recogniser; it and what follows are empty before `connect`.
        languages: see `Recognizer.languages`.
        streaming: see `Recognizer.streaming`.
        device: where the engine computes.
        right_contexts: look-aheads that it serves; empty where it has no choice.
        stats: the engine's counters, at most `host.STATS_EVERY_S` old; None before the first.
        gpu_memory_bytes: that its torch holds; None without a GPU.
    """

    def __init__(
        self,
        path: Path,
        *,
        wait: Callable[[Future[None]], bool] = wait_elsewhere,
        on_up: Callable[[], object] = lambda: None,
        on_down: Callable[[], object] = lambda: None,
    ) -> None:
        """Make a client of the running event loop; nothing is connected before `connect`.

        Args:
            path: of the engine's socket.
            wait: waits for the engine's answer to an `open`, or returns False where the caller
                cannot wait.
            on_up: called when the engine is there, each time; on the event loop.
            on_down: called when it is gone; on the event loop.
        """
        self.name = ""
        self.languages: tuple[str, ...] = ()
        self.streaming = True
        self.device = ""
        self.right_contexts: tuple[int, ...] = ()
        self.stats: Any = None
        self.gpu_memory_bytes: float | None = None
        self._path = path
        self._wait = wait
        self._on_up, self._on_down = on_up, on_down
        self._loop = asyncio.get_running_loop()
        self.lock = threading.RLock()  # guards what follows
        self.orders = Orders()
        self._flushing = False
        self._line: _Line | None = None
        self._streams: dict[int, LinkedStream] = {}
        self._answers: dict[int, Future[None]] = {}  # to opens that wait for one
        self._numbers = itertools.count(1)
        self._closed = False
        # Event loop only.
        self._up = asyncio.Event()
        self._staying: asyncio.Task[None] | None = None

    # Recognizer

    @property
    def lasting(self) -> Lasting:
        """The same recogniser, whose streams outlive the engine process."""
        return Lasting(self)

    def open(
        self,
        on_event: OnEvent,
        *,
        deliver: Deliver = deliver_here,
        options: StreamOptions | None = None,
    ) -> LinkedStream:
        """Claim a slot; see `Recognizer.open`.

        It waits for the engine's answer, a few milliseconds. Where that is not possible, on the
        event loop itself, it returns at once, and what it would raise comes as the stream's
        `Failed`.
        """
        return self.open_stream(on_event, deliver, options, lasting=False)

    def open_stream(
        self, on_event: OnEvent, deliver: Deliver, options: StreamOptions | None, *, lasting: bool
    ) -> LinkedStream:
        """Claim a slot for an ordinary or a lasting stream; see `open`."""
        options = options or StreamOptions()
        with self.lock:
            if self._line is None:
                raise EngineClosed("the recogniser was closed" if self._closed else LOST)
            number = next(self._numbers)
            keeping = Keeping(options) if lasting else None
            stream = LinkedStream(self, number, on_event, deliver, keeping)
            self._streams[number] = stream
            answer: Future[None] = Future()
            self._answers[number] = answer
            self.orders.open(number, options)
            self.flush_soon()
        if not self._wait(answer):
            with self.lock:  # from now on the answer is the stream's own
                self._answers.pop(number, None)
        if answer.done():
            answer.result()
        return stream

    def close(self) -> None:
        """Hang up; see `Recognizer.close`. The engine itself goes on."""
        with self.lock:
            if self._closed:
                return
            self._closed = True
            postings = self._fail_all(EngineClosed("the recogniser was closed"), lasting=True)
            line, self._line = self._line, None
        publish(postings)
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the socket with it
            self._loop.call_soon_threadsafe(self._hang_up, line)

    # Connecting

    async def connect(self) -> None:
        """Return once the engine is there; stay connected from then on."""
        if self._staying is None:
            self._staying = asyncio.create_task(self._stay_connected())
        await self._up.wait()

    @property
    def up(self) -> bool:
        """Whether the engine is there."""
        return self._line is not None

    def _answer(self, number: int, answer: Future[None], error: Exception | None) -> None:
        if error is None:
            answer.set_result(None)
            return
        with self.lock:
            self._streams.pop(number, None)
        answer.set_exception(error)

    async def _stay_connected(self) -> None:
        while not self._closed:
            line = _Line(self)
            try:
                await self._loop.create_unix_connection(lambda: line, str(self._path))  # noqa: B023
            except OSError:
                await asyncio.sleep(_RETRY_S)
                continue
            await line.lost.wait()
            await asyncio.sleep(_RETRY_S)

    def _hang_up(self, line: _Line | None) -> None:
        if self._staying is not None:
            self._staying.cancel()
        if line is not None:
            line.transport.abort()

    def _greeted(self, line: _Line, hello: dict[str, Any]) -> None:
        """The engine is there: lasting streams are told to it once more."""
        with self.lock:
            if self._closed:
                line.transport.abort()
                return
            self.name, self.device = hello["name"], hello["device"]
            self.languages, self.streaming = tuple(hello["languages"]), hello["streaming"]
            self.right_contexts = tuple(hello["right_contexts"])
            self._line = line
            for number, stream in self._streams.items():
                if stream.keeping is not None:
                    stream.keeping.again(self.orders, number, stream.segment)
            if len(self.orders):
                self.flush_soon()
        self._up.set()
        self._on_up()

    def _lost(self, line: _Line) -> None:
        with self.lock:
            if self._line is not line:
                return
            self._line = None
            self.orders = Orders()
            postings = self._fail_all(EngineClosed(LOST), lasting=False)
            answers, self._answers = list(self._answers.values()), {}
        publish(postings)
        for answer in answers:
            answer.set_exception(EngineClosed(LOST))
        self._up.clear()
        logger.warning(LOST)
        self._on_down()

    def _fail_all(self, error: EngineClosed, *, lasting: bool) -> list[Posting]:
        """What streams are told when there is no engine for them any more. Under the lock."""
        postings: list[Posting] = []
        for stream in list(self._streams.values()):
            if lasting or not stream.lasting:
                stream.keeping = None
                stream.gone = error
                postings.append((stream, -1, Failed(error)))
        return postings

    # Out

    def flush_soon(self) -> None:
        """Under the lock."""
        if not self._flushing:
            self._flushing = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody sends any more
                self._loop.call_soon_threadsafe(self._loop.call_later, FLUSH_S, self._flush)

    def _flush(self) -> None:
        with self.lock:
            self._flushing = False
            if self._line is None or not len(self.orders):
                return
            message = self.orders.take()
            line = self._line
        line.transport.write(message)

    def forget(self, stream: LinkedStream) -> None:
        """Give a closed stream's slot back. Under the lock."""
        self._streams.pop(stream.number, None)
        if stream.gone is None and self._line is not None:
            self.orders.add(Op.CLOSE, stream.number)
            self.flush_soon()

    # In

    def _take_in(self, line: _Line, kind: int, body: memoryview) -> None:
        if kind == EVENTS:
            self._on_rows(rows_of(body))
        elif kind == STATS:
            self._on_stats(unpacked(body))
        elif kind == HELLO:
            self._greeted(line, unpacked(body))

    def _on_stats(self, numbers: dict[str, float]) -> None:
        self.gpu_memory_bytes = numbers.pop("gpu_memory_bytes", None)
        if numbers:
            self.stats = SimpleNamespace(**numbers)

    def _on_rows(self, rows: list[Row]) -> None:
        postings: list[Posting] = []
        for row in rows:
            number, segment, tag = row[:3]
            if tag in (Tag.OPENED, Tag.REFUSED):
                error = error_of(row) if tag == Tag.REFUSED else None
                with self.lock:
                    answer = self._answers.pop(number, None)
                if answer is not None:
                    self._answer(number, answer, error)
                    continue
                if error is None:
                    continue
            stream = self._streams.get(number)
            if stream is None:
                continue
            event = event_of(row)
            if isinstance(event, Final) and stream.keeping is not None:
                with self.lock:
                    stream.keeping.drop(segment)
            if isinstance(event, Failed):
                if isinstance(event.error, EngineClosed) and stream.lasting:
                    continue  # its process ends too, and then the stream is opened again
                stream.keeping = None
                segment = -1
            postings.append((stream, segment, event))
        publish(postings)


class _Line(asyncio.Protocol):
    """The connection to one engine process."""

    transport: asyncio.Transport

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._unframer = Unframer()
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        try:
            for kind, body in self._unframer.push(data):
                self._client._take_in(self, kind, body)
        except Exception:
            logger.exception("the engine's message could not be read; its connection is cut")
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        self._client._lost(self)
