"""The cache-aware FastConformer, one chunk of frames at a time.

A layer is x + ½·FF(x), + attention, + convolution, + ½·FF, LayerNorm (nemo ConformerLayer). The
past comes from the slot pool: K and V in a ring, and the last inputs of the depthwise
convolution. Eager PyTorch; every tensor keeps the layout that a captured step will want.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from voice_agent.engine.attention import (
    distance_index,
    position_table,
    rel_attention,
    ring_positions,
)
from voice_agent.engine.config import EncoderConfig
from voice_agent.engine.quant import Affine, linear, quantized
from voice_agent.engine.slots import SlotPool
from voice_agent.engine.subsampling import Subsampling

Plain = tuple[torch.Tensor, torch.Tensor | None]


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One conformer layer; each pair is (weight, bias or None), an `Affine` may be in 8 bits."""

    norm_ff1: Plain
    ff1: tuple[Affine, Affine]
    norm_att: Plain
    qkv: Affine
    out: Affine
    bias_u: torch.Tensor
    bias_v: torch.Tensor
    positions: torch.Tensor  # [head, distances, d_head]
    norm_conv: Plain
    point1: Affine
    depthwise: Plain
    conv_norm: Plain | None  # None: batch norm, folded into the depthwise convolution
    point2: Affine
    norm_ff2: Plain
    ff2: tuple[Affine, Affine]
    norm_out: Plain

    @classmethod
    def read(
        cls, weights: Mapping[str, torch.Tensor], config: EncoderConfig, table: torch.Tensor
    ) -> LayerWeights:
        """Take one layer's weights under NeMo's names; fuse q, k, v and project positions."""

        def pair(name: str) -> Plain:
            return weights[f"{name}.weight"], weights.get(f"{name}.bias")

        def point(name: str) -> Plain:
            weight, bias = pair(name)
            return weight.squeeze(-1), bias

        q, k, v = (pair(f"self_attn.linear_{x}") for x in "qkv")
        bias = torch.cat([q[1], k[1], v[1]]) if q[1] is not None else None  # type: ignore[list-item]
        positions = F.linear(table, weights["self_attn.linear_pos.weight"])
        positions = positions.view(len(table), config.n_heads, -1).transpose(0, 1).contiguous()
        depthwise, conv_norm = pair("conv.depthwise_conv"), pair("conv.batch_norm")
        if config.conv_norm_type == "batch_norm":
            depthwise, conv_norm = _fold(weights, depthwise, conv_norm), None  # type: ignore[assignment]
        return cls(
            norm_ff1=pair("norm_feed_forward1"),
            ff1=(pair("feed_forward1.linear1"), pair("feed_forward1.linear2")),
            norm_att=pair("norm_self_att"),
            qkv=(torch.cat([q[0], k[0], v[0]]), bias),
            out=pair("self_attn.linear_out"),
            bias_u=weights["self_attn.pos_bias_u"],
            bias_v=weights["self_attn.pos_bias_v"],
            positions=positions,
            norm_conv=pair("norm_conv"),
            point1=point("conv.pointwise_conv1"),
            depthwise=depthwise,
            conv_norm=conv_norm,
            point2=point("conv.pointwise_conv2"),
            norm_ff2=pair("norm_feed_forward2"),
            ff2=(pair("feed_forward2.linear1"), pair("feed_forward2.linear2")),
            norm_out=pair("norm_out"),
        )


def _fold(weights: Mapping[str, torch.Tensor], conv: Plain, norm: Plain) -> Plain:
    """Batch norm at inference is an affine map of each channel: fold it into the convolution."""
    variance, mean = weights["conv.batch_norm.running_var"], weights["conv.batch_norm.running_mean"]
    gain = norm[0] * torch.rsqrt(variance + 1e-5)
    bias = conv[1] if conv[1] is not None else torch.zeros_like(mean)
    shift = norm[1] if norm[1] is not None else torch.zeros_like(mean)
    return conv[0] * gain[:, None, None], (bias - mean) * gain + shift


@dataclass(frozen=True, slots=True)
class Where:
    """Which places of the slots a chunk reads and writes; the same for all layers.

    Attributes:
        slots: int64, shape (n,).
        places: int64, shape (n, chunk): of the K, V ring, written.
        index: int64, shape (n, chunk, ring): rows of the position table.
        visible: bool, shape (n, 1, 1, ring): of the K, V ring.
        conv_read: int64, shape (n, kernel - 1): of the convolution's ring, oldest first.
        conv_before: bool, shape (n, kernel - 1, 1): before the segment, so zero.
        conv_write: int64, shape (n, at most kernel - 1): of the convolution's ring.
    """

    slots: torch.Tensor
    places: torch.Tensor
    index: torch.Tensor
    visible: torch.Tensor
    conv_read: torch.Tensor
    conv_before: torch.Tensor
    conv_write: torch.Tensor

    @classmethod
    def of(
        cls,
        pool: SlotPool,
        slots: torch.Tensor,
        pos: torch.Tensor,
        chunk: int,
        left: int,
        max_chunk: int,
    ) -> Where:
        """Compute it for lanes at `pos`; see `distance_index` for the rest."""
        new = pos[:, None] + torch.arange(chunk, device=pos.device)
        held = ring_positions(pos, chunk, pool.ring)
        index, visible = distance_index(pos, held, chunk=chunk, left=left, max_chunk=max_chunk)
        kept = pool.conv.shape[2]
        past = pos[:, None] + torch.arange(-kept, 0, device=pos.device)
        return cls(
            slots=slots,
            places=new % pool.ring,
            index=index,
            visible=visible,
            conv_read=past % kept,
            conv_before=(past < 0)[..., None],
            conv_write=new[:, -kept:] % kept,
        )


class Encoder:
    """All layers; weights only, the state is the pool's."""

    def __init__(self, weights: Mapping[str, torch.Tensor], config: EncoderConfig) -> None:
        """Take `encoder.*` of a state dict, on the device and in the dtype to compute in."""
        self.config = config
        self.max_chunk = max(config.right_contexts) + 1
        any_weight = weights["layers.0.norm_out.weight"]
        table = position_table(config.d_model, config.max_left, self.max_chunk).to(any_weight)
        self.subsampling = Subsampling(
            _under(weights, "pre_encode."), config.feat_in, config.zero_frames
        )
        self.layers = [
            LayerWeights.read(_under(weights, f"layers.{i}."), config, table)
            for i in range(config.n_layers)
        ]

    def quantize(self) -> None:
        """Keep the layers' matrices in 8 bits from now on."""
        for i, w in enumerate(self.layers):
            self.layers[i] = replace(
                w,
                ff1=(quantized(w.ff1[0]), quantized(w.ff1[1])),
                qkv=quantized(w.qkv),
                out=quantized(w.out),
                point1=quantized(w.point1),
                point2=quantized(w.point2),
                ff2=(quantized(w.ff2[0]), quantized(w.ff2[1])),
            )

    def __call__(
        self,
        mel: torch.Tensor,
        pool: SlotPool,
        slots: torch.Tensor,
        pos: torch.Tensor,
        right: int,
    ) -> torch.Tensor:
        """Encode one chunk a lane and move the slots on.

        Args:
            mel: shape (n, 8·(right + 1), n_mels).
            pool: state.
            slots: int64, shape (n,): distinct.
            pos: int64, shape (n,): encoder frames of the segment before this chunk.
            right: look-ahead in frames, one of the checkpoint's.

        Returns:
            shape (n, right + 1, d_model).
        """
        c = self.config
        x = self.subsampling(mel, pool, slots, pos == 0)
        if c.xscaling:
            x = x * c.d_model**0.5
        where = Where.of(pool, slots, pos, right + 1, c.left(right), self.max_chunk)
        for i, w in enumerate(self.layers):
            x = x + 0.5 * _feed_forward(_norm(x, w.norm_ff1), w.ff1)
            x = x + self._attention(i, w, _norm(x, w.norm_att), pool, where)
            x = x + self._convolution(i, w, _norm(x, w.norm_conv), pool, where)
            x = x + 0.5 * _feed_forward(_norm(x, w.norm_ff2), w.ff2)
            x = _norm(x, w.norm_out)
        return x

    def _attention(
        self, layer: int, w: LayerWeights, x: torch.Tensor, pool: SlotPool, where: Where
    ) -> torch.Tensor:
        n, chunk, _ = x.shape
        q, k, v = linear(x, w.qkv).view(n, chunk, 3, self.config.n_heads, -1).unbind(2)
        lanes = where.slots[:, None]
        pool.k[layer].transpose(1, 2)[lanes, where.places] = k
        pool.v[layer].transpose(1, 2)[lanes, where.places] = v
        out = rel_attention(
            q,
            pool.k[layer].index_select(0, where.slots),
            pool.v[layer].index_select(0, where.slots),
            bias_u=w.bias_u,
            bias_v=w.bias_v,
            table=w.positions,
            index=where.index,
            visible=where.visible,
        )
        return linear(out, w.out)

    def _convolution(
        self, layer: int, w: LayerWeights, x: torch.Tensor, pool: SlotPool, where: Where
    ) -> torch.Tensor:
        x = F.glu(linear(x, w.point1), dim=-1)
        lanes, cache = where.slots[:, None], pool.conv[layer]
        past = cache[lanes, where.conv_read].masked_fill(where.conv_before, 0.0)
        written = where.conv_write.shape[1]
        cache[lanes, where.conv_write] = x[:, -written:]
        # For the few frames of a chunk this is many times as fast as conv1d on a CPU.
        x = torch.cat([past, x], dim=1).unfold(1, self.config.conv_kernel_size, 1)
        weight, bias = w.depthwise
        x = (x * weight[:, 0]).sum(-1)
        if bias is not None:
            x = x + bias
        if w.conv_norm is not None:
            x = _norm(x, w.conv_norm)
        return linear(F.silu(x), w.point2)


def _norm(x: torch.Tensor, affine: Plain) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], *affine)


def _feed_forward(x: torch.Tensor, w: tuple[Affine, Affine]) -> torch.Tensor:
    return linear(F.silu(linear(x, w[0])), w[1])


def _under(weights: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}
