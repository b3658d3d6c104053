"""The encoder's step in few operations: for a CPU, in float32.

In a step of one stream of a small model an operation takes longer to start than to compute, and
the rest of the time goes into reading weights. This is `Encoder`, over the same slot pool, with
fewer and quicker operations:

* rows of all lanes lie in one matrix; halves and scales are multiplied into weights at load;
* a matrix lies in memory in the order that a product with one row reads it fastest in;
* which places of a ring a chunk reads and writes depends on its position alone: tables know it;
* a segment's first chunk clears its slot, so that no other chunk has anything to mask;
* a lone stream's state is used where it lies; that of several is gathered (`lean_state`).

`Encoder` is the one to read first: this is held to it, and both to NeMo.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from voice_agent.engine.encoder import Encoder, LayerWeights, Plain
from voice_agent.engine.lean_state import Alone, Places, Rows, Together
from voice_agent.engine.lean_subsampling import LeanSubsampling
from voice_agent.engine.quant import Affine, Int8Matrix, linear
from voice_agent.engine.slots import SlotPool

Matrix = tuple[torch.Tensor | Int8Matrix, torch.Tensor | None]
"""An `Affine`, but a float matrix has shape (inputs, outputs)."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """`LayerWeights`, laid out for this step; the scores' scale lies in qkv and `biases`."""

    norm_ff1: Plain
    ff1: tuple[Matrix, Matrix]
    norm_att: Plain
    qkv: Matrix
    biases: torch.Tensor  # [2, 1, head, d_head]: u and v
    table: torch.Tensor  # [head, d_head, distances]
    out: Matrix
    norm_conv: Plain
    point1: Matrix
    taps: torch.Tensor  # [kernel, d_model]
    taps_bias: torch.Tensor | None
    conv_norm: Plain | None
    point2: Matrix
    norm_ff2: Plain
    ff2: tuple[Matrix, Matrix]
    norm_out: Plain

    @classmethod
    def of(cls, w: LayerWeights) -> _Layer:
        """Lay one layer out."""
        heads, _, d_head = w.positions.shape
        scale = 1 / math.sqrt(d_head)
        return cls(
            norm_ff1=w.norm_ff1,
            ff1=(_matrix(w.ff1[0]), _matrix(w.ff1[1], 0.5)),
            norm_att=w.norm_att,
            qkv=_matrix(w.qkv, scale, outputs=heads * d_head),
            biases=torch.stack([w.bias_u, w.bias_v])[:, None] * scale,
            table=w.positions.mT.contiguous(),
            out=_matrix(w.out),
            norm_conv=w.norm_conv,
            point1=_matrix(w.point1),
            taps=w.depthwise[0][:, 0].t().contiguous(),
            taps_bias=w.depthwise[1],
            conv_norm=w.conv_norm,
            point2=_matrix(w.point2),
            norm_ff2=w.norm_ff2,
            ff2=(_matrix(w.ff2[0]), _matrix(w.ff2[1], 0.5)),
            norm_out=w.norm_out,
        )


def _matrix(pair: Affine, factor: float = 1.0, outputs: int | None = None) -> Matrix:
    """Lay a matrix out, its first `outputs` outputs (None: all) multiplied."""
    weight, bias = pair
    if bias is not None:
        bias = bias.clone()
        bias[:outputs] *= factor
    if isinstance(weight, Int8Matrix):
        scale = weight.scale.clone()
        scale[:outputs] *= factor
        return Int8Matrix(weight.data, scale), bias
    if factor != 1.0:
        weight = weight.clone()
        weight[:outputs] *= factor
    # One row times it: with more outputs than inputs, best if an input's weights lie together.
    wide = weight.shape[0] > weight.shape[1]
    return (weight.t().contiguous() if wide else weight.t()), bias


class LeanEncoder:
    """All layers; weights only, the state is the pool's."""

    def __init__(self, plain: Encoder, pool: SlotPool) -> None:
        """Lay the weights of `plain` out anew.

        Args:
            plain: float32, on the CPU.
            pool: that steps will be over.
        """
        c = self.config = plain.config
        self._pool = pool
        self._subsampling = LeanSubsampling(plain.subsampling)
        self._layers = [_Layer.of(w) for w in plain.layers]
        self._places = {
            right: Places(pool, chunk=right + 1, left=c.left(right), max_chunk=plain.max_chunk)
            for right in c.right_contexts
        }
        self._alone: dict[int, Alone] = {}

    def __call__(
        self, mel: torch.Tensor, slots: torch.Tensor, pos: torch.Tensor, right: int
    ) -> torch.Tensor:
        """Encode one chunk a lane and move the slots on; see `Encoder.__call__`."""
        at = pos.tolist()
        first = [lane for lane, position in enumerate(at) if position == 0]
        x = self._subsampling(mel, self._pool, slots, first)
        if self.config.xscaling:
            x *= self.config.d_model**0.5
        if first:
            self._pool.conv[:, slots[first]] = 0.0
        rows = self._places[right].at(at)
        state = self._state(slots, rows)
        for i, w in enumerate(self._layers):
            x += _feed_forward(_norm(x, w.norm_ff1), w.ff1)
            x += self._attention(i, w, _norm(x, w.norm_att), state, rows)
            x += self._convolution(i, w, _norm(x, w.norm_conv), state, rows)
            x += _feed_forward(_norm(x, w.norm_ff2), w.ff2)
            x = _norm(x, w.norm_out)
        return x.view(len(at), right + 1, -1)

    def _state(self, slots: torch.Tensor, rows: Rows) -> Alone | Together:
        if len(slots) > 1:
            return Together(self._pool, slots, rows)
        slot = int(slots[0])
        if slot not in self._alone:
            self._alone[slot] = Alone(self._pool, slot)
        return self._alone[slot].at(rows)

    def _attention(
        self, layer: int, w: _Layer, x: torch.Tensor, state: Alone | Together, rows: Rows
    ) -> torch.Tensor:
        """See `attention.rel_attention`; x of shape (n · chunk, d_model)."""
        n, chunk = rows.written.shape
        heads, d_head, _ = w.table.shape
        qkv = _linear(x, w.qkv).view(n * chunk, 3, heads, d_head).transpose(0, 1)
        k, v = state.attended(layer, qkv[1:]).unbind(0)  # [n · head, ring, d_head]
        near, far = (qkv[:1] + w.biases).unbind(0)  # [n · chunk, head, d_head]
        by_distance = torch.bmm(far.transpose(0, 1), w.table)
        bias = by_distance.gather(2, rows.index.expand(heads, -1, -1)).add_(rows.unseen)
        scores = torch.baddbmm(
            bias.view(heads, n, chunk, -1).transpose(0, 1).reshape(n * heads, chunk, -1),
            near.view(n, chunk, heads, d_head).transpose(1, 2).reshape(n * heads, chunk, -1),
            k.mT,
        )
        out = torch.bmm(scores.softmax(-1), v).view(n, heads, chunk, d_head)
        return _linear(out.transpose(1, 2).reshape(n * chunk, -1), w.out)

    def _convolution(
        self, layer: int, w: _Layer, x: torch.Tensor, state: Alone | Together, rows: Rows
    ) -> torch.Tensor:
        n, chunk = rows.written.shape
        x = F.glu(_linear(x, w.point1), dim=-1).view(n, chunk, -1)
        x = _slid(state.with_past(layer, x), w.taps).view(n * chunk, -1)
        if w.taps_bias is not None:
            x += w.taps_bias
        if w.conv_norm is not None:
            x = _norm(x, w.conv_norm)
        return _linear(F.silu(x, inplace=True), w.point2)


def _slid(x: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    """Slide taps (kernel, d) over frames (n, kernel - 1 + chunk, d); shape (n, chunk, d)."""
    if x.shape[1] == len(taps):
        return (x * taps).sum(1)
    return (x.unfold(1, len(taps), 1).transpose(2, 3) * taps).sum(2)


def _linear(x: torch.Tensor, matrix: Matrix) -> torch.Tensor:
    weight, bias = matrix
    if isinstance(weight, Int8Matrix):
        return linear(x, matrix)
    return torch.mm(x, weight) if bias is None else torch.addmm(bias, x, weight)


def _norm(x: torch.Tensor, affine: Plain) -> torch.Tensor:
    return torch.layer_norm(x, x.shape[-1:], *affine)


def _feed_forward(x: torch.Tensor, w: tuple[Matrix, Matrix]) -> torch.Tensor:
    return _linear(F.silu(_linear(x, w[0]), inplace=True), w[1])
