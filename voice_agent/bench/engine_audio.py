"""Audio for the engine's benchmark: noise that swells and changes colour like speech.

Silence and zeros are cheaper to compute than speech on some chips, and steady noise keeps a model
in one state; so every lane has syllables of its own, some four a second, drawn afresh each run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from voice_agent.engine.recognizer import SAMPLE_RATE

if TYPE_CHECKING:
    from voice_agent.engine.chunks import Chunks

_SYLLABLES_HZ = 4.0
_SMOOTH = 12  # samples of the moving average that makes the dark colour


def noise(lanes: int, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Syllables of noise, dark and bright.

    Returns:
        float32, shape (lanes, samples), within [-1, 1]: what 16-bit samples can say.
    """
    white = rng.standard_normal((lanes, samples + _SMOOTH), dtype=np.float32)
    total = np.cumsum(white, axis=1, dtype=np.float32)
    dark = (total[:, _SMOOTH:] - total[:, :-_SMOOTH]) * np.float32(_SMOOTH**-0.5)
    seconds = np.arange(samples, dtype=np.float32) / SAMPLE_RATE
    rate = (_SYLLABLES_HZ * rng.uniform(0.7, 1.3, (2, lanes, 1))).astype(np.float32)
    phase = rng.uniform(0, np.pi, (2, lanes, 1)).astype(np.float32)
    swell = np.sin(np.pi * rate * seconds + phase) ** 4  # (2, lanes, samples)
    pcm = 0.2 * swell[0] * dark + 0.1 * swell[1] * white[:, _SMOOTH:] + 1e-4 * white[:, _SMOOTH:]
    pcm *= 32768
    return np.clip(np.round(pcm, out=pcm), -32768, 32767) / np.float32(32768)


def int16_of(pcm: np.ndarray) -> np.ndarray:
    """The samples of `noise` as they come over the wire."""
    return np.round(pcm * 32768).astype(np.int16)


def staged(runner: Any, pcm: np.ndarray) -> np.ndarray:
    """Windows of `noise`, (lanes, samples), where the runner's scheduler would gather them."""
    staging = getattr(runner, "staging", None)
    into = staging(*pcm.shape) if staging else None
    if into is None:
        return pcm
    into[:] = int16_of(pcm) if into.dtype == np.int16 else pcm
    return into


def windows(audio: np.ndarray, chunks: Chunks, steps: int) -> np.ndarray:
    """The stretches that the first `steps` chunks of each lane are computed from.

    Args:
        audio: shape (lanes, samples): a segment each, from its first sample.
        chunks: geometry.
        steps: chunks.

    Returns:
        float32, shape (steps, lanes, chunks.window_samples); zeros before the segment.
    """
    out = np.zeros((steps, len(audio), chunks.window_samples), np.float32)
    for step in range(steps):
        start, stop = chunks.window(step)
        if stop > audio.shape[1]:
            raise ValueError(f"{audio.shape[1]} samples are too few for {steps} chunks")
        out[step, :, max(0, -start) :] = audio[:, max(start, 0) : stop]
    return out


def samples_for(chunks: Chunks, steps: int) -> int:
    """Samples that `windows` needs for so many chunks."""
    return chunks.window(steps - 1)[1]
