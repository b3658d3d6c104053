"""A caller's voice for tests: espeak-ng, which Silero takes for speech."""

from __future__ import annotations

import asyncio
from functools import cache

import numpy as np

from voice_agent.audio import MonoResampler
from voice_agent.services.espeak_ng import espeak_ng

SENTENCE = "It was the best of times."


@cache
def speech(text: str = SENTENCE, voice: str = "en-us") -> np.ndarray:
    """Say a text, int16 at 16 kHz. Not from within an event loop."""
    resampler = MonoResampler()
    said = resampler.process(asyncio.run(_say(text, voice)), espeak_ng().sample_rate)
    return np.concatenate([said, resampler.flush()])


async def _say(text: str, voice: str) -> bytes:
    return b"".join([piece async for piece in espeak_ng().speak(text, voice, rate=0.9)])
