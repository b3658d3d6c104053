"""The thread that decodes for every caller of IndicConformer.

A round: take the requests; ask each stream's oldest segment for a piece to decode; pick a batch,
pieces that somebody waits for first; decode it in one go; hand each stream its events.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass

from voice_agent.engine.errors import EngineClosed, EngineError, EngineFull
from voice_agent.engine.indic.backend import Backend
from voice_agent.engine.indic.decode import words_of
from voice_agent.engine.indic.segments import Schedule
from voice_agent.engine.indic.stream import IndicStream, Piece, Request, Segment
from voice_agent.engine.recognizer import SAMPLE_RATE, Deliver, Event, Failed, OnEvent

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Work:
    """A piece, whose it is, and since when somebody waits for it (None: a partial's)."""

    stream: IndicStream
    segment: Segment
    piece: Piece
    since: float | None


@dataclass(slots=True)
class IndicStats:
    """Counters of the worker: rounds, pieces, seconds decoded, seconds that it took."""

    rounds: int = 0
    pieces: int = 0
    audio_s: float = 0.0
    busy_s: float = 0.0
    largest_batch: int = 0


def pick(work: list[Work], batch: int, batch_s: float) -> list[Work]:
    """Choose what is decoded together.

    Segments that were finished come first, oldest first, then partials, shortest first; a batch
    holds at most `batch` pieces and `batch_s` seconds of padded audio, but always one.
    """
    order = sorted(work, key=lambda w: (w.since is None, w.since or 0.0, len(w.piece.pcm)))
    chosen: list[Work] = []
    longest = 0
    for item in order:
        longest_then = max(longest, len(item.piece.pcm))
        padded_s = longest_then * (len(chosen) + 1) / SAMPLE_RATE
        if chosen and (len(chosen) == batch or padded_s > batch_s):
            continue
        chosen.append(item)
        longest = longest_then
    return chosen


class Worker:
    """Owns the backend; one thread."""

    def __init__(
        self, backend: Backend, *, slots: int, batch: int, batch_s: float, name: str
    ) -> None:
        self.backend, self.slots, self.batch, self.batch_s = backend, slots, batch, batch_s
        self.stats = IndicStats()
        self._requests: deque[Request] = deque()
        self._wake = threading.Condition()
        self._streams: set[IndicStream] = set()
        self._stopping = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def open(
        self,
        on_event: OnEvent,
        deliver: Deliver,
        language: str,
        partials: bool,
        schedule: Schedule,
    ) -> IndicStream:
        """Claim a slot.

        Raises:
            EngineFull: every slot is taken.
            EngineClosed: stopped, or its thread has died.
        """
        stream = IndicStream(self._post, on_event, deliver, language, partials, schedule)
        with self._wake:
            self._check()
            if len(self._streams) >= self.slots:
                raise EngineFull(self.slots)
            self._streams.add(stream)
        return stream

    def _check(self) -> None:
        if self._error is not None:
            raise EngineClosed(f"the recogniser's thread died: {self._error}") from self._error
        if self._stopping:
            raise EngineClosed("the recogniser is closed")

    def _post(self, request: Request) -> None:
        with self._wake:
            self._check()
            if request.kind == "close":
                self._streams.discard(request.stream)
            self._requests.append(request)
            self._wake.notify()

    def stop(self) -> None:
        """Stop the thread; open streams get `Failed`. Idempotent."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        error: EngineError = EngineClosed("the recogniser was closed")
        try:
            while self._round():
                pass
        except BaseException as reason:
            log.exception("IndicConformer's thread died")
            error = EngineClosed(f"the recogniser's thread died: {reason}")
            error.__cause__ = reason
            self._error = reason
        with self._wake:
            self._stopping = True
            left, self._streams = self._streams, set()
        for stream in left:
            self._tell(stream, [(-1, Failed(error))])

    def _work(self, streams: list[IndicStream]) -> list[Work]:
        found = []
        for stream in streams:
            # Only the oldest segment: the finals of a stream come in order.
            segment = next(iter(stream.segments.values()), None)
            if segment is not None and (piece := segment.piece()) is not None:
                found.append(Work(stream, segment, piece, segment.finished_at))
        return found

    def _round(self) -> bool:
        """One round; False when it is time to stop."""
        with self._wake:
            streams = list(self._streams)
            idle = not any(s.segments and self._busy(s) for s in streams)
            while idle and not self._requests and not self._stopping:
                self._wake.wait()
            if self._stopping:
                return False
            requests, self._requests = self._requests, deque()
            streams = list(self._streams)
        for request in requests:
            if request.kind == "close":
                request.stream.segments.clear()
            else:
                request.stream.apply(request)
        events: dict[IndicStream, list[tuple[int, Event]]] = {s: [] for s in streams}
        chosen = pick(self._work(streams), self.batch, self.batch_s)
        if chosen:
            self._decode(chosen, events)
        for stream in streams:
            for segment in list(stream.segments.values()):
                if not segment.done():
                    break
                del stream.segments[segment.number]
                events[stream].append((segment.number, segment.final(time.monotonic())))
        for stream, ready in events.items():
            if ready:
                self._tell(stream, ready)
        return True

    def _busy(self, stream: IndicStream) -> bool:
        """Whether the stream's oldest segment can go on without a new request."""
        segment = next(iter(stream.segments.values()))
        return segment.done() or segment.piece() is not None

    def _decode(
        self, chosen: list[Work], events: dict[IndicStream, list[tuple[int, Event]]]
    ) -> None:
        began = time.monotonic()
        heard = self.backend.tokens(
            [w.piece.pcm for w in chosen], [w.segment.language for w in chosen]
        )
        cost_s = time.monotonic() - began
        stats = self.stats
        stats.rounds += 1
        stats.pieces += len(chosen)
        stats.audio_s += sum(len(w.piece.pcm) for w in chosen) / SAMPLE_RATE
        stats.busy_s += cost_s
        stats.largest_batch = max(stats.largest_batch, len(chosen))
        for work, tokens in zip(chosen, heard, strict=True):
            pieces = self.backend.pieces[work.segment.language]
            words = words_of(tokens, pieces, self.backend.frame_s)
            partial = work.segment.take(work.piece, words, cost_s)
            if partial is not None:
                events[work.stream].append((work.segment.number, partial))

    def _tell(self, stream: IndicStream, events: list[tuple[int, Event]]) -> None:
        try:
            stream.emit(events)
        except Exception:  # a caller's loop that is gone must not stop the others
            log.exception("a caller's events could not be delivered")
