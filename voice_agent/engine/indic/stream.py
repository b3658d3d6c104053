"""One caller of IndicConformer: requests on the caller's side, a segment on the worker's.

The public methods of `IndicStream` run on the caller's thread and only post requests. `Segment`
belongs to the worker's thread. Audio goes through a segment once, piece by piece: a piece is at
most 15 s long and ends at a pause, and once it is decoded whole its words are settled and its
audio dropped; only the piece that is still growing is decoded again and again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from voice_agent.engine.errors import EngineClosed, StreamClosed
from voice_agent.engine.indic.backend import SHORTEST
from voice_agent.engine.indic.segments import LONGEST_S, Schedule, StablePrefix, first_cut
from voice_agent.engine.recognizer import (
    SAMPLE_RATE,
    Deliver,
    Event,
    Final,
    OnEvent,
    Partial,
    Word,
    as_float32,
    text_of,
)

Kind = Literal["feed", "finish", "cancel", "close"]


@dataclass(slots=True)
class Request:
    """What a caller asked for; `segment` is the number of the segment that it meant."""

    kind: Kind
    stream: IndicStream
    segment: int
    time: float
    pcm: np.ndarray | None = None


@dataclass(slots=True)
class Piece:
    """Audio to decode: `settles` where its words will not change any more."""

    pcm: np.ndarray
    settles: bool


@dataclass(slots=True)
class Segment:
    """One segment on the worker's side.

    Attributes:
        number: which of the stream's segments.
        language: code of the vocabulary.
        partials: whether partials are wanted.
        schedule: when to decode the growing piece again.
        words: of the pieces that are settled.
        start: samples of the segment that are settled.
        fed: samples of the segment in all.
        finished_at: when the caller finished it, by the monotonic clock.
    """

    number: int
    language: str
    partials: bool
    schedule: Schedule
    words: list[Word] = field(default_factory=list)
    start: int = 0
    fed: int = 0
    finished_at: float | None = None
    _chunks: list[np.ndarray] = field(default_factory=list)
    _stable: StablePrefix = field(default_factory=StablePrefix)
    _due_s: float | None = None

    def add(self, pcm: np.ndarray) -> None:
        """Take audio."""
        self._chunks.append(pcm)
        self.fed += len(pcm)

    def _audio(self) -> np.ndarray:
        if len(self._chunks) != 1:
            joined = np.concatenate(self._chunks) if self._chunks else np.zeros(0, np.float32)
            self._chunks = [joined]
        return self._chunks[0]

    def piece(self) -> Piece | None:
        """What is to be decoded now; None where more audio is awaited, or nothing is left."""
        open_n = self.fed - self.start
        if open_n > LONGEST_S * SAMPLE_RATE:
            audio = self._audio()
            return Piece(audio[: first_cut(audio)], settles=True)
        if self.finished_at is not None:
            return Piece(self._audio(), settles=True) if open_n >= SHORTEST else None
        due_s = self.schedule.first_s if self._due_s is None else self._due_s
        if self.partials and open_n >= due_s * SAMPLE_RATE:
            return Piece(self._audio(), settles=False)
        return None

    def take(self, piece: Piece, words: list[Word], cost_s: float) -> Partial | None:
        """Take a decoded piece; return the partial that it gives, if any.

        Args:
            piece: what `piece()` gave.
            words: its words, with times from its own start.
            cost_s: seconds that decoding it took.
        """
        offset = self.start / SAMPLE_RATE
        words = [Word(w.word, w.start_s + offset, w.end_s + offset, w.confidence) for w in words]
        if piece.settles:
            self.words += words
            self.start += len(piece.pcm)
            self._chunks = [self._audio()[len(piece.pcm) :].copy()]
            self._stable, self._due_s = StablePrefix(), None
            if self.finished_at is not None or not self.partials or not words:
                return None
            return self._partial([])
        self._due_s = self.schedule.next_s(len(piece.pcm) / SAMPLE_RATE, cost_s)
        return self._partial(self._stable.shown) if self._stable.update(words) else None

    def _partial(self, growing: list[Word]) -> Partial:
        words = (*self.words, *growing)
        return Partial(
            text=text_of(words), words=words, audio_end_s=words[-1].end_s, language=self.language
        )

    def done(self) -> bool:
        """Whether the caller has finished it and nothing is left to decode."""
        return self.finished_at is not None and self.piece() is None

    def final(self, now: float) -> Final:
        """The segment's last word."""
        assert self.finished_at is not None
        return Final(
            text=text_of(self.words),
            words=tuple(self.words),
            language=self.language,
            audio_s=self.fed / SAMPLE_RATE,
            decode_ms=1000.0 * (now - self.finished_at),
        )


class IndicStream:
    """One caller. See `voice_agent.engine.recognizer.Stream`."""

    def __init__(
        self,
        post: Callable[[Request], None],
        on_event: OnEvent,
        deliver: Deliver,
        language: str,
        partials: bool,
        schedule: Schedule,
    ) -> None:
        self._post = post
        self._on_event = on_event
        self._deliver = deliver
        self._new = lambda number: Segment(number, language, partials, schedule)
        self._number = 0
        self._cancelled: set[int] = set()
        self._closed = False
        self.segments: dict[int, Segment] = {}  # worker's thread only, oldest first

    def _ask(self, kind: Kind, pcm: np.ndarray | None = None) -> None:
        if self._closed:
            raise StreamClosed(f"{kind} after close(): open a new stream")
        self._post(Request(kind, self, self._number, time.monotonic(), pcm))

    def feed(self, pcm: np.ndarray) -> None:
        """Append audio to the current segment; see `Stream.feed`."""
        samples = as_float32(pcm)
        if len(samples):
            self._ask("feed", samples)

    def finish(self) -> None:
        """End the current segment; see `Stream.finish`."""
        self._ask("finish")
        self._number += 1

    def cancel(self) -> None:
        """Drop the current segment, and what was not delivered yet; see `Stream.cancel`."""
        self._cancelled.add(self._number)
        self._ask("cancel")
        self._number += 1

    def close(self) -> None:
        """Give the slot back; see `Stream.close`."""
        if not self._closed:
            with contextlib.suppress(EngineClosed):  # the slot went with the recogniser
                self._ask("close")
            self._closed = True

    def apply(self, request: Request) -> None:
        """Carry out a request other than "close", on the worker's thread."""
        number = request.segment
        if request.kind == "cancel":
            self.segments.pop(number, None)
            return
        segment = self.segments.get(number)
        if segment is None:
            segment = self.segments[number] = self._new(number)
        if request.kind == "finish":
            segment.finished_at = request.time
        elif request.pcm is not None:
            segment.add(request.pcm)

    def emit(self, events: list[tuple[int, Event]]) -> None:
        """Hand over (segment, event) pairs in one call; what was cancelled meanwhile is dropped."""

        def dispatch() -> None:
            for number, event in events:
                if not self._closed and number not in self._cancelled:
                    self._on_event(event)

        self._deliver(dispatch)
