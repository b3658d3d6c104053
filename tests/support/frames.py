"""What a microphone and a VAD put into a pipeline, and how a processor answers it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pipecat.frames.frames import (
    Frame,
    InputAudioRawFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.tests.utils import run_test

RATE = 16_000
CHUNK = 1_280


def audio(seconds: float, *, first: int = 0) -> list[InputAudioRawFrame]:
    """Sound in frames of 80 ms whose samples count up from `first`, so that each is known."""
    samples = (np.arange(round(seconds * RATE)) + first).astype(np.int16)
    pieces = [samples[i : i + CHUNK] for i in range(0, samples.size, CHUNK)]
    return [InputAudioRawFrame(piece.tobytes(), RATE, 1) for piece in pieces]


def started() -> VADUserStartedSpeakingFrame:
    return VADUserStartedSpeakingFrame(start_secs=0.2)


def stopped() -> VADUserStoppedSpeakingFrame:
    return VADUserStoppedSpeakingFrame(stop_secs=0.2)


def segment(seconds: float) -> list[Frame]:
    """What one VAD segment sends to a recogniser."""
    return [started(), *audio(seconds), stopped()]


async def run(
    processor: FrameProcessor, *frames: Frame | Sequence[Frame], **options: object
) -> tuple[Sequence[Frame], Sequence[Frame]]:
    """Send frames through a processor in a real pipeline; what came out below and above."""
    sent = [f for frame in frames for f in ([frame] if isinstance(frame, Frame) else frame)]
    return await run_test(processor, frames_to_send=sent, start_timeout=20.0, **options)


def of_type(frames: Sequence[Frame], *types: type) -> list:
    """The frames of these types."""
    return [frame for frame in frames if isinstance(frame, types)]
