"""The engine's side: a recogniser on a Unix socket, for the front-ends of one server.

    listen(path)    front-ends connect, any number of times
    orders          applied as they come, on the event loop; none of them blocks
    events          `deliver` brings a tick's events to the loop, which sends one message to each
                    front-end; those of all ticks since the loop last ran go together

Everything but the recogniser itself runs on one event loop, so what `Stream.cancel` drops is
dropped exactly: an event is numbered with its segment on the thread that cancels.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from dataclasses import asdict, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from loguru import logger

from voice_agent.engine.errors import EngineError
from voice_agent.engine.recognizer import Event, Failed, Final, Recognizer, Stream, StreamOptions
from voice_agent.link.packing import (
    EVENTS,
    HELLO,
    ORDERS,
    STATS,
    Op,
    Order,
    Row,
    Unframer,
    opened,
    orders_of,
    packed,
    refused,
    row_of,
)

STATS_EVERY_S = 0.5
_UNREAD_BYTES = 64 << 20  # a front-end that leaves more than that unread is stuck


class EngineHost:
    """See the module docstring."""

    def __init__(self, recognizer: Recognizer) -> None:
        """Serve a recogniser; `close` does not close it.

        Args:
            recognizer: loaded.
        """
        self.recognizer = recognizer
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._telling: asyncio.Task[None] | None = None

    async def listen(self, path: Path) -> None:
        """Accept front-ends at this path.

        Raises:
            OSError: it cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(partial(_Connection, self), path)
        self._telling = asyncio.create_task(self._tell())

    def hello(self) -> bytes:
        """What a front-end has to know of the recogniser."""
        r = self.recognizer
        return packed(
            HELLO,
            {
                "name": r.name,
                "languages": list(r.languages),
                "streaming": r.streaming,
                "device": str(getattr(r, "device", "an unnamed device")),
                "right_contexts": list(getattr(r, "right_contexts", ())),
            },
        )

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(STATS_EVERY_S)
            message = packed(STATS, numbers_of(self.recognizer))
            for connection in self._connections:
                connection.write(message)

    async def close(self) -> None:
        """Hang up on every front-end. Idempotent."""
        if self._telling is not None:
            self._telling.cancel()
        for connection in list(self._connections):
            connection.hang_up()
        if self._server is not None:
            self._server.close()


def numbers_of(recognizer: Recognizer) -> dict[str, float]:
    """The recogniser's counters, and the GPU memory that torch holds, by name."""
    stats: Any = getattr(recognizer, "stats", None)
    numbers = asdict(stats) if is_dataclass(stats) and not isinstance(stats, type) else {}
    numbers = {k: v for k, v in numbers.items() if isinstance(v, int | float)}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        numbers["gpu_memory_bytes"] = torch.cuda.memory_allocated()
    return numbers


class _Hosted:
    """One stream of a front-end, and which of its segments an event belongs to."""

    def __init__(self, connection: _Connection, number: int, first_segment: int) -> None:
        self._connection = connection
        self._number = number
        self._segment = first_segment
        self._finishing: deque[int] = deque()
        self.stream: Stream | None = None
        self.failed = False

    def on_event(self, event: Event) -> None:
        segment = self._finishing[0] if self._finishing else self._segment
        if isinstance(event, Final):
            self._finishing.popleft()
        elif isinstance(event, Failed):
            self.failed = True
            segment = 0
        self._connection.tell(row_of(self._number, segment, event))

    def finish(self) -> None:
        """End the segment."""
        assert self.stream is not None
        self._finishing.append(self._segment)
        self._segment += 1
        self.stream.finish()

    def cancel(self) -> None:
        """Drop the segment."""
        assert self.stream is not None
        self.stream.cancel()
        self._segment += 1


class _Connection(asyncio.Protocol):
    """One front-end. Event loop only."""

    def __init__(self, host: EngineHost) -> None:
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._unframer = Unframer()
        self._streams: dict[int, _Hosted] = {}
        self._rows: list[Row] = []
        self._transport: asyncio.Transport | None = None
        # One object, so that the recogniser hands all streams' events over in one call.
        self._deliver = self._loop.call_soon_threadsafe

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._host._connections.add(self)
        self.write(self._host.hello())

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._host._connections.discard(self)
        for hosted in self._streams.values():
            if hosted.stream is not None:
                hosted.stream.close()
        self._streams.clear()

    def hang_up(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def write(self, message: bytes) -> None:
        if self._transport is None:
            return
        self._transport.write(message)
        if self._transport.get_write_buffer_size() > _UNREAD_BYTES:
            logger.error("a front-end reads nothing any more; its connection is cut")
            self.hang_up()

    # In

    def data_received(self, data: bytes) -> None:
        try:
            for kind, body in self._unframer.push(data):
                if kind == ORDERS:
                    for order in orders_of(body):
                        self._apply(order)
        except Exception:
            logger.exception("a front-end's message could not be read; its connection is cut")
            self.hang_up()

    def _apply(self, order: Order) -> None:
        op, number, size, what = order
        if op == Op.OPEN:
            self._open(number, size, what)
            return
        if op == Op.CLOSE:
            hosted = self._streams.pop(number, None)
            if hosted is not None and hosted.stream is not None:
                hosted.stream.close()
            return
        hosted = self._streams.get(number)
        if hosted is None or hosted.failed or hosted.stream is None:
            return  # its front-end will hear, or has heard, that it is over
        try:
            if what is not None:
                hosted.stream.feed(what)
            elif op == Op.FINISH:
                hosted.finish()
            else:
                hosted.cancel()
        except EngineError as error:
            hosted.on_event(Failed(error))

    def _open(self, number: int, first_segment: int, options: StreamOptions) -> None:
        hosted = _Hosted(self, number, first_segment)
        try:
            hosted.stream = self._host.recognizer.open(
                hosted.on_event, deliver=self._deliver, options=options
            )
        except (EngineError, ValueError) as error:
            self.tell(refused(number, error))
        else:
            self._streams[number] = hosted
            self.tell(opened(number))

    # Out

    def tell(self, row: Row) -> None:
        """Send a row, together with those that come until the loop runs again."""
        if not self._rows:
            self._loop.call_soon(self._flush)
        self._rows.append(row)

    def _flush(self) -> None:
        rows, self._rows = self._rows, []
        self.write(packed(EVENTS, rows))
