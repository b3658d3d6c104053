"""The front-end's side: the engine in another process, behind the recogniser protocol.

`EngineClient` lives on a front-end's event loop; its streams may be used from any thread, as the
protocol has it. Audio goes into the engine's rings where it has some, else over the socket, with
all that streams are asked for: it is collected for `FLUSH_S` and sent as one message.

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
from typing import Any

from loguru import logger

from voice_agent.engine.errors import EngineClosed
from voice_agent.engine.feeders import Feeders
from voice_agent.engine.recognizer import (
    Deliver,
    Failed,
    Final,
    FinalPass,
    OnEvent,
    StreamOptions,
    deliver_here,
)
from voice_agent.engine.rings import Rings
from voice_agent.engine.taking import Taken
from voice_agent.link.keeping import Keeping
from voice_agent.link.line import Line
from voice_agent.link.packing import (
    EVENTS,
    HELLO,
    KNOCK,
    STATS,
    TOKENS,
    Orders,
    Row,
    Tag,
    error_of,
    event_of,
    framed,
    rows_of,
    taken_of,
    unpacked,
)
from voice_agent.link.stream import Lasting, LinkedStream, Posting, publish
from voice_agent.link.waiting import wait_elsewhere
from voice_agent.link.ways import ByOrders, ByRing, RingFeeding, Way
from voice_agent.link.writing import Manuscript, Writing, by_stream

FLUSH_S = 0.004
"""Seconds for which orders are collected: a twentieth of a chunk."""
LOST = "the engine process has ended and is being started again"
_RETRY_S = 0.05


class EngineClient:
    """See the module docstring. Implements `voice_agent.engine.recognizer.Recognizer`.

    Attributes:
        name: of the engine's recogniser; it and what follows are empty before `connect`.
        languages: see `Recognizer.languages`.
        streaming: see `Recognizer.streaming`.
        device: where the engine computes.
        right_contexts: look-aheads that it serves; empty where it has no choice.
        final_pass: what finals come from where nobody says, see `StreamOptions`.
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
        rings: bool = True,
    ) -> None:
        """Make a client of the running event loop; nothing is connected before `connect`.

        Args:
            path: of the engine's socket.
            wait: waits for the engine's answer to an `open`, or returns False where the caller
                cannot wait.
            on_up: called when the engine is there, each time; on the event loop.
            on_down: called when it is gone; on the event loop.
            rings: feed the engine's rings, where it has some and they can be reached.
        """
        self.name = ""
        self.languages: tuple[str, ...] = ()
        self.streaming = True
        self.device = ""
        self.right_contexts: tuple[int, ...] = ()
        self.final_pass: FinalPass = "stream"
        self.stats: Any = None
        self.gpu_memory_bytes: float | None = None
        self._path = path
        self._uses_rings = rings
        self._wait = wait
        self._on_up, self._on_down = on_up, on_down
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        self.lock = threading.RLock()  # guards what follows
        self.orders = Orders()
        self.overflowing: dict[RingFeeding, None] = {}
        self._feeders: Feeders | None = None
        self._writing: Writing | None = None
        self._flushing = False
        self._line: Line | None = None
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
            self._begin(stream, options).open(options, 0)
        if not self._wait(answer):
            with self.lock:  # from now on the answer is the stream's own
                self._answers.pop(number, None)
        if answer.done():
            answer.result()
        return stream

    def _begin(self, stream: LinkedStream, options: StreamOptions) -> Way:
        """Give a stream its way to the engine that is there. Under the lock."""
        # A second pass needs the audio once more, which is kept where it is fed; a search has
        # something left to tell when its segment ends.
        streamed = (options.final_pass or self.final_pass) == "stream"
        if self._feeders is None or self._writing is None or not streamed:
            stream.way, stream.manuscript = ByOrders(self, stream.number), None
        else:
            stream.way = ByRing(self, stream.number, self._feeders)
            stream.manuscript = Manuscript(self._writing, options)
        return stream.way

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
            line = Line(self)
            try:
                await self._loop.create_unix_connection(lambda: line, str(self._path))  # noqa: B023
            except OSError:
                await asyncio.sleep(_RETRY_S)
                continue
            await line.lost.wait()
            await asyncio.sleep(_RETRY_S)

    def _hang_up(self, line: Line | None) -> None:
        if self._staying is not None:
            self._staying.cancel()
        if line is not None:
            line.transport.abort()

    def _greeted(self, line: Line, hello: dict[str, Any]) -> None:
        """The engine is there: lasting streams are told to it once more."""
        with self.lock:
            if self._closed:
                line.transport.abort()
                return
            self.name, self.device = hello["name"], hello["device"]
            self.languages, self.streaming = tuple(hello["languages"]), hello["streaming"]
            self.right_contexts = tuple(hello["right_contexts"])
            self.final_pass = hello["final_pass"]
            self._line = line
            self._take_over(hello["outside"])
            for stream in self._streams.values():
                if stream.keeping is not None:
                    way = self._begin(stream, stream.keeping.options)
                    stream.keeping.again(way, stream.segment)
        self._up.set()
        self._on_up()

    def _take_over(self, outside: dict[str, Any] | None) -> None:
        """What this process does itself for an engine that lets it."""
        self._feeders = self._writing = None
        if outside is None:
            return
        self._writing = Writing.of(outside)
        if not self._uses_rings or outside["rings"] is None:
            return
        try:
            self._feeders = Feeders(Rings.attach(outside["rings"]), elsewhere=True)
        except OSError as error:
            logger.warning(f"audio goes to the engine over its socket, not its memory: {error}")

    def lost(self, line: Line) -> None:
        """See `line.Client`.

        The socket is closed after this has returned, and tells the engine that nobody here writes
        into its rings any more (`parting`): streams have no way to it when this returns.
        """
        with self.lock:
            if self._line is not line:
                return
            self._line = None
            self.orders = Orders()
            self.overflowing.clear()
            for stream in self._streams.values():
                stream.way = None
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
                if threading.get_ident() == self._thread:  # to wake a loop takes two system calls
                    self._loop.call_later(FLUSH_S, self._flush)
                else:
                    self._loop.call_soon_threadsafe(self._loop.call_later, FLUSH_S, self._flush)

    def _flush(self) -> None:
        with self.lock:
            self._flushing = False
            if self._line is None:
                return
            for feeding in [f for f in self.overflowing if not f.refill()]:
                del self.overflowing[feeding]
            if self.overflowing:
                self.flush_soon()
            message = self.orders.take() if len(self.orders) else b""
            if self._feeders is not None and self._feeders.rings.waiting_for_a_knock():
                message += framed(KNOCK)
            line = self._line
        if message:
            line.transport.write(message)

    def forget(self, stream: LinkedStream) -> None:
        """Give a closed stream's slot back. Under the lock."""
        self._streams.pop(stream.number, None)
        if stream.gone is None and stream.way is not None:
            stream.way.close()

    # In

    def take_in(self, line: Line, kind: int, body: memoryview) -> None:
        """See `line.Client`."""
        if kind == TOKENS:
            self._on_tokens(taken_of(body))
        elif kind == EVENTS:
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
                    opened = self._streams.get(number) if error is None else None
                    if opened is not None and opened.way is not None:
                        opened.way.opened(int(row[6]), int(row[7]))
                if answer is not None:
                    self._answer(number, answer, error)
                    continue
                if error is None:
                    continue
            stream = self._streams.get(number)
            if stream is None:
                continue
            event = event_of(row)
            if isinstance(event, Final):
                if stream.keeping is not None:
                    with self.lock:
                        stream.keeping.drop(segment)
                if stream.manuscript is not None:
                    event = stream.manuscript.finish(segment, event)
            if isinstance(event, Failed):
                if isinstance(event.error, EngineClosed) and stream.lasting:
                    continue  # its process ends too, and then the stream is opened again
                stream.keeping = None
                segment = -1
            postings.append((stream, segment, event))
        publish(postings)

    def _on_tokens(self, taken: Taken) -> None:
        postings: list[Posting] = []
        for number, segment, said, audio_s, end_s in by_stream(taken):
            stream = self._streams.get(number)
            if stream is not None and stream.manuscript is not None:
                partial = stream.manuscript.write(segment, said, audio_s, end_s)
                if partial is not None:
                    postings.append((stream, segment, partial))
        publish(postings)
