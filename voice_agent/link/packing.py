"""What goes over the socket between a front-end and the engine, as bytes.

Both ends are processes of one server and one version, on one machine and of one parent, so the
layout is native and unversioned. A message is

    uint32 length of the body | uint8 kind | body

    ORDERS   front-end -> engine, one for all streams of a flush interval:
             uint32 orders, uint32 bytes of audio
             orders   (stream uint32, size uint32, op uint32) each, in the order they were given
             audio    of the feeds, one after the other: int16 or float32, as the op says, each
                      from a multiple of four bytes on: recognisers copy aligned samples as they are
             choices  MessagePack: the options of each OPEN, the `End` of each FINISH_AT, CANCEL_AT
    KNOCK    front-end -> engine: audio is in the rings, and the engine's thread sleeps; empty
    EVENTS   engine -> front-end, one for all streams of a tick: MessagePack [Row, ...]
    TOKENS   engine -> front-end, of a step: uint32 streams, uint32 tokens, the arrays of `Taken`
    HELLO, STATS  engine -> front-end, MessagePack

`size` is the number of samples of a feed, and of an OPEN the number of its first segment.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Any

import msgspec
import numpy as np

from voice_agent.engine.errors import BadAudio, EngineClosed, EngineError, EngineFull
from voice_agent.engine.feeding import End
from voice_agent.engine.recognizer import Event, Failed, Final, Partial, StreamOptions, Word
from voice_agent.engine.taking import Taken

ORDERS, EVENTS, HELLO, STATS, KNOCK, TOKENS = range(6)

_HEAD = struct.Struct("=IB")
_COUNTS = struct.Struct("=II")
_ORDER = np.dtype([("stream", "u4"), ("size", "u4"), ("op", "u4")])
_pack_order = struct.Struct("=III").pack  # one of them
_encode = msgspec.msgpack.Encoder().encode

MAX_BODY = 1 << 28
"""Bytes of a message that cannot be one of ours."""


class Op(IntEnum):
    """What a front-end asks for."""

    OPEN = 0
    FEED_INT16 = 1
    FEED_FLOAT32 = 2
    FINISH = 3
    CANCEL = 4
    CLOSE = 5
    # Of a stream whose audio goes into its ring (`voice_agent.link.ways`):
    OPEN_RING = 6
    FINISH_AT = 7
    CANCEL_AT = 8
    OVERFLOW = 9  # the ring was full; to be counted


class Tag(IntEnum):
    """What an event is."""

    PARTIAL = 0
    FINAL = 1
    FAILED = 2
    OPENED = 3  # the stream has its slot
    REFUSED = 4  # it has none, and why


Order = tuple[int, int, int, Any]
"""Op, stream, size, and: of a feed int16 or float32 (n,), read-only; of an OPEN its options; of a
FINISH_AT or CANCEL_AT its `End`."""

Row = tuple[
    int, int, int, str, tuple[int, ...], tuple[Word, ...], float, float, str | None
]  # fmt: skip
"""Stream, segment, tag; text, tokens, words; two numbers, and a language or the kind of an error.

One shape for all, so that reading makes the words itself, at C's speed.
"""


_FEED_INT16 = Op.FEED_INT16.value
_PARTIAL, _FINAL = Tag.PARTIAL.value, Tag.FINAL.value
_rows = msgspec.msgpack.Decoder(list[Row]).decode


class Orders:
    """Orders of many streams that wait to be sent. Not thread-safe."""

    def __init__(self) -> None:
        """Begin with none."""
        self._orders: list[bytes] = []
        self._audio: list[bytes] = []
        self._choices: list[Any] = []

    def __len__(self) -> int:
        return len(self._orders)

    def add(self, op: Op, stream: int) -> None:
        """Add a FINISH, CANCEL or CLOSE."""
        self._orders.append(_pack_order(stream, 0, op))

    def feed(self, stream: int, data: bytes, *, floats: bool) -> None:
        """Add audio: native int16 or float32."""
        if floats:
            self._orders.append(_pack_order(stream, len(data) // 4, Op.FEED_FLOAT32))
        else:
            self._orders.append(_pack_order(stream, len(data) // 2, _FEED_INT16))
        self._audio.append(data if len(data) % 4 == 0 else data + b"\0\0")

    def end(self, op: Op, stream: int, end: End) -> None:
        """Add a FINISH_AT or CANCEL_AT."""
        self._orders.append(_pack_order(stream, 0, op))
        self._choices.append((end.samples, end.ordinal, end.time, end.due))

    def open(
        self, stream: int, options: StreamOptions, first_segment: int = 0, *, ring: bool = False
    ) -> None:
        """Add an OPEN, or with `ring` an OPEN_RING."""
        op = Op.OPEN_RING if ring else Op.OPEN
        self._orders.append(_pack_order(stream, first_segment, op))
        self._choices.append(
            (
                options.language,
                options.right_context,
                options.partials,
                options.final_pass,
                options.extra,
            )
        )

    def take(self) -> bytes:
        """The message that holds all of them; they are forgotten."""
        audio = b"".join(self._audio)
        head = _COUNTS.pack(len(self._orders), len(audio))
        table = b"".join(self._orders)
        message = framed(ORDERS, head, table, audio, _encode(self._choices))
        self._orders, self._audio, self._choices = [], [], []
        return message


def orders_of(body: memoryview) -> Iterator[Order]:
    """Read an ORDERS message's body."""
    count, audio_bytes = _COUNTS.unpack_from(body)
    table_end = _COUNTS.size + count * _ORDER.itemsize
    table = np.frombuffer(body[_COUNTS.size : table_end], _ORDER)
    audio = body[table_end : table_end + audio_bytes]
    choices = iter(msgspec.msgpack.decode(body[table_end + audio_bytes :]))
    at = 0
    for stream, size, op in table.tolist():
        if op == _FEED_INT16:
            yield op, stream, size, np.frombuffer(audio, "i2", size, at)
            at += 2 * (size + size % 2)
        elif op == Op.FEED_FLOAT32:
            yield op, stream, size, np.frombuffer(audio, "f4", size, at)
            at += 4 * size
        elif op in (Op.FINISH_AT, Op.CANCEL_AT):
            yield op, stream, size, End(*next(choices))
        elif op in (Op.OPEN, Op.OPEN_RING):
            yield op, stream, size, StreamOptions(*next(choices))
        else:
            yield op, stream, size, None


def row_of(stream: int, segment: int, event: Event) -> Row:
    """An event as a row of EVENTS."""
    match event:
        case Partial(text, tokens, words, audio_end_s, language):
            return stream, segment, _PARTIAL, text, tokens, words, audio_end_s, 0.0, language
        case Final(text, tokens, words, language, audio_s, decode_ms):
            return stream, segment, _FINAL, text, tokens, words, audio_s, decode_ms, language
        case Failed(error=error):
            return refused(stream, error, Tag.FAILED)


def opened(stream: int, slot: int = -1, right: int = 0) -> Row:
    """The answer to an OPEN: the stream has its slot.

    Args:
        stream: its number.
        slot: which one, and
        right: its right context, to be fed by its ring.
    """
    return stream, 0, Tag.OPENED.value, "", (), (), float(slot), float(right), None


def refused(stream: int, error: Exception, tag: Tag = Tag.REFUSED) -> Row:
    """The answer to an OPEN: it has none. Or, with `FAILED`, the end of a stream."""
    kinds = (EngineFull, EngineClosed, BadAudio, ValueError)
    kind = next((k.__name__ for k in kinds if isinstance(error, k)), None)
    slots, retry_s = 0.0, 0.0
    if isinstance(error, EngineFull):
        slots, retry_s = float(error.slots), error.retry_after_s
    return stream, 0, tag.value, str(error), (), (), slots, retry_s, kind


def event_of(row: Row) -> Event:
    """The event of a row."""
    _, _, tag, text, tokens, words, first, second, language = row
    if tag == _PARTIAL:
        return Partial(text, tokens, words, first, language)
    if tag == _FINAL:
        return Final(text, tokens, words, language, first, second)
    error = error_of(row)
    return Failed(error if isinstance(error, EngineError) else EngineError(str(error)))


def error_of(row: Row) -> Exception:
    """The error that `refused` made a row of."""
    text, slots, retry_s, kind = row[3], row[6], row[7], row[8]
    if kind == "EngineFull":
        return EngineFull(int(slots), retry_s)
    kinds: dict[str | None, type[Exception]] = {
        "EngineClosed": EngineClosed,
        "BadAudio": BadAudio,
        "ValueError": ValueError,
    }
    return kinds.get(kind, EngineError)(text)


def rows_of(body: memoryview) -> list[Row]:
    """Read an EVENTS message's body."""
    return _rows(body)


_BY_STREAM = (
    ("numbers", "i8"), ("segments", "i8"), ("counts", "i8"), ("audio_s", "f8"), ("ends_s", "f8"),
)  # fmt: skip
_BY_TOKEN = ("tokens", "i4"), ("frames", "i4"), ("probs", "f4")
_TAKEN = tuple(name for name, _ in (*_BY_STREAM, *_BY_TOKEN))


def tokens_message(taken: Taken) -> bytes:
    """What a step said, as a TOKENS message."""
    head = _COUNTS.pack(len(taken.numbers), len(taken.tokens))
    return framed(TOKENS, head, *(getattr(taken, name).tobytes() for name in _TAKEN))


def taken_of(body: memoryview) -> Taken:
    """Read a TOKENS message's body."""
    streams, tokens = _COUNTS.unpack_from(body)
    at = _COUNTS.size
    arrays: dict[str, np.ndarray] = {}
    for columns, count in ((_BY_STREAM, streams), (_BY_TOKEN, tokens)):
        for name, kind in columns:
            arrays[name] = np.frombuffer(body, kind, count, at)
            at += arrays[name].nbytes
    return Taken(**arrays)


def framed(kind: int, *parts: bytes) -> bytes:
    """A message of these parts."""
    return b"".join((_HEAD.pack(sum(map(len, parts)), kind), *parts))


def packed(kind: int, value: Any) -> bytes:
    """A message whose body is MessagePack."""
    return framed(kind, _encode(value))


def unpacked(body: memoryview) -> Any:
    """What `packed` made a message of."""
    return msgspec.msgpack.decode(body)


class Unframer:
    """Bytes as they come, cut into messages."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._held = bytearray()

    def push(self, data: bytes) -> Iterator[tuple[int, memoryview]]:
        """Add bytes.

        Yields:
            Kind and body of each message that is complete; the body is the caller's to keep.

        Raises:
            ValueError: a length that no message of ours has.
        """
        held = self._held
        held += data
        at = 0
        try:
            while len(held) - at >= _HEAD.size:
                size, kind = _HEAD.unpack_from(held, at)
                if size > MAX_BODY:
                    raise ValueError(f"a message of {size} bytes: the two ends do not agree")
                end = at + _HEAD.size + size
                if len(held) < end:
                    break
                body = bytes(memoryview(held)[at + _HEAD.size : end])
                at = end
                yield kind, memoryview(body)
        finally:
            del held[:at]
