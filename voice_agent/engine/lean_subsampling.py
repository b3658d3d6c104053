"""`Subsampling` with frequency before channels, in few operations: for a CPU, in float32.

A chunk of one stream is a few thousand numbers. Convolutions of a library take ten times as long to
set up as to compute there, so each stage is its windows times its taps, as one product.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from voice_agent.engine.slots import SlotPool
from voice_agent.engine.subsampling import Subsampling

_TAPS = 3
_STRIDE = 2
_BEFORE = 7, 3, 1
"""Frames of a segment's first chunk that lie before the segment: of the input of each stage."""


class LeanSubsampling:
    """The same function of the same weights."""

    def __init__(self, plain: Subsampling) -> None:
        """Lay the weights out anew."""
        weight, bias = plain.first
        self._first = weight.flatten(1).t().contiguous(), bias
        self._depthwise = [(w[:, 0].permute(1, 2, 0).contiguous(), b) for w, b in plain.depthwise]
        self._pointwise = [(w.flatten(1).t().contiguous(), b) for w, b in plain.pointwise]
        weight, bias = plain.out
        freq = weight.shape[1] // len(self._first[1])
        weight = weight.view(len(weight), -1, freq).transpose(1, 2).flatten(1)
        self._out = weight.contiguous(), bias
        self._zero_frames = plain.zero_frames
        self._second = plain.second_frame_bias.t().contiguous()  # [freq2, channels]

    def __call__(
        self, mel: torch.Tensor, pool: SlotPool, slots: torch.Tensor, first: Sequence[int]
    ) -> torch.Tensor:
        """See `Subsampling.__call__`.

        Args:
            mel: shape (n, 8·chunk, n_mels).
            pool: caches.
            slots: int64, shape (n,).
            first: lanes whose segment begins with this chunk.

        Returns:
            shape (n · chunk, d_model).
        """
        chunk = mel.shape[1] // 8
        if first:
            began = slots[first]
            for cache in (pool.mel, pool.sub1, pool.sub2):
                cache[began] = 0.0
        x = self._with_past(mel[..., None], pool.mel[..., None], slots, first, _BEFORE[0])
        windows = x[..., 0].unfold(1, _TAPS, _STRIDE).unfold(2, _TAPS, _STRIDE)
        x = _rectified(windows.reshape(-1, _TAPS**2), self._first)
        x = x.view(*windows.shape[:3], -1)
        x = self._with_past(x, pool.sub1, slots, first, _BEFORE[1])
        spread = _depthwise(x, self._depthwise[0])
        x = self._point(spread, 0)
        keep = None
        if first and chunk == 1 and self._zero_frames:
            keep = self._point(spread[first][:, -1:] + self._second, 0)[:, 0]
        x = self._with_past(x, pool.sub2, slots, first, _BEFORE[2])
        if keep is not None:
            pool.sub2[slots[first]] = keep
        x = self._point(_depthwise(x, self._depthwise[1]), 1)
        return F.linear(x.view(len(mel) * chunk, -1), *self._out)

    @staticmethod
    def _with_past(
        x: torch.Tensor, cache: torch.Tensor, slots: torch.Tensor, first: Sequence[int], before: int
    ) -> torch.Tensor:
        """One frame of the past in front, and NeMo's padding of the frequencies: 2 and 1.

        Args:
            x: shape (n, frames, freq, channels); what lies before a segment is set to zero in it.
            cache: shape (slots, freq, channels); moved on.
            slots: int64, shape (n,).
            first: lanes whose segment begins.
            before: frames of theirs that lie before the segment.
        """
        if first:
            x[first, :before] = 0.0
        n, frames, freq, channels = x.shape
        out = x.new_zeros(n, 1 + frames, 2 + freq + 1, channels)
        inner = out[:, :, 2:-1]
        inner[:, 0] = cache[slots]
        inner[:, 1:] = x
        cache[slots] = x[:, -1]
        return out

    def _point(self, x: torch.Tensor, stage: int) -> torch.Tensor:
        """Mix channels; shape (n, frames, freq, channels)."""
        return _rectified(x.view(-1, x.shape[-1]), self._pointwise[stage]).view(x.shape)


def _depthwise(x: torch.Tensor, conv: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Stride 2 in both axes: (n, frames, freq, channels) to about a quarter."""
    taps, bias = conv
    windows = x.unfold(1, _TAPS, _STRIDE).unfold(2, _TAPS, _STRIDE)
    return (windows.permute(0, 1, 2, 4, 5, 3) * taps).sum((3, 4)).add_(bias)


def _rectified(rows: torch.Tensor, affine: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    weight, bias = affine
    return torch.addmm(bias, rows, weight).relu_()
