"""Log-mel features exactly as NeMo's preprocessor computes them, with an optional vocal-tract warp.

`normalize: NA`, pre-emphasis 0.97, symmetric 25 ms Hann window in 512 points, 10 ms hop, power
spectrum, Slaney mel bands, log(x + 2**-24), no dither.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

SAMPLE_RATE, N_FFT, WINDOW, HOP = 16000, 512, 400, 160
LOG_GUARD = 2.0**-24
VOCAL_TRACTS = 256  # made-up speakers' frequency axes, while training


def _hz_to_mel(hz: np.ndarray) -> np.ndarray:
    """Slaney's scale: linear to 1 kHz, logarithmic above (as in Auditory Toolbox and librosa)."""
    hz = np.asarray(hz, dtype=np.float64)
    linear = hz / (200.0 / 3)
    return np.where(
        hz < 1000.0, linear, 15.0 + np.log(np.maximum(hz, 1e-9) / 1000.0) / (np.log(6.4) / 27.0)
    )


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(
        mel < 15.0, mel * (200.0 / 3), 1000.0 * np.exp((mel - 15.0) * (np.log(6.4) / 27.0))
    )


def mel_bank(
    bands: int, n_fft: int = N_FFT, warp: float | Callable[[np.ndarray], np.ndarray] = 1.0
) -> np.ndarray:
    """Return [bands, n_fft / 2 + 1] triangular filters, area-normalised.

    Args:
        bands: how many.
        n_fft: points of the transform.
        warp: factor on the frequency axis below 4.8 kHz (vocal tract length perturbation,
            Jaitly and Hinton 2013); above it the axis bends back so that 8 kHz stays where it is.
            Or any rising function of the frequency that keeps 0 Hz and 8 kHz.
    """
    nyquist = SAMPLE_RATE / 2
    edges = _mel_to_hz(np.linspace(0.0, _hz_to_mel(np.array(nyquist)), bands + 2))
    widths = 2.0 / (edges[2:] - edges[:-2])
    if callable(warp):
        edges = warp(edges)
    elif warp != 1.0:
        knee = 4800.0 * min(warp, 1.0) / warp
        bent = nyquist - (nyquist - warp * knee) / (nyquist - knee) * (nyquist - edges)
        edges = np.where(edges <= knee, edges * warp, bent)
    bins = np.linspace(0.0, nyquist, n_fft // 2 + 1)
    rising = (bins[None] - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins[None]) / np.diff(edges)[1:, None]
    return (np.maximum(0.0, np.minimum(rising, falling)) * widths[:, None]).astype(np.float32)


def vocal_tract(rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    """Draw a speaker's frequency axis: a length of the tract, and its formants a little moved.

    Speakers differ by more than one factor: each formant's region is moved by its own 4 % (one
    standard deviation) on top of the 0.83 to 1.2 that the length may be.
    """
    knots = np.array([400.0, 1000.0, 1800.0, 2700.0, 3800.0])
    moved = knots * rng.uniform(0.83, 1.2) * np.exp(rng.normal(0.0, 0.04, len(knots)))
    place, target = np.r_[0.0, knots, 8000.0], np.r_[0.0, moved, 8000.0]
    return lambda hertz: np.interp(hertz, place, target)


def mel_banks(bands: int, n_fft: int, tracts: int) -> Tensor:
    """Return [1 + tracts, bands, bins]: the true bank, then those of made-up speakers.

    Speaker number n is the same one whatever the transform.
    """
    rng = np.random.default_rng(0)
    banks = [mel_bank(bands, n_fft)]
    banks += [mel_bank(bands, n_fft, vocal_tract(rng)) for _ in range(tracts)]
    return torch.from_numpy(np.stack(banks))


def heard_by(banks: Tensor, warp: Tensor | None) -> Tensor:
    """Return the banks [batch, bands, bins] numbered `warp` [batch]; None is the true one."""
    return banks[:1] if warp is None else banks[warp]


class LogMel:
    """Waveforms [batch, samples] to log-mel [batch, bands, frames], on any device."""

    def __init__(
        self, bands: int = 80, device: str | torch.device = "cpu", tracts: int = 0
    ) -> None:
        """Make the filter banks: the true one, and those of `tracts` made-up speakers."""
        self.window = torch.hann_window(WINDOW, periodic=False, device=device)
        self.banks = mel_banks(bands, N_FFT, tracts).to(device)

    def __call__(
        self, wave: Tensor, samples: Tensor, warp: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return features and their lengths.

        Args:
            wave: [batch, n] float32.
            samples: [batch] samples that hold audio.
            warp: [batch] index of a filter bank; 0 is the true one. None: all true.
        """
        inside = torch.arange(wave.shape[1], device=wave.device) < samples[:, None]
        wave = torch.cat([wave[:, :1], wave[:, 1:] - 0.97 * wave[:, :-1]], dim=1) * inside
        spectrum = torch.stft(
            wave, N_FFT, HOP, WINDOW, self.window, pad_mode="constant", return_complex=True
        )
        power = spectrum.real.square() + spectrum.imag.square()
        mel = torch.log(torch.matmul(heard_by(self.banks, warp), power) + LOG_GUARD)
        frames = samples // HOP
        past = torch.arange(mel.shape[2], device=mel.device) >= frames[:, None]
        return mel.masked_fill(past[:, None], 0.0), frames
