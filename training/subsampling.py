"""From log-mel to frames of 80 ms: NeMo's `dw_striding`, causal, with its parameter names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from training.fastconformer import ModelShape


def subsampled_length(frames: Tensor | int) -> Tensor | int:
    """Return how many encoder frames come from mel frames: three causal stages of stride 2."""
    for _ in range(3):
        frames = frames // 2 + 1
    return frames


class CausalSubsampling(nn.Module):
    """`dw_striding` by 8: three causal stride-2 convolutions, the last two depthwise separable."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        c = shape.subsampling_conv_channels
        self.conv = nn.Sequential(
            nn.Conv2d(1, c, 3, stride=2),
            nn.ReLU(),
            nn.Conv2d(c, c, 3, stride=2, groups=c),
            nn.Conv2d(c, c, 1),
            nn.ReLU(),
            nn.Conv2d(c, c, 3, stride=2, groups=c),
            nn.Conv2d(c, c, 1),
            nn.ReLU(),
        )
        self.out = nn.Linear(c * int(subsampled_length(shape.feat_in)), shape.d_model)

    @torch.no_grad()
    def expect(self, values: Tensor) -> None:
        """Fold the mean and deviation of log-mel values into the first convolution.

        The features are not normalised (about -8 +- 5), as the real model's are not; without this
        the constant drowns the signal and learning stalls.
        """
        mean, deviation, first = values.mean(), values.std(), self.conv[0]
        first.bias -= first.weight.sum((1, 2, 3)) * mean / deviation
        first.weight /= deviation

    def forward(self, mel: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Map [batch, mels, frames] and its lengths to [batch, frames / 8, d_model] and theirs."""
        if mel.device.type == "cpu":
            # oneDNN's depthwise gradients are three times slower in bfloat16 than in float32.
            with torch.autocast("cpu", enabled=False):
                return self._forward(mel.float(), lengths)
        return self._forward(mel, lengths)

    def _forward(self, mel: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x = mel.transpose(1, 2).unsqueeze(1)
        for index, layer in enumerate(self.conv):
            if index in (0, 2, 5):
                # Frames past the end are silenced before every convolution in time.
                frames = torch.arange(x.shape[2], device=x.device)
                x = x * (frames < lengths[:, None])[:, None, :, None]
                x = F.pad(x, (2, 1, 2, 1))
                x = layer(x) if index else self._first(x)
                lengths = lengths // 2 + 1
            else:
                x = layer(x)
        frames = torch.arange(x.shape[2], device=x.device)
        x = x * (frames < lengths[:, None])[:, None, :, None]
        batch, channels, length, mels = x.shape
        return self.out(x.transpose(1, 2).reshape(batch, length, channels * mels)), lengths

    def _first(self, x: Tensor) -> Tensor:
        """The first convolution as a product of patches, which is faster for one channel."""
        patches = x.squeeze(1).unfold(1, 3, 2).unfold(2, 3, 2).flatten(3)
        return F.linear(patches, self.conv[0].weight.flatten(1), self.conv[0].bias).permute(
            0, 3, 1, 2
        )
