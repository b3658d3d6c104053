"""The offline Conformer in plain PyTorch, under the parameter names of NeMo's encoder.

It reads what NeMo's `ConformerEncoder` writes, is what `tiny-kn` is trained with, and is the
reference that the exported ONNX files are compared with.

    features [batch, mels, frames]  →  encoded [batch, d_model, frames / subsampling]

Every layer sees the whole segment; padding never reaches a real frame, so a segment's result is
the same alone and in a batch (up to rounding).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from voice_agent.engine.errors import UnsupportedCheckpoint


@dataclass(frozen=True, slots=True)
class ConformerConfig:
    """`encoder:` of a NeMo config under its own key names; the keys that change the network."""

    feat_in: int = 80
    n_layers: int = 17
    d_model: int = 512
    n_heads: int = 8
    subsampling: str = "striding"
    subsampling_factor: int = 4
    subsampling_conv_channels: int = -1
    ff_expansion_factor: int = 4
    conv_kernel_size: int = 31
    conv_norm_type: str = "batch_norm"
    xscaling: bool = True
    untie_biases: bool = True
    use_bias: bool = True

    @classmethod
    def from_nemo(cls, encoder: dict[str, Any], model: str = "checkpoint") -> ConformerConfig:
        """Take the keys that matter and refuse what this network does not do.

        Raises:
            UnsupportedCheckpoint: another attention, subsampling or norm, a limited context.
        """
        known = {f.name for f in fields(cls)}
        config = cls(**{k: v for k, v in encoder.items() if k in known and v is not None})
        context = encoder.get("att_context_size") or [-1, -1]
        problems = []
        if config.subsampling not in ("striding", "dw_striding"):
            problems.append(f"subsampling {config.subsampling!r}")
        if config.conv_norm_type not in ("batch_norm", "layer_norm"):
            problems.append(f"conv_norm_type {config.conv_norm_type!r}")
        if encoder.get("self_attention_model", "rel_pos") != "rel_pos":
            problems.append(f"self_attention_model {encoder['self_attention_model']!r}")
        if list(context) not in ([-1, -1], [[-1, -1]]):
            problems.append(f"att_context_size {context}")
        if encoder.get("causal_downsampling") or encoder.get("conv_context_size") == "causal":
            problems.append("causal convolutions")
        if not config.untie_biases:
            problems.append("tied position biases")
        if problems:
            raise UnsupportedCheckpoint(
                model, f"the offline Conformer does not serve {', '.join(problems)}"
            )
        return config

    @property
    def channels(self) -> int:
        """Channels of the subsampling convolutions; -1 in a config means d_model."""
        c = self.subsampling_conv_channels
        return self.d_model if c < 0 else c


def frame_mask(lengths: Tensor, frames: int) -> Tensor:
    """True where a frame is padding; bool, shape (batch, frames)."""
    return torch.arange(frames, device=lengths.device)[None, :] >= lengths[:, None]


class Subsampling(nn.Module):
    """Strided convolutions over time and mel bins; halves both at each stage."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        stages = int(math.log2(config.subsampling_factor))
        c = config.channels
        layers: list[nn.Module] = []
        for stage in range(stages):
            if stage == 0:
                layers.append(nn.Conv2d(1, c, 3, 2, 1))
            elif config.subsampling == "striding":
                layers.append(nn.Conv2d(c, c, 3, 2, 1))
            else:
                layers += [nn.Conv2d(c, c, 3, 2, 1, groups=c), nn.Conv2d(c, c, 1)]
            layers.append(nn.ReLU())
        self.conv = nn.Sequential(*layers)
        bins = config.feat_in
        for _ in range(stages):
            bins = (bins + 1) // 2
        self.out = nn.Linear(c * bins, config.d_model)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, mels, frames) to (batch, frames / factor, d_model), and the new lengths."""
        x = features.transpose(1, 2).unsqueeze(1)  # [batch, 1, frames, mels]
        x = x.masked_fill(frame_mask(lengths, x.shape[2])[:, None, :, None], 0.0)
        for layer in self.conv:
            x = layer(x)
            if isinstance(layer, nn.Conv2d):
                if layer.stride[0] == 2:
                    lengths = torch.div(lengths - 1, 2, rounding_mode="floor") + 1
                x = x.masked_fill(frame_mask(lengths, x.shape[2])[:, None, :, None], 0.0)
        x = x.transpose(1, 2).flatten(2)
        return self.out(x), lengths


def relative_positions(frames: Tensor, d_model: int) -> Tensor:
    """Sinusoids of the distances frames - 1 down to -(frames - 1).

    Source: Dai et al. 2019, Transformer-XL, section 3.3; sine and cosine interleaved as in NeMo.

    Args:
        frames: int64 scalar, so that an exported graph follows the length.
        d_model: width.

    Returns:
        float32, shape (2 * frames - 1, d_model).
    """
    top: Any = frames  # the stubs know no tensor here, though the exporter needs one
    distance = torch.arange(top - 1, -top, -1, device=frames.device).to(torch.float32)
    rate = torch.exp(
        torch.arange(0, d_model, 2, device=frames.device).to(torch.float32)
        * -(math.log(10_000.0) / d_model)
    )
    angle = distance[:, None] * rate[None, :]
    return torch.stack([torch.sin(angle), torch.cos(angle)], dim=2).flatten(1)


class RelativeAttention(nn.Module):
    """Multi-head attention with relative positions; same source as `relative_positions`."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        d, self.heads = config.d_model, config.n_heads
        self.d_head = d // config.n_heads
        self.linear_q = nn.Linear(d, d, bias=config.use_bias)
        self.linear_k = nn.Linear(d, d, bias=config.use_bias)
        self.linear_v = nn.Linear(d, d, bias=config.use_bias)
        self.linear_out = nn.Linear(d, d, bias=config.use_bias)
        self.linear_pos = nn.Linear(d, d, bias=False)
        self.pos_bias_u = nn.Parameter(torch.zeros(self.heads, self.d_head))
        self.pos_bias_v = nn.Parameter(torch.zeros(self.heads, self.d_head))

    def forward(self, x: Tensor, positions: Tensor, padded: Tensor) -> Tensor:
        """(batch, frames, d_model) in and out; `padded` is (batch, frames), True for padding."""
        batch, frames, d = x.shape

        def split(y: Tensor) -> Tensor:  # [n, frames, d] -> [n, heads, frames, d_head]
            return y.view(y.shape[0], y.shape[1], self.heads, self.d_head).transpose(1, 2)

        q = self.linear_q(x).view(batch, frames, self.heads, self.d_head)
        k, v = split(self.linear_k(x)), split(self.linear_v(x))
        p = split(self.linear_pos(positions).unsqueeze(0))
        content = torch.matmul((q + self.pos_bias_u).transpose(1, 2), k.transpose(2, 3))
        place = torch.matmul((q + self.pos_bias_v).transpose(1, 2), p.transpose(2, 3))
        # Row i holds distances frames-1 … -(frames-1) from frame i; reading the padded rows one
        # column later each shifts every row to its own zero.
        place = nn.functional.pad(place, (1, 0))
        place = place.view(batch, self.heads, -1, frames)[:, :, 1:]
        place = place.reshape(batch, self.heads, frames, -1)[:, :, :, :frames]
        scores = (content + place) / math.sqrt(self.d_head)
        hidden = padded[:, None, None, :]
        weights = torch.softmax(scores.masked_fill(hidden, -10_000.0), dim=-1)
        weights = weights.masked_fill(hidden, 0.0)
        mixed = torch.matmul(weights, v).transpose(1, 2).reshape(batch, frames, d)
        return self.linear_out(mixed)


class FeedForward(nn.Module):
    """Two linear layers with SiLU between."""

    def __init__(self, config: ConformerConfig, dropout: float) -> None:
        super().__init__()
        inner = config.d_model * config.ff_expansion_factor
        self.linear1 = nn.Linear(config.d_model, inner, bias=config.use_bias)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(inner, config.d_model, bias=config.use_bias)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, frames, d_model) in and out."""
        return self.linear2(self.dropout(nn.functional.silu(self.linear1(x))))


class Convolution(nn.Module):
    """Gated pointwise, depthwise over time, norm, SiLU, pointwise."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        d, k = config.d_model, config.conv_kernel_size
        self.pointwise_conv1 = nn.Conv1d(d, 2 * d, 1, bias=config.use_bias)
        self.depthwise_conv = nn.Conv1d(
            d, d, k, padding=(k - 1) // 2, groups=d, bias=config.use_bias
        )
        self.by_frame = config.conv_norm_type == "layer_norm"
        self.batch_norm = nn.LayerNorm(d) if self.by_frame else nn.BatchNorm1d(d)
        self.pointwise_conv2 = nn.Conv1d(d, d, 1, bias=config.use_bias)

    def forward(self, x: Tensor, padded: Tensor) -> Tensor:
        """(batch, frames, d_model) in and out; `padded` is (batch, frames)."""
        x = nn.functional.glu(self.pointwise_conv1(x.transpose(1, 2)), dim=1)
        x = self.depthwise_conv(x.masked_fill(padded[:, None, :], 0.0))
        if self.by_frame:
            x = self.batch_norm(x.transpose(1, 2)).transpose(1, 2)
        else:
            x = self.batch_norm(x)
        return self.pointwise_conv2(nn.functional.silu(x)).transpose(1, 2)


class Layer(nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward (Gulati et al. 2020)."""

    def __init__(self, config: ConformerConfig, dropout: float) -> None:
        super().__init__()
        d = config.d_model
        self.norm_feed_forward1, self.feed_forward1 = nn.LayerNorm(d), FeedForward(config, dropout)
        self.norm_self_att, self.self_attn = nn.LayerNorm(d), RelativeAttention(config)
        self.norm_conv, self.conv = nn.LayerNorm(d), Convolution(config)
        self.norm_feed_forward2, self.feed_forward2 = nn.LayerNorm(d), FeedForward(config, dropout)
        self.norm_out = nn.LayerNorm(d)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor, padded: Tensor) -> Tensor:
        """(batch, frames, d_model) in and out."""
        x = x + 0.5 * self.dropout(self.feed_forward1(self.norm_feed_forward1(x)))
        x = x + self.dropout(self.self_attn(self.norm_self_att(x), positions, padded))
        x = x + self.dropout(self.conv(self.norm_conv(x), padded))
        x = x + 0.5 * self.dropout(self.feed_forward2(self.norm_feed_forward2(x)))
        return self.norm_out(x)


class Conformer(nn.Module):
    """The encoder: subsampling, positions, `n_layers` layers."""

    def __init__(self, config: ConformerConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.pre_encode = Subsampling(config)
        self.layers = nn.ModuleList(Layer(config, dropout) for _ in range(config.n_layers))
        self.dropout = nn.Dropout(dropout)

    def forward(self, audio_signal: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a batch of features.

        Args:
            audio_signal: float32, shape (batch, mels, frames).
            length: int64, shape (batch,): frames of each row that are real.

        Returns:
            float32 of shape (batch, d_model, frames / subsampling), and int64 (batch,).
        """
        x, lengths = self.pre_encode(audio_signal, length)
        if self.config.xscaling:
            x = x * math.sqrt(self.config.d_model)
        frames = torch._shape_as_tensor(x)[1].to(x.device)
        positions = relative_positions(frames, self.config.d_model).to(x.dtype)
        padded = frame_mask(lengths, x.shape[1])
        x = self.dropout(x)
        for layer in self.layers:
            x = layer(x, positions, padded)
        return x.transpose(1, 2), lengths


class CtcHead(nn.Module):
    """Log-probabilities of every token and of the blank, which is last."""

    def __init__(self, d_model: int, classes: int) -> None:
        super().__init__()
        self.decoder_layers = nn.Sequential(nn.Conv1d(d_model, classes, 1))

    def forward(self, encoder_output: Tensor) -> Tensor:
        """(batch, d_model, frames) to (batch, frames, classes)."""
        return torch.log_softmax(self.decoder_layers(encoder_output).transpose(1, 2), dim=-1)
