"""The stretches of speech in a recording, each a segment for the recogniser.

Silero VAD (`voice_agent.vad`) scores windows of 512 samples, 32 ms:

    score    . . . . # # # # # . # # # . . . . . . . . . . . . . . . .
    segment    |pre-roll|--------------------------|

A segment begins `pre_roll_s` before speech is certain, so that its first consonant is in it, and
ends after `stop_s` without speech. One that goes on for `max_s` is cut at the next window that
may be a pause.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from voice_agent.engine.recognizer import SAMPLE_RATE

WINDOW = 512
"""Samples that the VAD scores at once."""

_WINDOW_S = WINDOW / SAMPLE_RATE

Score = Callable[[np.ndarray], float]
"""A window, float32 (512,), to the probability that it is speech. Stateful: in order, each once."""


@dataclass(frozen=True, slots=True)
class Cutting:
    """Where segments begin and end. Recordings can wait longer for an end than callers can.

    Attributes:
        on: score from which a window is speech.
        off: score below which a window of a segment is a pause.
        start_s: seconds of speech that make it certain.
        stop_s: seconds of pause that end a segment.
        pre_roll_s: seconds before certainty that belong to the segment; more than `start_s`.
        max_s: seconds after which a segment ends at the next window below `on`.
    """

    on: float = 0.5
    off: float = 0.35
    start_s: float = 0.1
    stop_s: float = 0.6
    pre_roll_s: float = 0.5
    max_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Piece:
    """Some audio of a segment.

    Attributes:
        pcm: float32, shape (n,), 16 kHz mono.
        start_s: where the segment begins in the recording.
        last: whether the segment ends with this piece.
    """

    pcm: np.ndarray
    start_s: float
    last: bool


def speech(
    pieces: Iterable[np.ndarray], score: Score, cutting: Cutting | None = None
) -> Generator[Piece]:
    """Cut a recording into segments of speech.

    Args:
        pieces: the recording, float32 16 kHz mono, in pieces of any length.
        score: the VAD.
        cutting: where segments begin and end.

    Yields:
        Pieces of segments as the recording goes on; what is not speech is left out.
    """
    cut = cutting or Cutting()
    need_on = max(1, round(cut.start_s / _WINDOW_S))
    need_off = max(1, round(cut.stop_s / _WINDOW_S))
    before: deque[np.ndarray] = deque(maxlen=max(need_on, round(cut.pre_roll_s / _WINDOW_S)))
    on_run = off_run = 0
    start: int | None = None  # of the current segment, in windows
    ready: list[np.ndarray] = []  # windows of the current segment that are not handed on yet
    position = 0

    for windows in _windows(pieces):
        for window in windows:
            probability = score(window)
            position += 1
            if start is None:
                before.append(window)
                on_run = on_run + 1 if probability >= cut.on else 0
                if on_run >= need_on:
                    start = position - len(before)
                    ready = list(before)
                    before.clear()
                    on_run = off_run = 0
                continue
            ready.append(window)
            off_run = off_run + 1 if probability < cut.off else 0
            too_long = (position - start) * _WINDOW_S >= cut.max_s and probability < cut.on
            if off_run >= need_off or too_long:
                yield Piece(np.concatenate(ready), start * _WINDOW_S, last=True)
                start, ready = None, []
                on_run = 0
        if start is not None and ready:
            yield Piece(np.concatenate(ready), start * _WINDOW_S, last=False)
            ready = []
    if start is not None:
        yield Piece(np.zeros(0, np.float32), start * _WINDOW_S, last=True)


def whole(pieces: Iterable[np.ndarray]) -> Generator[Piece]:
    """The recording as one segment, pauses and all.

    Args:
        pieces: the recording, float32 16 kHz mono, in pieces of any length.

    Yields:
        Every piece, then an empty last one.
    """
    for pcm in pieces:
        yield Piece(pcm, 0.0, last=False)
    yield Piece(np.zeros(0, np.float32), 0.0, last=True)


def silero() -> Score:
    """Load the Silero VAD; its state belongs to one recording.

    Raises:
        NoVad: its model is not installed.
    """
    from voice_agent.vad import Vad

    return Vad()


def _windows(pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Re-cut pieces of any length into (k, 512) blocks; the tail is padded with zeros."""
    rest = np.zeros(0, np.float32)
    for piece in pieces:
        rest = np.concatenate((rest, piece))
        whole_windows = rest.size // WINDOW
        if whole_windows:
            used = whole_windows * WINDOW
            yield rest[:used].reshape(-1, WINDOW)
            rest = rest[used:]
    if rest.size:
        yield np.pad(rest, (0, WINDOW - rest.size)).reshape(1, WINDOW)
