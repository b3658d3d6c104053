"""Log-mel features of the offline Conformers: 80 bins, normalised over the whole segment.

    audio    [batch, samples]       float32 in [-1, 1], zero beyond each length
    features [batch, 80, frames]    frames = samples // 160 + 1, zero beyond each length

The chain is NeMo's `FilterbankFeatures` as IndicConformer was trained with it: pre-emphasis
0.97, short-time Fourier transform of 512 points (Hann window of 400, hop 160, reflected at the
edges), power, mel filters in Slaney's form, log(x + 2^-24), then each bin minus its mean over
its deviation (n - 1, + 1e-5) within the segment. `torch.jit.script` compiles the module: that is
how `preprocessor.ts` is made.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn


def slaney_mel(hz: float) -> float:
    """Hertz to mel as in Slaney's Auditory Toolbox: linear below 1 kHz, logarithmic above."""
    if hz < 1000.0:
        return hz * 3.0 / 200.0
    return 15.0 + math.log(hz / 1000.0) * 27.0 / math.log(6.4)


def slaney_hz(mel: float) -> float:
    """Inverse of `slaney_mel`."""
    if mel < 15.0:
        return mel * 200.0 / 3.0
    return 1000.0 * math.exp((mel - 15.0) * math.log(6.4) / 27.0)


def mel_filters(bins: int, n_fft: int, sample_rate: int = 16_000) -> Tensor:
    """Triangular filters of equal area, 0 Hz to half the sample rate.

    Returns:
        float32, shape (bins, n_fft // 2 + 1); the same as `librosa.filters.mel` gives.
    """
    top = slaney_mel(sample_rate / 2)
    edges = torch.tensor(
        [slaney_hz(top * i / (bins + 1)) for i in range(bins + 2)], dtype=torch.float64
    )
    freqs = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    rise = (freqs[None] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - freqs[None]) / (edges[2:] - edges[1:-1])[:, None]
    area = 2.0 / (edges[2:] - edges[:-2])
    return (torch.minimum(rise, fall).clamp(min=0) * area[:, None]).float()


class LogMel(nn.Module):
    """Audio to normalised log-mel features; see the module's docstring for shapes."""

    if TYPE_CHECKING:  # TorchScript reads annotations too, and knows no postponed ones
        window: Tensor
        fb: Tensor

    def __init__(self, bins: int = 80, n_fft: int = 512, window: int = 400, hop: int = 160) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.hop = hop
        self.win_length = window
        self.preemphasis = 0.97
        self.log_guard = 2.0**-24
        self.deviation_guard = 1e-5
        self.register_buffer("window", torch.hann_window(window, periodic=False))
        self.register_buffer("fb", mel_filters(bins, n_fft))

    def forward(self, input_signal: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Features of a batch.

        Args:
            input_signal: float32, shape (batch, samples).
            length: int64, shape (batch,): samples of each row that are audio.

        Returns:
            float32 of shape (batch, bins, frames), and frames of each row, int64 (batch,).
        """
        frames = torch.div(length, self.hop, rounding_mode="floor") + 1
        steps = torch.arange(input_signal.shape[1], device=input_signal.device)
        x = torch.cat(
            [
                input_signal[:, :1],
                input_signal[:, 1:] - self.preemphasis * input_signal[:, :-1],
            ],
            dim=1,
        )
        x = x.masked_fill(steps[None, :] >= length[:, None], 0.0)
        spectrum = torch.stft(
            x,
            self.n_fft,
            hop_length=self.hop,
            win_length=self.win_length,
            window=self.window,
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        power = spectrum.real.square() + spectrum.imag.square()
        mel = torch.log(torch.matmul(self.fb, power) + self.log_guard)
        columns = torch.arange(mel.shape[2], device=mel.device)
        padded = (columns[None, :] >= frames[:, None])[:, None, :]
        count = frames.to(mel.dtype)[:, None, None]
        mean = mel.masked_fill(padded, 0.0).sum(dim=2, keepdim=True) / count
        centred = (mel - mean).masked_fill(padded, 0.0)
        variance = centred.square().sum(dim=2, keepdim=True) / (count - 1.0).clamp(min=1.0)
        return centred / (variance.sqrt() + self.deviation_guard), frames
