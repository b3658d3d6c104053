"""The engine's side: a recogniser on a Unix socket, for the front-ends of one server.

    listen(path)    front-ends connect, any number of times
    orders          applied as they come, on the event loop; none of them blocks
    audio           is among them, unless the recogniser has rings, which front-ends write to
                    themselves (`voice_agent.engine.outside`); then a chunk costs nothing here
    events          `deliver` brings a tick's events to the loop, which sends one message to each
                    front-end; those of all ticks since the loop last ran go together
    tokens          of streams with a ring, in place of their partials: flat arrays, a front-end's
                    in one piece
    the end         of a connection, whoever ended it: its slots are free when its front-end cannot
                    write into them any more (`voice_agent.link.parting`)

Everything but the recogniser itself runs on one event loop, so what `Stream.cancel` drops is
dropped exactly: an event is numbered with its segment on the thread that cancels.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections import deque
from dataclasses import asdict, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from loguru import logger

from voice_agent.engine.errors import EngineError
from voice_agent.engine.feeding import End
from voice_agent.engine.outside import Outside
from voice_agent.engine.recognizer import Event, Failed, Final, Recognizer, StreamOptions
from voice_agent.engine.taking import Taken
from voice_agent.link.packing import (
    EVENTS,
    HELLO,
    KNOCK,
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
    tokens_message,
)
from voice_agent.link.parting import kept, parted

STATS_EVERY_S = 0.5
UNREAD_BYTES = 64 << 20
"""A front-end that leaves more than that unread is stuck."""


class EngineHost:
    """See the module docstring."""

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        unread_bytes: int = UNREAD_BYTES,
    ) -> None:
        """Serve a recogniser; `close` does not close it.

        Args:
            recognizer: loaded.
            unread_bytes: that a front-end may leave unread before it is cut off.
        """
        self.recognizer = recognizer
        self.unread_bytes = unread_bytes
        self.outside: Outside | None = getattr(recognizer, "outside", None)
        self._connections: set[_Connection] = set()
        self._partings: set[asyncio.Task[None]] = set()
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
                "final_pass": getattr(r, "final_pass", "stream"),
                "outside": None if self.outside is None else _described(self.outside),
            },
        )

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(STATS_EVERY_S)
            message = packed(STATS, numbers_of(self.recognizer))
            for connection in self._connections:
                connection.write(message)

    def part(self, connection: _Connection, sock: socket.socket) -> None:
        """A connection is lost; its streams are closed once nobody can feed them any more.

        Args:
            connection: which one.
            sock: its own, kept open.
        """
        self._connections.discard(connection)
        parting = asyncio.create_task(parted(sock))
        self._partings.add(parting)

        def over(parting: asyncio.Task[None]) -> None:
            self._partings.discard(parting)
            sock.close()
            if not parting.cancelled():
                parting.result()
                connection.close_streams()

        parting.add_done_callback(over)

    async def close(self) -> None:
        """Hang up on every front-end. Idempotent."""
        if self._telling is not None:
            self._telling.cancel()
        for connection in list(self._connections):
            connection.hang_up()
        if self._server is not None:
            self._server.close()


def _described(outside: Outside) -> dict[str, Any]:
    return {
        "rings": outside.rings.described(),
        "surfaces": outside.tokenizer.surfaces,
        "tags": outside.tokenizer.tags,
        "frame_s": outside.frame_s,
        "language": outside.language,
    }


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
        self.stream: Any = None  # a `Stream`; an `EngineStream`, watched, where it has a ring
        self.failed = False

    def on_event(self, event: Event) -> None:
        segment = self._finishing[0] if self._finishing else self._segment
        if isinstance(event, Final):
            self._finishing.popleft()
        elif isinstance(event, Failed):
            self.failed = True
            segment = 0
        self._connection.tell(row_of(self._number, segment, event))

    def finish(self, end: End | None) -> None:
        """End the segment, where its feeder says if it goes into the ring."""
        assert self.stream is not None
        self._finishing.append(self._segment)
        self._segment += 1
        if end is None:
            self.stream.finish()
        else:
            self.stream.end("finish", end)

    def cancel(self, end: End | None) -> None:
        """Drop the segment; the same."""
        assert self.stream is not None
        if end is None:
            self.stream.cancel()
        else:
            self.stream.end("cancel", end)
        self._segment += 1


class _Connection(asyncio.Protocol):
    """One front-end. Event loop only."""

    def __init__(self, host: EngineHost) -> None:
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._unframer = Unframer()
        self._streams: dict[int, _Hosted] = {}
        self._rows: list[Row] = []
        self._ready: list[bytes] = []  # messages, before `_rows`
        self._transport: asyncio.Transport | None = None
        # One object, so that the recogniser hands all streams' events over in one call.
        self._deliver = self._loop.call_soon_threadsafe

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._host._connections.add(self)
        if self._host.outside is not None:
            self._taker = self._host.outside.takers.add(self._deliver, self._take)
        self.write(self._host.hello())

    def connection_lost(self, exc: Exception | None) -> None:
        assert self._transport is not None
        sock = kept(self._transport)
        self._transport = None
        if self._host.outside is not None:
            self._host.outside.takers.remove(self._taker)
        self._host.part(self, sock)

    def close_streams(self) -> None:
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
        if self._transport.get_write_buffer_size() > self._host.unread_bytes:
            logger.error("a front-end reads nothing any more; its connection is cut")
            self.hang_up()

    # In

    def data_received(self, data: bytes) -> None:
        try:
            for kind, body in self._unframer.push(data):
                if kind == ORDERS:
                    for order in orders_of(body):
                        self._apply(order)
                elif kind == KNOCK and self._host.outside is not None:
                    self._host.outside.wake()
        except Exception:
            logger.exception("a front-end's message could not be read; its connection is cut")
            self.hang_up()

    def _apply(self, order: Order) -> None:
        op, number, size, what = order
        if op in (Op.OPEN, Op.OPEN_RING):
            self._open(number, size, what, ring=op == Op.OPEN_RING)
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
            if op in (Op.FEED_INT16, Op.FEED_FLOAT32):
                hosted.stream.feed(what)
            elif op in (Op.FINISH, Op.FINISH_AT):
                hosted.finish(what)
            elif op in (Op.CANCEL, Op.CANCEL_AT):
                hosted.cancel(what)
            else:
                assert op == Op.OVERFLOW
                hosted.stream.overflowed()
        except EngineError as error:
            hosted.on_event(Failed(error))

    def _open(self, number: int, first_segment: int, options: StreamOptions, *, ring: bool) -> None:
        hosted = _Hosted(self, number, first_segment)
        try:
            hosted.stream = self._host.recognizer.open(
                hosted.on_event, deliver=self._deliver, options=options
            )
        except (EngineError, ValueError) as error:
            self.tell(refused(number, error))
        else:
            self._streams[number] = hosted
            if ring:
                hosted.stream.give(self._taker, number, first_segment)
                self.tell(opened(number, hosted.stream.slot, hosted.stream.right))
            else:
                self.tell(opened(number))

    # Out

    def tell(self, row: Row) -> None:
        """Send a row, together with what comes until the loop runs again."""
        self._flush_soon()
        self._rows.append(row)

    def _take(self, taken: Taken) -> None:
        """Send what a step said; the same."""
        self._flush_soon()
        if self._rows:  # in order
            rows, self._rows = self._rows, []
            self._ready.append(packed(EVENTS, rows))
        self._ready.append(tokens_message(taken))

    def _flush_soon(self) -> None:
        if not self._rows and not self._ready:
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        messages, self._ready = self._ready, []
        if self._rows:
            rows, self._rows = self._rows, []
            messages.append(packed(EVENTS, rows))
        self.write(b"".join(messages))
