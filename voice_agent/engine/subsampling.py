"""8x causal subsampling, chunk by chunk, computing nothing twice.

Three stride-2, kernel-3 convolutions, causal in time: output j reads inputs 2j-2 .. 2j. A chunk
of 8·c mel frames therefore needs one input frame of the chunk before at each stage, and that is
what the slot keeps. NeMo's `dw_striding` ConvSubsampling keeps 9 mel frames instead and drops two
outputs; the numbers are the same, but for one frame (`_second_frame_bias`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from voice_agent.engine.slots import SlotPool


class Subsampling:
    """`encoder.pre_encode`: mel frames to encoder frames.

    The modules `conv.0`, `conv.2`/`conv.3` and `conv.5`/`conv.6` are the three stages; the latter
    two are depthwise and pointwise.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], n_mels: int, zero_frames: bool) -> None:
        """Take the weights, already on the device, under NeMo's names.

        Args:
            weights: `encoder.pre_encode.*`.
            n_mels: features a frame.
            zero_frames: compute the second frame as NeMo streams it, not as it is exactly.
        """
        self.zero_frames = zero_frames

        def get(name: str) -> tuple[torch.Tensor, torch.Tensor]:
            return weights[f"{name}.weight"], weights[f"{name}.bias"]

        self.first = get("conv.0")
        self.depthwise = (get("conv.2"), get("conv.5"))
        self.pointwise = (get("conv.3"), get("conv.6"))
        self.out = get("out")
        self.cached_freq = n_mels // 2 + 1, (n_mels // 2 + 1) // 2 + 1
        self.second_frame_bias = self._second_frame_bias()

    def _second_frame_bias(self) -> torch.Tensor:
        """What NeMo's zero frames add to stage 2 when right context is 0.

        At right context 0 a segment's second chunk has one mel frame before it, not nine; NeMo
        fills its cache with eight zero frames and convolves them, so that "before the segment"
        is relu(bias) behind the first stage where the first chunk saw 0. The reference being
        what it is, the second encoder frame has to see the same. Transformers keeps each stage's
        inputs, as we do, and has no such frame (`EncoderConfig.zero_frames`).

        Returns:
            shape (channels, freq2): to be added to the depthwise output of stage 2, frame 0.
        """
        weight, _ = self.depthwise[0]
        constant = torch.relu(self.first[1])[None, :, None, None]
        before = constant.expand(1, -1, 2, self.cached_freq[0])
        plane = torch.cat([before, torch.zeros_like(before[:, :, :1])], dim=2)
        padded = F.pad(plane, (2, 1))
        return F.conv2d(padded, weight, stride=2, groups=weight.shape[0])[0, :, 0]

    def __call__(
        self, mel: torch.Tensor, pool: SlotPool, slots: torch.Tensor, first: torch.Tensor
    ) -> torch.Tensor:
        """Subsample one chunk a lane and move the slots' caches on.

        Args:
            mel: shape (n, 8·chunk, n_mels). In a segment's first chunk the seven frames before
                the segment are whatever; they are masked here.
            pool: caches.
            slots: int64, shape (n,).
            first: bool, shape (n,): lanes whose segment begins with this chunk.

        Returns:
            shape (n, chunk, d_model).
        """
        chunk = mel.shape[1] // 8
        began = first[:, None, None]
        mel = torch.cat([_kept(pool.mel, slots, first)[:, None], _blank(mel, began, 7)], dim=1)
        pool.mel[slots] = mel[:, -1]
        x = self._causal(mel[:, None], self.first)
        x = _blank(torch.relu(x), began[..., None], 3, dim=2)
        x = torch.cat([_kept(pool.sub1, slots, first).transpose(1, 2)[:, :, None], x], dim=2)
        pool.sub1[slots] = x[:, :, -1].transpose(1, 2)

        depthwise = self._causal(x, self.depthwise[0])
        x = _blank(self._point(depthwise, 0), began[..., None], 1, dim=2)
        keep = x[:, :, -1:]
        if chunk == 1 and self.zero_frames:
            # Only right context 0 starts with a chunk of one frame.
            second = self._point(depthwise[:, :, -1:] + self.second_frame_bias[:, None], 0)
            keep = torch.where(began[..., None], second, keep)
        x = torch.cat([_kept(pool.sub2, slots, first).transpose(1, 2)[:, :, None], x], dim=2)
        pool.sub2[slots] = keep[:, :, 0].transpose(1, 2)

        x = self._point(self._causal(x, self.depthwise[1]), 1)
        x = x.transpose(1, 2).flatten(2)
        return F.linear(x, *self.out)

    @staticmethod
    def _causal(x: torch.Tensor, conv: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Stride 2 in both axes; time comes with its past, frequency is padded as NeMo does."""
        weight, bias = conv
        groups = x.shape[1] if weight.shape[1] == 1 else 1
        return F.conv2d(F.pad(x, (2, 1)), weight, bias, stride=2, groups=groups)

    def _point(self, x: torch.Tensor, stage: int) -> torch.Tensor:
        return torch.relu(F.conv2d(x, *self.pointwise[stage]))


def _kept(cache: torch.Tensor, slots: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """A cache's rows, zero where the segment begins: what lies there is the last segment's."""
    return cache.index_select(0, slots).masked_fill(first.view(-1, *[1] * (cache.dim() - 1)), 0.0)


def _blank(x: torch.Tensor, lanes: torch.Tensor, frames: int, dim: int = 1) -> torch.Tensor:
    """Zero the first `frames` frames of the lanes named: they lie before their segment."""
    index = torch.arange(x.shape[dim], device=x.device) < frames
    shape = [1] * x.dim()
    shape[dim] = -1
    return x.masked_fill(lanes & index.view(shape), 0.0)
