"""A recogniser around any speech-to-text library: the threads, streams and events; not the model.

A system gives a `Session` for each segment; everything else is here:

    caller's thread                       worker thread
    feed() ── inbox of its stream ──►     session.feed(pcm)      heard(Decoded) -> Partial
    finish() ─────────┘                   session.finish(rest)                  -> Final
    cancel() ─────────┘                   session.cancel()

A stream is served by one worker at a time and in order. Streams that owe a final go first. One
worker suits a model in this process, which computes for one stream at a time; a client of a
server takes one worker for each stream, since it mostly waits.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from voice_agent.alternatives.errors import SystemFailed
from voice_agent.engine.errors import EngineClosed, EngineError, EngineFull, StreamClosed
from voice_agent.engine.recognizer import (
    SAMPLE_RATE,
    Deliver,
    Event,
    Failed,
    Final,
    OnEvent,
    Partial,
    StreamOptions,
    Word,
    as_float32,
    deliver_here,
)

NOTHING = np.empty(0, np.float32)

CLOSE_S = 10.0
"""Seconds that closing waits for each worker; they are daemons, so a stuck one ends nothing."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a system heard in a segment so far.

    Attributes:
        text: the whole segment so far.
        words: with times from the segment's start, where the system gives them.
        language: BCP-47 code, where the system tells it.
        audio_end_s: seconds of the segment that the text accounts for; None for all that was fed.
    """

    text: str
    words: tuple[Word, ...] = ()
    language: str | None = None
    audio_end_s: float | None = None


Heard = Callable[[Decoded], None]


class Session(Protocol):
    """One segment of one caller inside a system. Called from one thread at a time; may block."""

    def feed(self, pcm: np.ndarray) -> None:
        """Take more audio: float32, shape (n,), 16 kHz mono, n > 0."""
        ...

    def finish(self, rest: np.ndarray) -> Decoded:
        """Take the last audio, maybe none, and return the whole segment."""
        ...

    def cancel(self) -> None:
        """Forget the segment; nothing is called afterwards."""
        ...


OpenSession = Callable[[StreamOptions, Heard], Session]
"""Begin a segment. `Heard` takes each new hypothesis, from any thread, until `finish` returns."""


@dataclass(slots=True)
class _Request:
    kind: Literal["feed", "finish", "cancel", "close"]
    segment: int
    time: float
    pcm: np.ndarray = field(default_factory=lambda: NOTHING)


class WorkerStream:
    """One caller. See `voice_agent.engine.recognizer.Stream`."""

    def __init__(
        self, owner: WorkerRecognizer, on_event: OnEvent, deliver: Deliver, options: StreamOptions
    ) -> None:
        self._owner, self._on_event, self._deliver = owner, on_event, deliver
        self.options = options
        self.inbox: deque[_Request] = deque()  # guarded by the owner's lock
        self.busy = False  # guarded by the owner's lock
        self.dead = False  # guarded by the owner's lock: it has had its Failed
        self.session: Session | None = None  # of the worker that is busy with this stream
        self.fed = 0  # samples of the current segment; the same worker's
        self.number = 0
        self._cancelled: set[int] = set()
        self.closed = False

    def _ask(self, kind: Literal["feed", "finish", "cancel"], pcm: np.ndarray = NOTHING) -> None:
        if self.closed:
            raise StreamClosed(f"{kind} after close(): open a new stream")
        self._owner.post(self, _Request(kind, self.number, time.monotonic(), pcm))

    def feed(self, pcm: np.ndarray) -> None:
        """Append audio to the current segment; see `Stream.feed`."""
        samples = as_float32(pcm)
        if samples.size:
            self._ask("feed", samples)

    def finish(self) -> None:
        """End the current segment; see `Stream.finish`."""
        self._ask("finish")
        self.number += 1

    def cancel(self) -> None:
        """Drop the current segment; see `Stream.cancel`."""
        self._cancelled.add(self.number)
        self._ask("cancel")
        self.number += 1

    def close(self) -> None:
        """Give the slot back; see `Stream.close`."""
        if not self.closed:
            self.closed = True
            self._owner.post(self, _Request("close", self.number, time.monotonic()))

    def emit(self, segment: int, event: Event) -> None:
        """Hand an event to the caller, who may have lost interest by then."""

        def dispatch() -> None:
            if not self.closed and segment not in self._cancelled:
                self._on_event(event)

        self._deliver(dispatch)


class WorkerRecognizer:
    """A `Recognizer` over sessions. See the module docstring.

    Attributes:
        name: the system's, with its model where that says more.
        languages: BCP-47 codes that it can write; empty where unknown.
        streaming: whether partials come while audio arrives, rather than by re-decoding.
        right_contexts: look-aheads that a stream may choose; empty where there is no choice.
    """

    def __init__(
        self,
        name: str,
        open_session: OpenSession,
        *,
        languages: tuple[str, ...] = (),
        streaming: bool,
        slots: int = 8,
        workers: int = 1,
        right_contexts: tuple[int, ...] = (),
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the workers.

        Args:
            name: for logs and errors.
            open_session: begins a segment, on a worker's thread.
            languages: what it writes.
            streaming: see the class.
            slots: streams at most.
            workers: streams served at one time.
            right_contexts: look-aheads that a stream may choose, in encoder frames.
            on_close: frees the model or connection, after the workers have stopped.
        """
        self.name, self.languages, self.streaming, self.slots = name, languages, streaming, slots
        self.right_contexts = right_contexts
        self._open_session, self._on_close = open_session, on_close
        self._wake = threading.Condition()
        self._streams: list[WorkerStream] = []
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{i}", daemon=True)
            for i in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def open(
        self,
        on_event: OnEvent,
        *,
        deliver: Deliver = deliver_here,
        options: StreamOptions | None = None,
    ) -> WorkerStream:
        """Claim a slot; see `Recognizer.open`."""
        options = options or StreamOptions()
        if options.right_context is not None and options.right_context not in self.right_contexts:
            offered = ", ".join(map(str, self.right_contexts)) or "none to choose"
            raise ValueError(
                f"{self.name}: right_context {options.right_context} is not one of its own "
                f"({offered})"
            )
        if options.extra:
            raise ValueError(f"{self.name} does not know the option {min(options.extra)!r}")
        primary = (options.language or "").split("-")[0].lower()
        if primary and self.languages and primary not in self.languages:
            raise ValueError(
                f"{self.name} writes {', '.join(self.languages)}, not {options.language!r}"
            )
        with self._wake:
            if self._closed:
                raise EngineClosed(f"{self.name} is closed")
            # A closed stream holds no slot, though a worker may still be busy with its audio.
            if sum(not stream.closed for stream in self._streams) >= self.slots:
                raise EngineFull(self.slots)
            stream = WorkerStream(self, on_event, deliver, options)
            self._streams.append(stream)
        return stream

    def close(self) -> None:
        """Stop the workers and free the model; see `Recognizer.close`.

        Waits for what is being decoded, but not for a server that has stopped answering.
        """
        with self._wake:
            if self._closed:
                return
            self._closed = True
            streams, self._streams = self._streams, []
            self._wake.notify_all()
        for thread in self._threads:
            thread.join(CLOSE_S)
        for stream in streams:
            if stream.session is not None:
                stream.session.cancel()
            if not stream.dead:
                stream.emit(stream.number, Failed(EngineClosed(f"{self.name} was closed")))
        self._on_close()

    def post(self, stream: WorkerStream, request: _Request) -> None:
        """Put a stream's request where a worker finds it."""
        with self._wake:
            if stream in self._streams:  # else it went with the recogniser, which said so
                stream.inbox.append(request)
                self._wake.notify()

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            stream, request = taken
            try:
                self._serve(stream, request)
            except Exception as error:
                # One stream's trouble: its server, its audio. The others go on.
                self._fail(stream, request.segment, error)
            with self._wake:
                stream.busy = False
                self._wake.notify()

    def _take(self) -> tuple[WorkerStream, _Request] | None:
        """Wait for a stream with something to do; all audio that waits comes as one piece."""
        with self._wake:
            while True:
                if self._closed:
                    return None
                ready = [s for s in self._streams if s.inbox and not s.busy]
                if ready:
                    break
                self._wake.wait()
            owing = [s for s in ready if any(r.kind == "finish" for r in s.inbox)]
            # By how long the head of the inbox has waited, so that nobody starves.
            stream = min(owing or ready, key=lambda s: s.inbox[0].time)
            stream.busy = True
            request = stream.inbox.popleft()
            pieces = [request.pcm]
            while request.kind == "feed" and stream.inbox:
                request = stream.inbox.popleft()
                pieces.append(request.pcm)
            request.pcm = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
            return stream, request

    def _serve(self, stream: WorkerStream, request: _Request) -> None:
        if request.kind in ("cancel", "close"):
            session, stream.session, stream.fed = stream.session, None, 0
            if request.kind == "close":
                with self._wake:
                    if stream in self._streams:
                        self._streams.remove(stream)
            if session is not None:
                session.cancel()
            return
        if stream.dead:
            return
        stream.fed += request.pcm.size
        if request.kind == "feed":
            self._session(stream, request.segment).feed(request.pcm)
            return
        seconds = stream.fed / SAMPLE_RATE
        decoded = Decoded("")
        if stream.fed:
            decoded = self._session(stream, request.segment).finish(request.pcm)
        stream.session, stream.fed = None, 0
        final = Final(
            decoded.text,
            words=decoded.words,
            language=decoded.language or stream.options.language,
            audio_s=seconds,
            decode_ms=(time.monotonic() - request.time) * 1000,
        )
        stream.emit(request.segment, final)

    def _session(self, stream: WorkerStream, segment: int) -> Session:
        if stream.session is None:

            def heard(decoded: Decoded) -> None:
                if not stream.options.partials:
                    return
                end_s = decoded.audio_end_s
                stream.emit(
                    segment,
                    Partial(
                        decoded.text,
                        words=decoded.words,
                        audio_end_s=stream.fed / SAMPLE_RATE if end_s is None else end_s,
                        language=decoded.language or stream.options.language,
                    ),
                )

            stream.session = self._open_session(stream.options, heard)
        return stream.session

    def _fail(self, stream: WorkerStream, segment: int, error: Exception) -> None:
        with self._wake:
            told, stream.dead = stream.dead, True
        stream.session = None
        if not told:
            if not isinstance(error, EngineError):
                cause, error = error, SystemFailed(self.name, error)
                error.__cause__ = cause
            stream.emit(segment, Failed(error))
