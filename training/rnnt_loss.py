"""The transducer loss (Graves 2012, arXiv 1211.3711) with exact gradients, in plain PyTorch.

Forward and backward variables run frame by frame over the [frame, token] lattice, all utterances of
the batch at once; the gradient with respect to the logits is written down instead of traced, so
nothing of size [batch, frames, tokens, vocab] is kept but the logits themselves.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def _reversed(x: Tensor, frames: Tensor, tokens: Tensor) -> Tensor:
    """Turn each utterance's lattice [frames, nodes] round, so that its last node comes first."""
    batch, length, nodes = x.shape
    t = (frames[:, None] - 1 - torch.arange(length, device=x.device)).clamp(min=0)
    u = (tokens[:, None] - torch.arange(nodes, device=x.device)).clamp(min=0)
    rows = torch.arange(batch, device=x.device)[:, None, None]
    return x[rows, t[:, :, None], u[:, None, :]]


def read(logits: Tensor, labels: Tensor, blank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return each pair's normaliser and the log-probabilities of its label and of the blank.

    Args:
        logits: [batch, frames, nodes, classes].
        labels: [batch, nodes] int64.
        blank: class of the blank.

    Returns:
        Three of [batch, frames, nodes] float32.
    """
    norm = torch.logsumexp(logits.float(), dim=-1)
    at = labels[:, None, :, None].expand(-1, logits.shape[1], -1, -1)
    emit = logits.gather(3, at).squeeze(3).float() - norm
    return norm, emit, logits[..., blank].float() - norm


def write(
    logits: Tensor, labels: Tensor, norm: Tensor, by_label: Tensor, by_blank: Tensor, blank: int
) -> Tensor:
    """Return the gradient with respect to the logits; see `training.rnnt_kernels.write`."""
    grad = torch.exp(logits.float() - norm[..., None]) * (by_label + by_blank)[..., None]
    grad[..., blank] -= by_blank
    at = labels[:, None, :, None].expand(-1, grad.shape[1], -1, -1)
    grad.scatter_add_(3, at, -by_label[..., None].contiguous())
    return grad.to(logits.dtype)


def _passes(logits: Tensor) -> ModuleType:
    """Return what passes over all logits: this module, or one of kernels on a GPU."""
    if logits.is_cuda:
        from training import rnnt_kernels

        return rnnt_kernels
    return sys.modules[__name__]


class _Transducer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, frames: Tensor, tokens: Tensor, blank: int
    ) -> Tensor:
        batch, length, nodes, _ = logits.shape
        t = torch.arange(length, device=logits.device)[None, :, None]
        u = torch.arange(nodes, device=logits.device)[None, None, :]
        logits, labels = logits.contiguous(), F.pad(targets, (0, nodes - targets.shape[1]))
        norm, emit, stay = _passes(logits).read(logits, labels, blank)

        # Within a frame, alpha[u] = logaddexp(enter[u], alpha[u - 1] + emit[u - 1]) is a running
        # logsumexp once the labels' own sum is taken out; so a frame is one scan. The lattice
        # turned round gives beta by the same recursion. What lies past an utterance's end is
        # never read: both recursions flow away from it.
        along = F.pad(emit[:, :, :-1].cumsum(2), (1, 0))
        enter = stay[:, :-1] + along[:, :-1] - along[:, 1:]
        back_emit = _reversed(emit, frames, tokens)
        back_stay = _reversed(stay, frames, tokens)
        back_along = F.pad(back_emit[:, :, 1:].cumsum(2), (1, 0))
        back_enter = back_stay[:, 1:] + back_along[:, :-1] - back_along[:, 1:]
        change = torch.cat([enter, back_enter]).transpose(0, 1).contiguous()
        row = torch.cat([torch.zeros_like(stay[:, 0]), back_stay[:, 0, :1].expand(-1, nodes)])
        scanned = [row]
        for step in change.unbind(0):
            row = torch.logcumsumexp(row + step, dim=1)
            scanned.append(row)
        table = torch.stack(scanned, dim=1)
        alpha, beta = table[:batch] + along, table[batch:] + back_along
        beta = _reversed(beta, frames, tokens)

        likelihood = beta[:, 0, 0]
        inside = t < frames[:, None, None]
        base = alpha - likelihood[:, None, None]
        by_label = base + emit + F.pad(beta[:, :, 1:], (0, 1))
        by_blank = base + stay + F.pad(beta[:, 1:], (0, 0, 0, 1))
        by_label = by_label.clamp(max=0.0).exp() * (inside & (u < tokens[:, None, None]))
        inside = (t < frames[:, None, None] - 1) & (u <= tokens[:, None, None])
        by_blank = by_blank.clamp(max=0.0).exp() * inside
        end = (t == frames[:, None, None] - 1) & (u == tokens[:, None, None])
        ctx.save_for_backward(logits, labels, norm, by_label, by_blank + end)
        ctx.blank = blank
        return -likelihood

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits, labels, norm, by_label, by_blank = ctx.saved_tensors
        scale = grads[0][:, None, None]
        by_label, by_blank = by_label * scale, by_blank * scale
        passes = _passes(logits)
        grad = passes.write(logits, labels, norm, by_label, by_blank, ctx.blank)
        return grad, None, None, None, None


def rnnt_loss(
    logits: Tensor, targets: Tensor, frames: Tensor, tokens: Tensor, blank: int
) -> Tensor:
    """Return the negative log-likelihood of each utterance.

    Args:
        logits: [batch, frames, tokens + 1, classes], unnormalised.
        targets: [batch, tokens] int64; what lies past an utterance's own length is ignored.
        frames: [batch] int64, frames of each utterance, at least 1.
        tokens: [batch] int64, tokens of each utterance.
        blank: class of the blank.
    """
    return _Transducer.apply(logits, targets, frames, tokens, blank)
