"""A recording through a recogniser: pieces in, a `Transcript` out.

Segments go through one stream, one after the other: the next is fed when the final of the last
is there, so that a fast reader does not pile up an hour of audio before a slow recogniser.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from voice_agent.engine.recognizer import (
    SAMPLE_RATE,
    Event,
    Failed,
    Final,
    FinalPass,
    Partial,
    Recognizer,
    StreamOptions,
    Word,
)
from voice_agent.transcribe.audio import AudioFile
from voice_agent.transcribe.errors import OptionNotServed
from voice_agent.transcribe.segments import Piece, silero, speech, whole


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of speech.

    Attributes:
        text: what was said.
        start_s: where its audio begins, in seconds from the recording's start.
        end_s: where its audio ends.
        tokens: token ids.
        words: with times from the recording's start.
        language: BCP-47 code, where the recogniser knows it.
    """

    text: str
    start_s: float
    end_s: float
    tokens: tuple[int, ...]
    words: tuple[Word, ...]
    language: str | None


@dataclass(frozen=True, slots=True)
class Transcript:
    """One recording.

    Attributes:
        file: its name, as it was given.
        text: all segments, joined by spaces.
        language: the one in which most was said; None where unknown or nothing was said.
        segments: in order, those without text left out.
    """

    file: str
    text: str
    language: str | None
    segments: tuple[Segment, ...]


OnPartial = Callable[[str], None]


def transcribe(
    audio: AudioFile,
    recognizer: Recognizer,
    *,
    language: str | None = None,
    right_context: int | None = None,
    final_pass: FinalPass | None = None,
    one_segment: bool = False,
    on_partial: OnPartial | None = None,
    on_segment: Callable[[Segment], None] | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Transcript:
    """Transcribe one recording. Blocks.

    Args:
        audio: an open file.
        recognizer: loaded.
        language: BCP-47 code of the speech; None where the recogniser decides.
        right_context: look-ahead in encoder frames; None for the widest that the recogniser has,
            as nobody waits for what a recording says next.
        final_pass: what finals come from; see `StreamOptions`.
        one_segment: the whole file as one segment, instead of the speech that the VAD finds.
        on_partial: gets the current segment's text as it grows.
        on_segment: gets each segment when it is final.
        on_progress: gets the seconds of the recording that are done, as they grow. Inside a
            segment they grow with its partials, so only where `on_partial` is given.

    Raises:
        AudioFileError: the file turns out to be damaged.
        EngineError: the recogniser failed.
        OptionNotServed: a language, right context or final pass that the recogniser does not have.
    """
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    if right_context is None:
        right_context = max(getattr(recognizer, "right_contexts", ()), default=None)
    options = StreamOptions(
        language=language,
        right_context=right_context,
        partials=on_partial is not None,
        final_pass=final_pass,
    )
    try:
        stream = recognizer.open(events.put, options=options)
    except ValueError as error:
        raise OptionNotServed(str(error)) from error
    hearing = _Hearing(events, on_partial, on_progress)
    cut = whole(audio.pieces()) if one_segment else speech(hearing.watch(audio), silero())
    segments: list[Segment] = []
    try:
        for piece in cut:
            if piece.pcm.size:
                stream.feed(piece.pcm)
                hearing.fed(piece)
            if not piece.last:
                hearing.catch_up()
                continue
            stream.finish()
            segment = _segment(hearing.final(), piece.start_s, hearing.segment_s)
            hearing.segment_is_over(segment.end_s)
            if segment.text:
                segments.append(segment)
                if on_segment is not None:
                    on_segment(segment)
    finally:
        stream.close()
        cut.close()  # else an error's traceback would keep the resampler alive to the very end
    return Transcript(
        file=audio.name,
        text=" ".join(s.text for s in segments),
        language=_main_language(segments),
        segments=tuple(segments),
    )


class _Hearing:
    """A stream's events, shown to the caller as they come, with how far they have got.

    Attributes:
        segment_s: seconds of audio fed for the current segment; 0 between segments.
    """

    def __init__(
        self,
        events: queue.SimpleQueue[Event],
        on_partial: OnPartial | None,
        on_progress: Callable[[float], None] | None,
    ) -> None:
        self.segment_s = 0.0
        self._events = events
        self._on_partial = on_partial
        self._on_progress = on_progress
        self._start_s = 0.0  # of the current segment
        self._done_s = 0.0

    def watch(self, audio: AudioFile) -> Iterator[np.ndarray]:
        """The recording's pieces; between segments, what has been read is done."""
        read_s = 0.0
        for pcm in audio.pieces():
            yield pcm
            read_s += pcm.size / SAMPLE_RATE
            if not self.segment_s:
                self._progress(read_s)

    def fed(self, piece: Piece) -> None:
        """A piece has gone to the stream."""
        self._start_s = piece.start_s
        self.segment_s += piece.pcm.size / SAMPLE_RATE

    def catch_up(self) -> None:
        """Take the events that are there, without waiting."""
        while not self._events.empty():
            self._accept(self._events.get())

    def final(self) -> Final:
        """Wait for the segment's end."""
        while True:
            event = self._events.get()
            if isinstance(event, Final):
                return event
            self._accept(event)

    def segment_is_over(self, end_s: float) -> None:
        """The next piece belongs to another segment."""
        self.segment_s = 0.0
        self._progress(end_s)

    def _accept(self, event: Event) -> None:
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Partial) and self._on_partial is not None:
            self._on_partial(event.text)
            self._progress(self._start_s + event.audio_end_s)

    def _progress(self, done_s: float) -> None:
        if self._on_progress is not None and done_s > self._done_s:
            self._done_s = done_s
            self._on_progress(done_s)


def _segment(final: Final, start_s: float, audio_s: float) -> Segment:
    words = tuple(
        Word(w.word, start_s + w.start_s, start_s + w.end_s, w.confidence) for w in final.words
    )
    return Segment(
        text=final.text.strip(),
        start_s=start_s,
        end_s=start_s + audio_s,
        tokens=final.tokens,
        words=words,
        language=final.language,
    )


def _main_language(segments: list[Segment]) -> str | None:
    seconds: dict[str, float] = {}
    for segment in segments:
        if segment.language is not None:
            seconds.setdefault(segment.language, 0.0)
            seconds[segment.language] += segment.end_s - segment.start_s
    return max(seconds, key=lambda language: seconds[language]) if seconds else None
