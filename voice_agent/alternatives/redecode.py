"""Partials and finals from models that can only transcribe a whole segment.

A segment's audio is kept and decoded again as it grows, on a schedule that backs off: the next
time is a second later, or later still where the last decoding took long, so that re-decoding
never takes more than a share of the machine. What two decodings in a row agree on, word for
word, is a partial ("local agreement" of Macháček et al. 2023, with n = 2): it does not flicker.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from voice_agent.alternatives.worker import Decoded, Heard, OpenSession, Session
from voice_agent.engine.recognizer import SAMPLE_RATE, StreamOptions


class Decode(Protocol):
    """Transcribe one segment. Blocks; called from one thread."""

    def __call__(self, pcm: np.ndarray, options: StreamOptions, *, final: bool) -> Decoded:
        """Transcribe.

        Args:
            pcm: float32, shape (n,), 16 kHz mono, n > 0: the segment so far.
            options: of the stream.
            final: whether the segment is over; otherwise quick is better than exact.
        """
        ...


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a growing segment is decoded again.

    Attributes:
        every_s: seconds of new audio between decodings, at least.
        share: of the time that may go into re-decoding; 0.5 means that after a decoding of 0.4 s
            at least 0.8 s of new audio must come before the next.
        up_to_s: seconds of segment after which partials stop, since each costs more than the last.
    """

    every_s: float = 1.0
    share: float = 0.5
    up_to_s: float = 20.0


def redecoding(decode: Decode, schedule: Schedule | None = Schedule()) -> OpenSession:  # noqa: B008
    """Sessions for a segment-only model.

    Args:
        decode: the model.
        schedule: when partials are made; None for never.
    """

    def open_session(options: StreamOptions, heard: Heard) -> Session:
        wanted = schedule if options.partials else None
        return RedecodingSession(decode, options, heard, wanted)

    return open_session


class RedecodingSession:
    """One segment, decoded again and again. See the module docstring."""

    def __init__(
        self,
        decode: Decode,
        options: StreamOptions,
        heard: Heard,
        schedule: Schedule | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin a segment.

        Args:
            decode: the model.
            options: of the stream.
            heard: takes partials.
            schedule: when to decode; None for only at the end.
            clock: seconds, to see what a decoding costs.
        """
        self._decode, self._options, self._heard = decode, options, heard
        self._schedule, self._clock = schedule, clock
        self._pieces: list[np.ndarray] = []
        self._samples = 0
        self._next_s = schedule.every_s if schedule else float("inf")
        self._before: list[str] = []
        self._shown, self._text = 0, ""  # words of the last partial, and it

    def feed(self, pcm: np.ndarray) -> None:
        """Keep the audio; decode all of it if it is time."""
        self._keep(pcm)
        schedule, seconds = self._schedule, self._samples / SAMPLE_RATE
        if schedule is None or not self._next_s <= seconds <= schedule.up_to_s:
            return
        began = self._clock()
        decoded = self._decode(np.concatenate(self._pieces), self._options, final=False)
        cost_s = self._clock() - began
        self._next_s = seconds + max(schedule.every_s, cost_s / schedule.share)
        words = decoded.text.split()
        stable = agreed(self._before, words)
        self._before = words
        text = " ".join(words[:stable])
        if stable >= self._shown and stable and text != self._text:
            self._shown, self._text = stable, text
            kept = decoded.words[:stable] if len(decoded.words) == len(words) else ()
            self._heard(Decoded(text, kept, decoded.language))

    def finish(self, rest: np.ndarray) -> Decoded:
        """Decode the whole segment once more, as well as the model can."""
        self._keep(rest)
        return self._decode(np.concatenate(self._pieces), self._options, final=True)

    def cancel(self) -> None:
        """Forget the audio."""
        self._pieces = []

    def _keep(self, pcm: np.ndarray) -> None:
        self._pieces.append(pcm)
        self._samples += pcm.size


def agreed(before: list[str], now: list[str]) -> int:
    """How many words from the start are the same in both, case and punctuation aside.

    >>> agreed(["the", "quick", "brow"], ["The", "quick,", "brown", "fox"])
    2
    """
    count = 0
    for old, new in zip(before, now, strict=False):
        if _bare(old) != _bare(new):
            break
        count += 1
    return count


def _bare(word: str) -> str:
    return word.strip(".,;:!?…।\"'").casefold()
