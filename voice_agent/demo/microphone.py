"""A microphone that plays a clip, at the pace and in the frames of a browser's."""

from __future__ import annotations

import asyncio
import fractions
import time

import numpy as np
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame

from voice_agent.demo.clip import CLIP_RATE

_FRAME = CLIP_RATE // 50  # 20 ms, as browsers send


class ClipTrack(MediaStreamTrack):
    """Silence, after `play` the clip, then silence again.

    Attributes:
        started_at: `time.monotonic()` of the clip's first sample; None before it.
        done: set when the whole clip has been sent.
    """

    kind = "audio"

    def __init__(self, pcm: np.ndarray) -> None:
        """Play int16 samples, 48 kHz mono, shape (n,)."""
        super().__init__()
        self.started_at: float | None = None
        self.done = asyncio.Event()
        self._pcm = pcm
        self._next = 0  # sample of the clip that comes next
        self._playing = False
        self._sent = 0  # samples since the first frame
        self._began: float | None = None

    def play(self) -> None:
        """Start the clip with the next frame."""
        self._playing = True

    async def recv(self) -> AudioFrame:
        """The next 20 ms, when they are due."""
        if self.readyState != "live":
            raise MediaStreamError
        now = time.monotonic()
        if self._began is None:
            self._began = now
        due = self._began + self._sent / CLIP_RATE
        if due > now:
            await asyncio.sleep(due - now)
        block = np.zeros(_FRAME, np.int16)
        if self._playing and not self.done.is_set():
            if self.started_at is None:
                self.started_at = time.monotonic()
            piece = self._pcm[self._next : self._next + _FRAME]
            block[: piece.size] = piece
            self._next += _FRAME
            if self._next >= self._pcm.size:
                self.done.set()
        frame = AudioFrame.from_ndarray(block[None, :], format="s16", layout="mono")
        frame.sample_rate = CLIP_RATE
        frame.time_base = fractions.Fraction(1, CLIP_RATE)
        frame.pts = self._sent
        self._sent += _FRAME
        return frame
