"""The recogniser protocol: what everything that transcribes looks like from outside.

A `Recognizer` holds weights and lives as long as the process. A `Stream` is one caller: it is
fed 16 kHz mono audio in pieces of any length, and `finish()` ends a segment. A stream's events
arrive in order:

    (Partial* Final)*  [Failed]

exactly one `Final` per `finish()`, even where its text is empty, and none after `cancel()` for
the cancelled segment. Audio fed after `finish()` belongs to the next segment. `Failed` is the
last event of its stream.

Every method of a stream returns at once and may be called from any one thread; events come from
the recogniser's thread through `deliver`, one call for all events of a tick. An asyncio program
passes `deliver=loop.call_soon_threadsafe`, so that its callbacks run on its loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from voice_agent.engine.errors import BadAudio, EngineError

SAMPLE_RATE = 16_000
"""Samples a second that every recogniser takes; resample before `Stream.feed`."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word with its place in the segment.

    Attributes:
        word: the text, without spaces around it.
        start_s: seconds from the segment's first sample.
        end_s: seconds from the segment's first sample.
        confidence: 0 to 1.
    """

    word: str
    start_s: float
    end_s: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Partial:
    """What has been heard of the segment so far; each replaces the one before.

    Attributes:
        text: the whole segment so far.
        tokens: token ids so far (empty where the recogniser has none).
        words: words so far with their times.
        audio_end_s: seconds of the segment's audio that this text accounts for.
        language: BCP-47 code where the recogniser knows it.
    """

    text: str
    tokens: tuple[int, ...] = ()
    words: tuple[Word, ...] = ()
    audio_end_s: float = 0.0
    language: str | None = None


@dataclass(frozen=True, slots=True)
class Final:
    """The segment's text. Nothing more comes for it.

    Attributes:
        text: the segment; empty where nothing was said.
        tokens: token ids (empty where the recogniser has none).
        words: words with times and confidence.
        language: BCP-47 code, e.g. "en" or "kn".
        audio_s: seconds of audio that were fed for this segment.
        decode_ms: milliseconds from `finish()` to this event.
    """

    text: str
    tokens: tuple[int, ...] = ()
    words: tuple[Word, ...] = ()
    language: str | None = None
    audio_s: float = 0.0
    decode_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Failed:
    """The stream cannot go on; its last event."""

    error: EngineError


FinalPass = Literal["stream", "beam", "full", "search"]
SECOND_PASSES: frozenset[FinalPass] = frozenset({"full", "search"})
"""Those that decode the segment's audio a second time."""
SEARCHES: frozenset[FinalPass] = frozenset({"beam", "search"})
"""Those by beam search."""
Event = Partial | Final | Failed
OnEvent = Callable[[Event], None]
Deliver = Callable[[Callable[[], None]], object]


def deliver_here(dispatch: Callable[[], None]) -> None:
    """Run the callbacks on the recogniser's own thread: they must be quick and thread-safe."""
    dispatch()


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What a caller may choose for one stream.

    Attributes:
        language: BCP-47 code of the speech, or None where the recogniser decides.
        right_context: encoder frames of look-ahead (0, 1, 6 or 13 for Nemotron Speech), or
            None for the recogniser's default.
        partials: whether `Partial` events are wanted at all.
        final_pass: None for the recogniser's default: "beam" of the embedded tiny-en on a CPU,
            else "stream". "stream": the final is what streaming heard, the best token of every
            frame. "beam": streaming is decoded by beam search: fewer errors, for some milliseconds
            more of the engine's time a second of speech. Partials are what its texts agree on, and
            so up to a second later. "full": on `finish()` the segment is decoded again at the
            recogniser's widest look-ahead, where it has several. "search": as "full", by beam
            search. A language model that the recogniser was loaded with has its say in both
            searches.
        extra: options that one recogniser knows and others refuse by name.
    """

    language: str | None = None
    right_context: int | None = None
    partials: bool = True
    final_pass: FinalPass | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class Stream(Protocol):
    """One caller's audio on its way to text. None of the methods blocks."""

    def feed(self, pcm: np.ndarray) -> None:
        """Append audio to the current segment.

        Args:
            pcm: int16 or float32 in [-1, 1], shape (n,), any n, 16 kHz mono.

        Raises:
            BadAudio: wrong dtype or shape, or values that are not finite.
            StreamClosed: after `close()`.
        """
        ...

    def finish(self) -> None:
        """End the segment: its `Final` follows; audio fed from now on is the next segment's."""
        ...

    def cancel(self) -> None:
        """Drop the current segment and whatever of it has not been delivered yet."""
        ...

    def close(self) -> None:
        """Give the slot back. Idempotent; no event follows."""
        ...


@runtime_checkable
class Recognizer(Protocol):
    """Weights that are loaded, ready to open streams.

    Attributes:
        name: short name for logs and metrics, e.g. "tiny-en".
        languages: BCP-47 codes that it can write; empty where unknown.
        streaming: whether partials come while audio arrives, rather than by re-decoding.
    """

    name: str
    languages: tuple[str, ...]
    streaming: bool

    def open(
        self,
        on_event: OnEvent,
        *,
        deliver: Deliver = deliver_here,
        options: StreamOptions | None = None,
    ) -> Stream:
        """Claim a slot. Cheap.

        Args:
            on_event: called with each event, in order.
            deliver: runs a batch of callbacks where the caller wants them
                (`loop.call_soon_threadsafe` for asyncio).
            options: choices for this stream; None for the defaults.

        Raises:
            EngineFull: every slot is taken.
            EngineClosed: the recogniser is closed or its thread has died.
            ValueError: an option that this recogniser does not serve, named.
        """
        ...

    def close(self) -> None:
        """Stop the thread and free the weights. Idempotent. Open streams get `Failed`."""
        ...


def checked(pcm: np.ndarray) -> np.ndarray:
    """Check audio given to `Stream.feed`.

    Args:
        pcm: int16 or float32, shape (n,).

    Returns:
        The same array.

    Raises:
        BadAudio: anything else, or values that are not finite.
    """
    if not isinstance(pcm, np.ndarray) or pcm.ndim != 1:
        shape = getattr(pcm, "shape", type(pcm).__name__)
        raise BadAudio(f"audio must be a mono array of shape (n,), got {shape}")
    if pcm.dtype == np.float32:
        if not np.isfinite(pcm).all():
            bad = int((~np.isfinite(pcm)).sum())
            raise BadAudio(f"{bad} of {pcm.size} float32 samples are NaN or infinite")
    elif pcm.dtype != np.int16:
        raise BadAudio(f"audio must be int16 or float32, got {pcm.dtype}")
    return pcm


def as_float32(pcm: np.ndarray) -> np.ndarray:
    """Check audio as `checked` does, and return it as float32 in [-1, 1].

    Returns:
        float32, shape (n,); a new array, so that the caller may reuse its own.

    Raises:
        BadAudio: see `checked`.
    """
    pcm = checked(pcm)
    return pcm.astype(np.float32) / 32768.0 if pcm.dtype == np.int16 else pcm.copy()


def text_of(words: Sequence[Word]) -> str:
    """Join words with single spaces."""
    return " ".join(w.word for w in words)
