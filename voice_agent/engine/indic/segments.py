"""Long audio and growing audio: where to cut, when to decode again, which words are settled.

Pure functions of audio and numbers: no model, no clock, no thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from voice_agent.engine.recognizer import SAMPLE_RATE, Word

LONGEST_S = 15.0
"""Seconds decoded at once. IndicConformer drops words past about 18 s."""
SEARCH_S = 5.0
"""The cut lies within so many seconds before `LONGEST_S`."""
WINDOW = 400  # samples whose energy is weighed: 25 ms
SMOOTH = 8  # windows: a pause is 0.2 s, not the closure of a stop consonant


def first_cut(pcm: np.ndarray, longest_s: float = LONGEST_S, search_s: float = SEARCH_S) -> int:
    """Where to cut audio that is longer than `longest_s`.

    The middle of the quietest 0.2 s among its seconds longest_s - search_s to longest_s; the rest
    of the audio plays no part, so the cut is the same however much of it has arrived.

    Args:
        pcm: float32, shape (n,), n > longest_s * 16000.
        longest_s: seconds that a piece may have.
        search_s: seconds before that in which to look.

    Returns:
        Samples of the first piece.
    """
    stop = int(longest_s * SAMPLE_RATE)
    start = stop - int(search_s * SAMPLE_RATE)
    count = (stop - start) // WINDOW
    windows = pcm[start : start + count * WINDOW].reshape(count, WINDOW).astype(np.float64)
    energy = np.square(windows).mean(axis=1)
    smooth = min(SMOOTH, count)
    level = np.convolve(energy, np.full(smooth, 1.0 / smooth), mode="valid")
    return start + int(level.argmin()) * WINDOW + smooth * WINDOW // 2


def pieces(pcm: np.ndarray, longest_s: float = LONGEST_S) -> list[tuple[int, int]]:
    """Cut whole audio at pauses: (start, stop) of each piece, end to end."""
    cuts, start = [], 0
    while len(pcm) - start > longest_s * SAMPLE_RATE:
        stop = start + first_cut(pcm[start:], longest_s)
        cuts.append((start, stop))
        start = stop
    return [*cuts, (start, len(pcm))]


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a growing piece is decoded again: ever more rarely as it grows.

    With growth g, the n decodes of a piece of s seconds cost about s * (1 + g) / g in all,
    however long it is: five times the cost of decoding it once, at the default.

    Attributes:
        first_s: seconds of audio before the first decode.
        step_s: seconds between decodes at least.
        growth: share of the piece's length that is waited for at least.
        patience: times the last decode's own duration that are waited for at least, so that a
            slow machine falls back to fewer partials and not behind.
    """

    first_s: float = 0.6
    step_s: float = 0.4
    growth: float = 0.25
    patience: float = 2.0

    def next_s(self, heard_s: float, cost_s: float) -> float:
        """Length at which a piece decoded at `heard_s`, in `cost_s` seconds, is due again."""
        wait = max(self.step_s, self.growth * heard_s, self.patience * cost_s)
        return heard_s + wait


@dataclass(slots=True)
class StablePrefix:
    """Words that two decodes in a row agree on; once shown, a word is not taken back.

    This is the local agreement of Liu et al. 2020 (arXiv 2005.11185) with n = 2.
    """

    shown: list[Word] = field(default_factory=list)
    _last: list[Word] = field(default_factory=list)

    def update(self, words: Sequence[Word]) -> bool:
        """Take the next decode's words; say whether more can be shown."""
        agreed = 0
        for old, new in zip(self._last, words, strict=False):
            if old.word != new.word:
                break
            agreed += 1
        grown = agreed > len(self.shown)
        if grown:
            self.shown = [*self.shown, *words[len(self.shown) : agreed]]
        self._last = list(words)
        return grown
