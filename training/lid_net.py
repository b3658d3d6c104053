"""The network of `tiny-lid` and its training features.

    features [batch, 64, frames] ─ ear: convolutions ─ phones, 50 a second ─ convolutions over
    what follows what ─ mean and deviation, weighed by attention ─ logits [batch, classes]

The second half hears phones and little else: a language that was only heard in synthetic voices
is then known by its sounds and their order, which people share, and not by its timbre.

A class is a language that the identifier was taught, or "noise"; the engine sums the classes of a
language it does not name into "other".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.phones import PHONES
from voice_agent.engine.lid.features import GUARD, HOP, N_FFT, WINDOW, mel_filters

CLASSES = ("en", "kn", "hi", "ta", "te", "ml", "bn", "mr", "gu", "noise")
NAMED = ("en", "kn")
STRIDE = 2 * HOP  # samples from one frame of phones to the next; the first is centred on WINDOW / 2


def log_mel_batch(wave: Tensor) -> Tensor:
    """`voice_agent.engine.lid.features.log_mel` for a batch [batch, n] of equal lengths."""
    window = torch.hann_window(WINDOW, periodic=False, device=wave.device)
    frames = wave.unfold(1, WINDOW, HOP) * window
    spectrum = torch.fft.rfft(frames, N_FFT)
    power = spectrum.real.square() + spectrum.imag.square()
    filters = torch.from_numpy(mel_filters()).to(wave.device)
    mel = torch.log(power @ filters + GUARD).transpose(1, 2)
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


class _Soften(torch.autograd.Function):
    """Nothing forwards; a share of the gradient backwards."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, share: float) -> Tensor:
        ctx.share = share  # type: ignore[attr-defined]
        return x.view_as(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.share, None  # type: ignore[attr-defined]


class LidNet(nn.Module):
    """See the module's docstring."""

    def __init__(
        self,
        width: int = 160,
        tail: int = 128,
        free: int = 0,
        share: float = 0.2,
        classes: int = len(CLASSES),
        dropout: float = 0.1,
    ) -> None:
        """Let `free` channels go around the phones, `share` of the language's gradient through."""
        super().__init__()
        self.share = share
        self.front = nn.Sequential(
            nn.Conv1d(64, width, 5, stride=2, padding=2), nn.BatchNorm1d(width), nn.ReLU()
        )
        self.ear = nn.Sequential(*(Block(width, d, dropout) for d in (1, 2, 4, 1, 3)))
        self.names = nn.Conv1d(width, len(PHONES), 1)
        self.free = nn.Conv1d(width, free, 1) if free else None
        self.join = nn.Sequential(
            nn.Conv1d(len(PHONES) + free, tail, 5, stride=2, padding=2),
            nn.BatchNorm1d(tail),
            nn.ReLU(),
        )
        self.blocks = nn.Sequential(*(Block(tail, d, dropout) for d in (1, 2, 3)))
        self.back = nn.Sequential(nn.Conv1d(tail, 2 * tail, 1), nn.BatchNorm1d(2 * tail), nn.ReLU())
        self.attention = nn.Sequential(
            nn.Conv1d(2 * tail, 48, 1), nn.Tanh(), nn.Conv1d(48, 2 * tail, 1)
        )
        self.embed = nn.Sequential(nn.Linear(4 * tail, 128), nn.BatchNorm1d(128), nn.ReLU())
        self.dropout = nn.Dropout(0.2)
        self.out = nn.Linear(128, classes)

    def hear(self, features: Tensor) -> Tensor:
        """[batch, 64, frames] to [batch, width, frames / 2]."""
        return self.ear(self.front(features))

    def embedding(self, heard: Tensor, phones: Tensor) -> Tensor:
        """What was heard and the logits of its phones, to [batch, 128]."""
        said = torch.softmax(phones, dim=1)
        if self.free is not None:
            said = torch.cat([said, torch.tanh(self.free(heard))], dim=1)
        x = self.back(self.blocks(self.join(_Soften.apply(said, self.share))))
        weight = torch.softmax(self.attention(x), dim=2)
        mean = (x * weight).sum(2)
        spread = ((x * x * weight).sum(2) - mean * mean).clamp(min=1e-6).sqrt()
        return self.embed(torch.cat([mean, spread], dim=1))

    def forward(self, features: Tensor) -> Tensor:
        """[batch, 64, frames] to logits [batch, classes]."""
        heard = self.hear(features)
        return self.out(self.dropout(self.embedding(heard, self.names(heard))))
