"""Log-mel features of `tiny-lid`: 64 bands, 10 ms hop, each band's mean over the audio removed.

Mean removal takes the microphone and the line out of the features, which would otherwise tell
more of where audio came from than of its language.
"""

from __future__ import annotations

import functools

import numpy as np

BANDS, N_FFT, WINDOW, HOP = 64, 512, 400, 160
LOW_HZ, HIGH_HZ = 60.0, 7600.0
GUARD = 1e-7


@functools.cache
def mel_filters() -> np.ndarray:
    """Triangles, equally wide in mel (O'Shaughnessy 1987): float32, shape (257, 64)."""
    edges = np.linspace(_mel(LOW_HZ), _mel(HIGH_HZ), BANDS + 2)
    bins = _mel(np.linspace(0.0, 8000.0, N_FFT // 2 + 1))[:, None]
    rise = (bins - edges[:-2]) / np.diff(edges)[:-1]
    fall = (edges[2:] - bins) / np.diff(edges)[1:]
    return np.maximum(0.0, np.minimum(rise, fall)).astype(np.float32)


def _mel(hz: np.ndarray | float) -> np.ndarray:
    return 2595.0 * np.log10(1.0 + np.asarray(hz) / 700.0)


@functools.cache
def window() -> np.ndarray:
    """Symmetric Hann window: float32, shape (400,)."""
    return np.hanning(WINDOW).astype(np.float32)


def log_mel(pcm: np.ndarray) -> np.ndarray:
    """Features of whole windows only: no padding at either end.

    Args:
        pcm: float32, shape (n,), n at least 400.

    Returns:
        float32, shape (64, (n - 400) // 160 + 1).
    """
    frames = np.lib.stride_tricks.sliding_window_view(pcm, WINDOW)[::HOP]
    spectrum = np.fft.rfft(frames * window(), N_FFT)
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    mel = np.log(power.astype(np.float32) @ mel_filters() + GUARD).T
    return mel - mel.mean(axis=1, keepdims=True)
