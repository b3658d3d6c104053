"""Input audio as the recogniser steps: 16 kHz mono, 80 ms a frame, whatever the transport sends.

WebRTC delivers 20 ms (the first piece shorter), websocket clients any size at their own rate.
"""

from __future__ import annotations

import numpy as np
from pipecat.frames.frames import EndFrame, Frame, InputAudioRawFrame
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

from voice_agent.audio import SAMPLE_RATE, AudioFormatError, MonoResampler, Rechunker


class AudioChunker(FrameProcessor):
    """Replaces input audio by frames of exactly `CHUNK_SAMPLES`; everything else passes.

    Resamples, and mixes channels. What is left at the end of the call goes out as one short
    frame before the EndFrame, so that no sample is lost.
    """

    def __init__(self) -> None:
        super().__init__()
        self._resampler = MonoResampler()
        self._rechunker = Rechunker()
        self._source: str | None = None
        self._refused = ""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Re-chunk audio, pass the rest on.

        Args:
            frame: any.
            direction: of the frame.
        """
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            await self._chunk(frame)
            return
        if isinstance(frame, EndFrame):
            await self._push_audio(self._rechunker.push(self._resampler.flush()))
            await self._push_audio([self._rechunker.flush()])
        await self.push_frame(frame, direction)

    async def _chunk(self, frame: InputAudioRawFrame) -> None:
        self._source = frame.transport_source
        try:
            samples = self._resampler.process(frame.audio, frame.sample_rate, frame.num_channels)
        except AudioFormatError as error:
            if str(error) != self._refused:  # once, not fifty times a second
                self._refused = str(error)
                await self.push_error(f"input audio was dropped: {error}", exception=error)
            return
        await self._push_audio(self._rechunker.push(samples))

    async def _push_audio(self, pieces: list[np.ndarray]) -> None:
        for piece in pieces:
            if piece.size:
                frame = InputAudioRawFrame(piece.tobytes(), SAMPLE_RATE, 1)
                frame.transport_source = self._source
                await self.push_frame(frame)
