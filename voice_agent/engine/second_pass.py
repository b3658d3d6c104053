"""A finished segment on its way through the device once more, at the widest look-ahead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from voice_agent.engine.chunks import Chunks
from voice_agent.engine.recognizer import as_float32

if TYPE_CHECKING:
    from voice_agent.engine.inbox import Request
    from voice_agent.engine.streams import EngineStream


class SecondPass:
    """One segment. Its steps are long, so a few seconds of audio take a few of them.

    Attributes:
        stream: whose.
        end: the request that finished the segment.
        total: chunks that it has.
        launched: chunks handed to the device.
        collected: chunks whose tokens have come back.
    """

    def __init__(self, stream: EngineStream, end: Request, chunks: Chunks) -> None:
        """Lay out the segment's audio.

        Args:
            stream: whose.
            end: what finished it; its `kept` is the audio.
            chunks: geometry of the widest look-ahead.
        """
        self.stream = stream
        self.end = end
        self.launched = self.collected = 0
        samples = sum(map(len, end.kept))
        self.total = chunks.total(samples)
        self._chunks = chunks
        self._pcm = _laid_out(end.kept, samples, self.total, chunks)

    def window(self) -> np.ndarray:
        """What the next chunk is computed from, float32, shape (window_samples,)."""
        start = self.launched * self._chunks.samples
        return self._pcm[start : start + self._chunks.window_samples]


def _laid_out(kept: Sequence[np.ndarray], samples: int, total: int, chunks: Chunks) -> np.ndarray:
    """Zeros before and after, so that every window is a slice."""
    pcm = np.zeros(total * chunks.samples + chunks.window_samples, np.float32)
    at = chunks.lead
    for piece in kept:
        pcm[at : at + len(piece)] = as_float32(piece)
        at += len(piece)
    assert at == chunks.lead + samples
    return pcm
