"""Cache-aware FastConformer-RNNT in plain PyTorch, with NeMo's parameter names.

The whole-utterance forward used for training and measuring. Chunk masks make it equal, frame by
frame, to streaming with the same right context, so one forward trains all four latencies.

    mel     [batch, mels, frames]        log-mel, 10 ms a frame
    encoded [batch, frames / 8, d_model] 80 ms a frame
    joint   [batch, frames / 8, tokens + 1, vocab + 1]; the last class is the blank

Names and mathematics follow NeMo's ``EncDecRNNTBPEModel`` (Conformer encoder with ``dw_striding``
causal subsampling, ``rel_pos`` attention, ``layer_norm`` causal convolution), so a state dict moves
between the two unchanged. ``tests/training`` compares them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.subsampling import CausalSubsampling

MASKED_SCORE = -10000.0  # NeMo's own finite stand-in for minus infinity
IMPOSSIBLE = -1000.0  # as a logit: its exponential is zero, and differences stay numbers


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What the sizes of the model depend on; every field is a key of NeMo's config."""

    feat_in: int = 80
    d_model: int = 192
    n_layers: int = 12
    n_heads: int = 4
    ff_expansion_factor: int = 4
    conv_kernel_size: int = 9
    subsampling_conv_channels: int = 64
    pred_hidden: int = 256
    joint_hidden: int = 256
    vocab_size: int = 256
    att_context_size: tuple[tuple[int, int], ...] = ((70, 13), (70, 6), (70, 1), (70, 0))
    dropout: float = 0.1


def relative_positions(length: int, d_model: int, device: torch.device) -> Tensor:
    """Return the sinusoid table [2 * length - 1, d_model], from +(length - 1) to -(length - 1)."""
    positions = torch.arange(length - 1, -length, -1, dtype=torch.float32, device=device)
    step = torch.exp(
        torch.arange(0, d_model, 2, dtype=torch.float32, device=device)
        * -(math.log(MASKED_SCORE * -1) / d_model)
    )
    angles = positions[:, None] * step
    table = torch.zeros(positions.shape[0], d_model, device=device)
    table[:, 0::2] = torch.sin(angles)
    table[:, 1::2] = torch.cos(angles)
    return table


def chunk_mask(
    length: int, left: int | Tensor, right: int | Tensor, device: torch.device
) -> Tensor:
    """Return [length, length], true where frame i may look at j (NeMo's `chunked_limited`).

    With `left` and `right` as tensors [batch] the result is [batch, length, length].
    """
    frames = torch.arange(length, device=device)
    if isinstance(right, Tensor):
        chunk = frames // (right[:, None] + 1)
        most = (left // (right + 1))[:, None, None]
    else:
        chunk, most = frames // (right + 1), left // (right + 1)
    behind = chunk[..., :, None] - chunk[..., None, :]
    return (behind >= 0) & (behind <= most)


_masks: dict[tuple[float, torch.dtype], Tensor] = {}
_MASK_LENGTH = 2**24


def dropout(x: Tensor, share: float, training: bool) -> Tensor:
    """Drop out a share of `x`.

    On a CPU the mask is a window, at a random place, of one long mask: drawing a fresh one for
    every use takes a quarter of the training step.
    """
    if not training or share == 0.0:
        return x
    if x.device.type != "cpu" or x.numel() > _MASK_LENGTH // 2:
        return F.dropout(x, share)
    key = (share, x.dtype)
    if key not in _masks:
        _masks[key] = (torch.rand(_MASK_LENGTH) >= share).to(x.dtype) / (1.0 - share)
    begin = int(torch.randint(_MASK_LENGTH - x.numel(), ()))
    return x * _masks[key][begin : begin + x.numel()].view(x.shape)


class FeedForward(nn.Module):
    """Linear, Swish, Linear."""

    def __init__(self, d_model: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(d_model, d_ff)
        self.linear2 = nn.Linear(d_ff, d_model)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, frames, d_model] to the same shape."""
        x = F.silu(self.linear1(x))
        return self.linear2(dropout(x, self.dropout, self.training))


class RelativeAttention(nn.Module):
    """Multi-head attention with Transformer-XL relative positions (arXiv 1901.02860, 3.3)."""

    def __init__(self, d_model: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.d_head, self.dropout = heads, d_model // heads, dropout
        self.linear_q = nn.Linear(d_model, d_model)
        self.linear_k = nn.Linear(d_model, d_model)
        self.linear_v = nn.Linear(d_model, d_model)
        self.linear_out = nn.Linear(d_model, d_model)
        self.linear_pos = nn.Linear(d_model, d_model, bias=False)
        self.pos_bias_u = nn.Parameter(torch.zeros(heads, self.d_head))
        self.pos_bias_v = nn.Parameter(torch.zeros(heads, self.d_head))

    def forward(self, x: Tensor, hidden: Tensor, positions: Tensor) -> Tensor:
        """Attend; `hidden` [batch, 1, frames, frames] is true where a frame may not look."""
        batch, length, d_model = x.shape
        shape = (batch, length, self.heads, self.d_head)
        q = self.linear_q(x).view(shape)
        k = self.linear_k(x).view(shape).transpose(1, 2)
        v = self.linear_v(x).view(shape).transpose(1, 2)
        p = self.linear_pos(positions).view(1, -1, self.heads, self.d_head).transpose(1, 2)
        content = torch.matmul((q + self.pos_bias_u).transpose(1, 2), k.transpose(-2, -1))
        place = torch.matmul((q + self.pos_bias_v).transpose(1, 2), p.transpose(-2, -1))
        # Transformer-XL's shift: drop the first row of the padded table seen as its transpose.
        place = F.pad(place, (1, 0)).view(batch, self.heads, 2 * length, length)
        place = place[:, :, 1:].reshape(batch, self.heads, length, 2 * length - 1)[..., :length]
        scores = (content + place) * (1.0 / math.sqrt(self.d_head))
        weights = torch.softmax(scores.masked_fill(hidden, MASKED_SCORE), dim=-1).to(v.dtype)
        weights = dropout(weights, self.dropout, self.training)
        out = torch.matmul(weights, v).transpose(1, 2).reshape(batch, length, d_model)
        return self.linear_out(out)


class CausalConvolution(nn.Module):
    """GLU, depthwise convolution over the past, layer norm, Swish; channels stay last."""

    def __init__(self, d_model: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.pointwise_conv1 = nn.Conv1d(d_model, 2 * d_model, 1)
        self.depthwise_conv = nn.Conv1d(d_model, d_model, kernel, groups=d_model)
        self.batch_norm = nn.LayerNorm(d_model)  # NeMo keeps this name for every norm type
        self.pointwise_conv2 = nn.Conv1d(d_model, d_model, 1)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Map [batch, frames, d_model] to itself; frames where `valid` is 0 are silenced first."""
        x = F.linear(x, self.pointwise_conv1.weight.squeeze(-1), self.pointwise_conv1.bias)
        x = F.glu(x, dim=-1) * valid
        x = F.pad(x.transpose(1, 2), (self.kernel - 1, 0))
        x = self.depthwise_conv(x).transpose(1, 2)
        x = F.silu(self.batch_norm(x))
        return F.linear(x, self.pointwise_conv2.weight.squeeze(-1), self.pointwise_conv2.bias)


class ConformerLayer(nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward, norm."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        d, d_ff = shape.d_model, shape.d_model * shape.ff_expansion_factor
        self.dropout = shape.dropout
        self.norm_feed_forward1 = nn.LayerNorm(d)
        self.feed_forward1 = FeedForward(d, d_ff, shape.dropout)
        self.norm_self_att = nn.LayerNorm(d)
        self.self_attn = RelativeAttention(d, shape.n_heads, shape.dropout)
        self.norm_conv = nn.LayerNorm(d)
        self.conv = CausalConvolution(d, shape.conv_kernel_size)
        self.norm_feed_forward2 = nn.LayerNorm(d)
        self.feed_forward2 = FeedForward(d, d_ff, shape.dropout)
        self.norm_out = nn.LayerNorm(d)

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)

    def forward(self, x: Tensor, hidden: Tensor, positions: Tensor, valid: Tensor) -> Tensor:
        """Map [batch, frames, d_model] to the same shape."""
        x = x + 0.5 * self._drop(self.feed_forward1(self.norm_feed_forward1(x)))
        x = x + self._drop(self.self_attn(self.norm_self_att(x), hidden, positions))
        x = x + self._drop(self.conv(self.norm_conv(x), valid))
        x = x + 0.5 * self._drop(self.feed_forward2(self.norm_feed_forward2(x)))
        return self.norm_out(x)


class Encoder(nn.Module):
    """Subsampling and the stack of Conformer layers."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.pre_encode = CausalSubsampling(shape)
        self.layers = nn.ModuleList(ConformerLayer(shape) for _ in range(shape.n_layers))

    def forward(
        self, mel: Tensor, lengths: Tensor, right: int | Tensor, taps: Sequence[int] = ()
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Encode.

        Args:
            mel: [batch, mels, frames].
            lengths: [batch] mel frames that hold audio.
            right: right context in 80 ms frames, one of the trained ones; a tensor [batch] gives
                each utterance its own, unchecked.
            taps: layers whose outputs are returned as well (for losses inside the stack).

        Returns:
            The encoded frames [batch, frames / 8, d_model], their lengths, the tapped layers.

        Raises:
            ValueError: the model was not shaped for this right context.
        """
        lefts = {r: left for left, r in self.shape.att_context_size}
        left: int | Tensor
        if isinstance(right, Tensor):
            left = torch.full_like(right, max(lefts.values()))
        elif right in lefts:
            left = lefts[right]
        else:
            raise ValueError(f"right context {right} is not one of {sorted(lefts)}")
        x, lengths = self.pre_encode(mel, lengths)
        length = x.shape[1]
        valid = torch.arange(length, device=x.device) < lengths[:, None]
        seen = chunk_mask(length, left, right, x.device) & valid[:, None, :]
        hidden = ~seen[:, None]
        positions = relative_positions(length, self.shape.d_model, x.device).to(x.dtype)
        gate = valid[:, :, None].to(x.dtype)
        tapped = []
        for index, layer in enumerate(self.layers):
            x = layer(x, hidden, positions, gate)
            if index in taps:
                tapped.append(x)
        return x, lengths, tapped


class PredictionRNN(nn.Module):
    """NeMo wraps the LSTM once; the wrapper exists for its name."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(hidden, hidden)


class Decoder(nn.Module):
    """The prediction network: embedding (the blank is its zero pad) and one LSTM layer."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        embed = nn.Embedding(shape.vocab_size + 1, shape.pred_hidden, padding_idx=shape.vocab_size)
        self.prediction = nn.ModuleDict(
            {"embed": embed, "dec_rnn": PredictionRNN(shape.pred_hidden)}
        )

    def forward(
        self, tokens: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Map tokens [batch, n] to [batch, n, pred_hidden] and the LSTM's state."""
        embedded = self.prediction["embed"](tokens).transpose(0, 1)
        out, state = self.prediction["dec_rnn"].lstm(embedded, state)
        return out.transpose(0, 1), state


def roomy(layer: nn.Linear, x: Tensor) -> Tensor:
    """Apply a layer as if it had a multiple of 8 classes, those beyond its own impossible.

    A GPU multiplies matrices of 1,025 columns several times more slowly than of 1,032, for want of
    alignment (`benchmarks/training_step.py`).
    """
    more = -layer.out_features % 8
    weight = F.pad(layer.weight, (0, 0, 0, more))
    return F.linear(x, weight, F.pad(layer.bias, (0, more), value=IMPOSSIBLE))


class Joint(nn.Module):
    """Project, add, ReLU, classify."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.pred = nn.Linear(shape.pred_hidden, shape.joint_hidden)
        self.enc = nn.Linear(shape.d_model, shape.joint_hidden)
        self.dropout = shape.dropout
        # NeMo has a dropout between the two; the empty place keeps its names.
        self.joint_net = nn.Sequential(
            nn.ReLU(), nn.Identity(), nn.Linear(shape.joint_hidden, shape.vocab_size + 1)
        )

    def forward(self, encoded: Tensor, predicted: Tensor) -> Tensor:
        """Map [batch, frames, d_model] and [batch, n, pred_hidden] to logits of every pair.

        There are more classes than the model has, to a multiple of 8: see `roomy`.
        """
        pairs = F.relu(self.enc(encoded)[:, :, None] + self.pred(predicted)[:, None])
        return roomy(self.joint_net[2], dropout(pairs, self.dropout, self.training))


class FastConformerRNNT(nn.Module):
    """Encoder, prediction network and joint under NeMo's names."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.encoder = Encoder(shape)
        self.decoder = Decoder(shape)
        self.joint = Joint(shape)

    @property
    def blank(self) -> int:
        """Index of the blank, and of the start symbol of the prediction network."""
        return self.shape.vocab_size

    @torch.inference_mode()
    def greedy(
        self, mel: Tensor, lengths: Tensor, right: int, max_symbols: int = 10
    ) -> list[list[int]]:
        """Decode a batch greedily: at each frame, symbols until the blank wins."""
        encoded, lengths, _ = self.encoder(mel, lengths, right)
        return self.decode(encoded, lengths, max_symbols)

    @torch.inference_mode()
    def decode(self, encoded: Tensor, lengths: Tensor, max_symbols: int = 10) -> list[list[int]]:
        """Decode encoder frames [batch, frames, d_model] greedily."""
        frames = self.joint.enc(encoded)
        batch = frames.shape[0]
        tokens = torch.full((batch,), self.blank, device=encoded.device)
        predicted, (h, c) = self.decoder(tokens[:, None])
        words: list[list[int]] = [[] for _ in range(batch)]
        for t in range(int(lengths.max())):
            active = lengths > t
            for _ in range(max_symbols):
                logits = self.joint.joint_net(frames[:, t] + self.joint.pred(predicted[:, 0]))
                best = logits.argmax(-1)
                active = active & (best != self.blank)
                if not bool(active.any()):
                    break
                for row in active.nonzero()[:, 0].tolist():
                    words[row].append(int(best[row]))
                step, (h2, c2) = self.decoder(
                    torch.where(active, best, self.blank)[:, None], (h, c)
                )
                keep = active[None, :, None]
                h, c = torch.where(keep, h2, h), torch.where(keep, c2, c)
                predicted = torch.where(active[:, None, None], step, predicted)
        return words
