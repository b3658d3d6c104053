"""The open segments of a stream, kept so that they can be said again to a new engine.

    feed, finish, cancel, heard     what happens to the stream
    again(way)                      all of it once more: one OPEN, then each segment's audio

Kept in memory: 32 kB a second of a segment, up to `LIMIT_S` of all open ones; a stream that owes
more than that cannot be continued. Not thread-safe.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from voice_agent.engine.recognizer import SAMPLE_RATE, StreamOptions
from voice_agent.link.ways import Way

LIMIT_S = 120.0
"""Seconds of audio that one stream's open segments may hold."""


@dataclass(slots=True)
class _Open:
    number: int
    pieces: list[np.ndarray] = field(default_factory=list)
    samples: int = 0
    finished: bool = False


class Keeping:
    """See the module docstring.

    Attributes:
        options: that the stream was opened with.
        whole: whether everything that is owed is still kept.
    """

    def __init__(self, options: StreamOptions) -> None:
        """Begin with a stream's first segment.

        Args:
            options: that the stream was opened with.
        """
        self.whole = True
        self.options = options
        self._open: deque[_Open] = deque()
        self._samples = 0

    def feed(self, segment: int, pcm: np.ndarray) -> None:
        """Keep audio of a segment."""
        at = self._segment(segment)
        at.pieces.append(pcm.copy())
        at.samples += len(pcm)
        self._samples += len(pcm)
        if self._samples > LIMIT_S * SAMPLE_RATE:
            self.whole = False
            self._open.clear()

    def finish(self, segment: int) -> None:
        """The segment is complete; its text is owed."""
        self._segment(segment).finished = True

    def drop(self, segment: int) -> None:
        """The segment was cancelled, or its text has come."""
        for held in list(self._open):
            if held.number == segment:
                self._open.remove(held)
                self._samples -= held.samples

    def again(self, way: Way, next_segment: int) -> None:
        """Say all of it once more.

        Args:
            way: to a stream that is not open yet.
            next_segment: the one that is fed now, where none is open.
        """
        first = self._open[0].number if self._open else next_segment
        way.open(self.options, first)
        number = first
        for held in self._open:
            while number < held.number:  # cancelled meanwhile: its number is not used again
                way.cancel()
                number += 1
            for pcm in held.pieces:
                way.feed(pcm)
            if held.finished:
                way.finish()
                number += 1
        while number < next_segment:
            way.cancel()
            number += 1

    def _segment(self, number: int) -> _Open:
        if not self._open or self._open[-1].number != number:
            self._open.append(_Open(number))
        return self._open[-1]
