"""A recogniser that says what a script tells it, by the amount of audio that it is fed.

It keeps the protocol of `voice_agent.engine.recognizer` (order of events, one final for each
finish, events from a thread of its own), so that services can be tested for what they do with
events, without weights. A segment's script is a list of `(seconds, text)`: a partial with `text`
once that much of the segment's audio has come. Its last text is the final's.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

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

Script = Sequence[tuple[float, str]]


def words_of(text: str, seconds: float) -> tuple[Word, ...]:
    """The text's words, spread evenly over the audio."""
    words = text.split()
    each = seconds / len(words) if words else 0.0
    return tuple(Word(w, i * each, (i + 1) * each, 0.9) for i, w in enumerate(words))


@dataclass
class ScriptedStream:
    """One caller's stream; what it was given is kept for the test to look at."""

    owner: ScriptedRecognizer
    options: StreamOptions
    on_event: OnEvent
    deliver: Deliver
    segments: list[np.ndarray] = field(default_factory=list)  # audio of finished segments
    current: list[np.ndarray] = field(default_factory=list)
    finished: int = 0
    closed: bool = False
    _said: int = 0
    _cancelled: int = 0

    def feed(self, pcm: np.ndarray) -> None:
        self._check()
        self.current.append(as_float32(pcm))
        script = self.owner.script_of(self.finished)
        heard = self._seconds()
        while self._said < len(script) and script[self._said][0] <= heard:
            end_s, text = script[self._said]
            self._said += 1
            if self.options.partials:
                self._emit_partial(Partial(text, words=words_of(text, end_s), audio_end_s=end_s))

    def finish(self) -> None:
        self._check()
        script = self.owner.script_of(self.finished)
        seconds = self._seconds()
        # What was not heard is not said.
        heard = [text for at, text in script if at <= seconds]
        text = heard[-1] if heard else ""
        self.segments.append(
            np.concatenate(self.current) if self.current else np.empty(0, np.float32)
        )
        self.current, self._said = [], 0
        self.finished += 1
        language = self.owner.speaks or self.options.language
        final = Final(text, words=words_of(text, seconds), language=language, audio_s=seconds)
        self.emit(final)

    def cancel(self) -> None:
        self._check()
        self.current, self._said = [], 0
        self._cancelled += 1

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.owner.streams.remove(self)

    def fail(self, message: str = "the device fell off the bus") -> None:
        """Let the stream fail, as a dead engine would."""
        self.emit(Failed(EngineError(message)))

    def emit(self, event: Event) -> None:
        self.owner.post(lambda: None if self.closed else self._dispatch(event))

    def _emit_partial(self, partial: Partial) -> None:
        before = self._cancelled
        self.owner.post(
            lambda: None if self.closed or self._cancelled > before else self._dispatch(partial)
        )

    def _dispatch(self, event: Event) -> None:
        self.deliver(lambda: self.on_event(event))

    def _seconds(self) -> float:
        return sum(piece.size for piece in self.current) / SAMPLE_RATE

    def _check(self) -> None:
        if self.closed:
            raise StreamClosed("the stream was closed; open a new one")


class ScriptedRecognizer:
    """See the module docstring.

    Args:
        scripts: one script for each segment of a stream; the last one serves the rest.
        slots: streams at once.
        languages: codes that it claims to write.
        speaks: code that its finals carry; None for the one that the stream was opened with.
        gate: when given, events wait on the recogniser's thread until it is set, as those of a
            slow engine would.
    """

    streaming = True

    def __init__(
        self,
        *scripts: Script,
        slots: int = 8,
        name: str = "scripted",
        languages: Iterable[str] = ("en",),
        speaks: str | None = None,
        gate: threading.Event | None = None,
    ) -> None:
        self.name = name
        self.languages = tuple(languages)
        self.slots = slots
        self.speaks = speaks
        self.gate = gate
        self.streams: list[ScriptedStream] = []
        self.opened: list[ScriptedStream] = []
        self._scripts = scripts or ([],)
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        self._closed = False

    def open(
        self,
        on_event: OnEvent,
        *,
        deliver: Deliver = deliver_here,
        options: StreamOptions | None = None,
    ) -> ScriptedStream:
        if self._closed:
            raise EngineClosed(f"{self.name} is closed")
        if len(self.streams) >= self.slots:
            raise EngineFull(self.slots)
        stream = ScriptedStream(self, options or StreamOptions(), on_event, deliver)
        self.streams.append(stream)
        self.opened.append(stream)
        return stream

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            for stream in self.streams:
                stream.emit(Failed(EngineClosed(f"{self.name} was closed")))
            self._work.put(None)

    def script_of(self, segment: int) -> Script:
        return self._scripts[min(segment, len(self._scripts) - 1)]

    def post(self, work: Callable[[], None]) -> None:
        """Do this on the recogniser's thread, after what was posted before."""
        self._work.put(work)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            if self.gate is not None:
                self.gate.wait()
            work()
