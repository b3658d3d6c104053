"""The network of `tiny-lid` and its training features.

    features [batch, 64, frames] ─ convolutions over time ─ mean and deviation, weighed by
    attention ─ logits [batch, classes]

A class is a language that the identifier was taught, or "noise"; the engine sums the classes of a
language it does not name into "other".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from voice_agent.engine.lid.features import GUARD, HOP, N_FFT, WINDOW, mel_filters

CLASSES = ("en", "kn", "hi", "ta", "te", "ml", "bn", "mr", "gu", "noise")
NAMED = ("en", "kn")


def log_mel_batch(wave: Tensor) -> Tensor:
    """`voice_agent.engine.lid.features.log_mel` for a batch [batch, n] of equal lengths."""
    window = torch.hann_window(WINDOW, periodic=False)
    frames = wave.unfold(1, WINDOW, HOP) * window
    spectrum = torch.fft.rfft(frames, N_FFT)
    power = spectrum.real.square() + spectrum.imag.square()
    mel = torch.log(power @ torch.from_numpy(mel_filters()) + GUARD).transpose(1, 2)
    return mel - mel.mean(dim=2, keepdim=True)


class Block(nn.Module):
    """Dilated convolution, norm, ReLU, dropout, added to what came in."""

    def __init__(self, width: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation)
        self.norm = nn.BatchNorm1d(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, width, frames] in and out."""
        return x + self.dropout(torch.relu(self.norm(self.conv(x))))


class LidNet(nn.Module):
    """See the module's docstring."""

    def __init__(self, width: int = 128, classes: int = len(CLASSES), dropout: float = 0.1) -> None:
        super().__init__()
        self.front = nn.Sequential(
            nn.Conv1d(64, width, 5, stride=2, padding=2), nn.BatchNorm1d(width), nn.ReLU()
        )
        self.blocks = nn.Sequential(
            Block(width, 1, dropout),
            nn.Conv1d(width, width, 3, stride=2, padding=1),
            *(Block(width, d, dropout) for d in (1, 2, 3)),
        )
        self.back = nn.Sequential(
            nn.Conv1d(width, 2 * width, 1), nn.BatchNorm1d(2 * width), nn.ReLU()
        )
        self.attention = nn.Sequential(
            nn.Conv1d(2 * width, 48, 1), nn.Tanh(), nn.Conv1d(48, 2 * width, 1)
        )
        self.embed = nn.Sequential(nn.Linear(4 * width, 128), nn.BatchNorm1d(128), nn.ReLU())
        self.dropout = nn.Dropout(0.2)
        self.out = nn.Linear(128, classes)

    def embedding(self, features: Tensor) -> Tensor:
        """[batch, 64, frames] to [batch, 128]."""
        x = self.back(self.blocks(self.front(features)))
        weight = torch.softmax(self.attention(x), dim=2)
        mean = (x * weight).sum(2)
        spread = ((x * x * weight).sum(2) - mean * mean).clamp(min=1e-6).sqrt()
        return self.embed(torch.cat([mean, spread], dim=1))

    def forward(self, features: Tensor) -> Tensor:
        """[batch, 64, frames] to logits [batch, classes]."""
        return self.out(self.dropout(self.embedding(features)))
