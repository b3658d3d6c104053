"""One caller under the language gate: the `Stream` that chooses who writes each segment.

    feed    the shared line (the caller's stream of the default recogniser) hears it at once, and
            it is kept; `gate_hearing` asks the identifier about it
    decide  on the ear's thread: the default language changes nothing; another one gets a line of
            its own, which the kept audio is replayed into, and the shared line forgets the segment
    finish  whoever writes the segment ends it; its final waits for the final decision

Events of the segments leave in the segments' order, on the thread that `deliver` runs callbacks
on. The lock is held for what takes microseconds: never for the identifier, never for a callback.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from voice_agent.engine.errors import BadAudio, EngineError, StreamClosed
from voice_agent.engine.gate_ear import Ear
from voice_agent.engine.gate_events import GateTrouble, LanguageDecided, OnGateEvent
from voice_agent.engine.gate_hearing import Hearing
from voice_agent.engine.gate_outbox import Outbox
from voice_agent.engine.gate_policy import CallerPrior, Decision, GateSettings, SegmentPolicy
from voice_agent.engine.gate_segment import Line, Segment
from voice_agent.engine.recognizer import (
    SAMPLE_RATE,
    Deliver,
    Event,
    Failed,
    Final,
    OnEvent,
    Partial,
    Recognizer,
    StreamOptions,
)

log = logging.getLogger(__name__)


class GatedStream:
    """See the module docstring, and `voice_agent.engine.recognizer.Stream`."""

    def __init__(
        self,
        recognizers: Mapping[str, Recognizer],
        settings: GateSettings,
        ear: Ear,
        on_event: OnEvent,
        *,
        deliver: Deliver,
        options: StreamOptions,
        observe: OnGateEvent,
    ) -> None:
        """Open the default recogniser's stream.

        Args:
            recognizers: by language.
            settings: of the gate; its default language's recogniser hears everything.
            ear: asks the identifier.
            on_event: gets every event.
            deliver: runs callbacks where the caller wants them.
            options: the caller's; its `right_context` and `extra` are the default recogniser's.
            observe: gets the gate's own events, too, just before `on_event`.

        Raises:
            EngineFull, EngineClosed, ValueError: as `Recognizer.open`.
        """
        self._recognizers, self._settings = recognizers, settings
        self._deliver, self._options = deliver, options
        self._prior = CallerPrior(settings)
        self._lock = threading.Lock()
        self._outbox = Outbox(self._lock, on_event, deliver, observe)
        self._hearing = Hearing(
            ear,
            self._lock,
            self._outbox,
            settings.patience_s,
            decide=self._apply,
            settle=self._settle,
        )
        self._current: Segment | None = None  # the one that is being fed
        self._owed: deque[tuple[Segment, Line]] = deque()  # finals that the shared stream owes
        self._closed = False
        self._shared = recognizers[settings.default].open(
            self._on_shared, deliver=deliver, options=replace(options, language=settings.default)
        )

    # -- the caller's side -----------------------------------------------------------------------

    def feed(self, pcm: np.ndarray) -> None:
        """Append audio to the current segment; see `Stream.feed`."""
        with self._lock:
            segment = self._open_segment("feed")
            self._on_line(segment, lambda line: line.stream.feed(pcm))
            segment.keep(pcm)
            self._hearing.grown(segment)

    def finish(self) -> None:
        """End the current segment; see `Stream.finish`."""
        with self._lock:
            segment = self._open_segment("finish")
            self._on_line(segment, partial(self._finish_line, segment))
            segment.finished_at = time.monotonic()
            self._current = None
            self._hearing.ended(segment)

    def cancel(self) -> None:
        """Drop the current segment; see `Stream.cancel`."""
        with self._lock:
            segment = self._open_segment("cancel")
            segment.drop()
            self._outbox.segments.remove(segment)
            self._current = None

    def close(self) -> None:
        """Give the slots back; see `Stream.close`."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._drop_all()
                self._shared.close()

    def _open_segment(self, what: str) -> Segment:
        """The segment that is being fed; a new one where the last one was ended."""
        if self._closed:
            raise StreamClosed(f"{what} after close(): open a new stream")
        if self._current is None:
            policy = SegmentPolicy(self._settings, self._prior)
            self._current = Segment(policy, self._shared_line())
            self._outbox.segments.append(self._current)
        return self._current

    def _shared_line(self) -> Line:
        language = self._settings.default
        return Line(language, self._recognizers[language].name, self._shared, shared=True)

    def _on_line(self, segment: Segment, do: Callable[[Line], None]) -> None:
        """Do something with the segment's line, and where it is broken with the next."""
        try:
            do(segment.line)
        except BadAudio:
            raise
        except EngineError as error:
            if segment.line.shared:
                raise
            self._fall_back(segment, error)
            self._hearing.publish_soon()
            do(segment.line)

    def _finish_line(self, segment: Segment, line: Line) -> None:
        line.finish()
        if line.shared:
            self._owed.append((segment, line))

    # -- decisions; under the lock ---------------------------------------------------------------

    def _settle(self, segment: Segment, decision: Decision) -> None:
        """Carry out the final decision, and let the final go if it is there."""
        self._apply(segment, decision)
        self._put_final(segment)

    def _apply(self, segment: Segment, decision: Decision) -> None:
        if decision.language != segment.line.language:
            self._divert(segment, decision.language)
        if decision.reason != "default":
            segment.decided = decision.language
            segment.out.append(LanguageDecided.of(decision, segment.line.recognizer))
        if segment.held is not None and segment.decided == segment.line.language:
            self._put_partial(segment, segment.held)
        segment.held = None

    def _divert(self, segment: Segment, language: str) -> None:
        """Hand the segment to another recogniser; it stays where it is if that one cannot."""
        before = segment.line
        try:
            line = self._replay(segment, language)
        except (EngineError, ValueError) as error:
            name = self._recognizers[language].name
            self._tell_trouble(
                segment, f"{name} cannot take over ({error}); {before.recognizer} goes on"
            )
            return
        if before.shared and before.finished:
            segment.first, segment.first_final = before, segment.final
        before.leave()
        segment.hand_to(line)

    def _replay(self, segment: Segment, language: str) -> Line:
        """A line that has heard all of the segment.

        Raises:
            EngineFull, EngineClosed, ValueError: as `Recognizer.open`.
        """
        if language == self._settings.default and segment is self._current:
            line = self._shared_line()  # which forgot the segment when it was handed on
        else:
            options = StreamOptions(language=language, partials=self._options.partials)
            if language == self._settings.default:
                options = replace(self._options, language=language)
            recognizer = self._recognizers[language]
            stream = recognizer.open(
                partial(self._on_own, segment, segment.turn + 1),
                deliver=self._deliver,
                options=options,
            )
            line = Line(language, recognizer.name, stream, shared=False)
        try:
            for piece in segment.pieces:
                line.stream.feed(piece)
            if segment.finished_at is not None:
                line.finish()
        except EngineError:
            line.leave()
            raise
        return line

    def _fall_back(self, segment: Segment, error: EngineError) -> None:
        """Give a segment whose own line broke to the default recogniser."""
        broken = segment.line
        broken.leave()
        default = self._settings.default
        self._tell_trouble(segment, f"{broken.recognizer} failed ({error})")
        if segment.first is not None:
            segment.hand_to(segment.first, segment.first_final)
        else:
            try:
                if broken.language == default:
                    raise error
                segment.hand_to(self._replay(segment, default))
            except EngineError as problem:
                self._tell_trouble(segment, f"nobody can write the segment ({problem})")
                if segment is self._current:
                    segment.hand_to(self._shared_line())  # whose `Failed` is on its way
                else:  # still one final for each finish
                    seconds = segment.samples / SAMPLE_RATE
                    segment.final = Final("", language=default, audio_s=seconds)
        self._put_final(segment)

    # -- events in -------------------------------------------------------------------------------

    def _on_shared(self, event: Event) -> None:
        """Take an event of the default recogniser's stream, where `deliver` runs it."""
        with self._lock:
            if self._closed:
                return
            match event:
                case Failed():
                    self._drop_all()
                    self._outbox.failed = event
                case Final() if self._owed:
                    segment, line = self._owed.popleft()
                    if line is segment.first:
                        segment.first_final = event
                    self._hear(segment, line, event)
                case Partial() if self._owed:
                    self._hear(*self._owed[0], event)
                case Partial() if self._current is not None and self._current.line.shared:
                    self._hear(self._current, self._current.line, event)
        self._outbox.drain()

    def _on_own(self, segment: Segment, turn: int, event: Event) -> None:
        """Take an event of a segment's own stream, where `deliver` runs it."""
        with self._lock:
            if turn == segment.turn and not segment.dropped:
                if isinstance(event, Failed):
                    self._fall_back(segment, event.error)
                else:
                    self._hear(segment, segment.line, event)
        self._outbox.drain()

    def _hear(self, segment: Segment, line: Line, event: Partial | Final) -> None:
        if segment.dropped or line is not segment.line:
            return
        if isinstance(event, Final):
            segment.final = event
            if not line.shared:
                line.stream.close()
            self._put_final(segment)
        elif segment.decided is None and self._settings.partials == "hold":
            segment.held = event
        else:
            self._put_partial(segment, event)

    # -- events out ------------------------------------------------------------------------------

    def _put_partial(self, segment: Segment, event: Partial) -> None:
        """Let a partial go; it names its language where that is the decided one."""
        language = segment.line.language
        known = language if segment.decided == language else None
        segment.out.append(replace(event, language=known))

    def _put_final(self, segment: Segment) -> None:
        """Let the segment's final go, once it is there and decided upon."""
        if segment.final is None or segment.finished_at is None or segment.done:
            return
        if not segment.settled:
            self._hearing.wait(segment)
            return
        if segment.patience is not None:
            segment.patience.cancel()
        waited_ms = 1000.0 * (time.monotonic() - segment.finished_at)
        segment.out.append(
            replace(segment.final, language=segment.line.language, decode_ms=waited_ms)
        )
        segment.done = True

    def _tell_trouble(self, segment: Segment, problem: str) -> None:
        log.warning("language gate: %s", problem)
        segment.out.append(GateTrouble(problem))

    def _drop_all(self) -> None:
        for segment in self._outbox.segments:
            segment.drop()
        self._outbox.segments.clear()
        self._current = None
