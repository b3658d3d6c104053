"""The CTC loss (Graves et al. 2006) with its gradient written down, in plain PyTorch.

PyTorch's own wants the lengths on the CPU, so that it cannot stand in a CUDA graph that is replayed
for other lengths. Forward and backward variables run frame by frame, those of all utterances at
once, as in `training.rnnt_loss`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_NEVER = -1e30  # a finite log of zero: differences of two infinities would be no numbers


class _Ctc(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logs: Tensor, targets: Tensor, frames: Tensor, tokens: Tensor, blank: int
    ) -> Tensor:
        batch, length, _ = logs.shape
        states = 2 * targets.shape[1] + 1  # blank, token, blank, …, token, blank
        labels = torch.full((batch, states), blank, device=logs.device)
        labels[:, 1::2] = targets
        state = torch.arange(states, device=logs.device)
        # From a token the next one may follow at once, unless it is the same.
        skips = (state % 2 == 1) & (state >= 3) & (labels != F.pad(labels, (2, 0))[:, :-2])
        last = 2 * tokens[:, None]  # the state of the blank after the last token
        said = logs.gather(2, labels[:, None].expand(-1, length, -1))

        # Backwards it is the same recursion over the utterance turned round: one loop for both.
        back = (last - state).clamp(min=0)
        turned_skips = skips.gather(1, (back + 2).clamp(max=states - 1)) & (state >= 2)
        turn = (frames[:, None] - 1 - torch.arange(length, device=logs.device)).clamp(min=0)
        turned = said.gather(1, turn[:, :, None].expand(-1, -1, states))
        turned = turned.gather(2, back[:, None].expand(-1, length, -1))
        heard = torch.cat((said, turned))
        heard = heard.masked_fill((state > last).repeat(2, 1)[:, None], _NEVER)
        jump = torch.where(torch.cat((skips, turned_skips)), 0.0, _NEVER)
        # Two states that never are before the first one, so that every state has three before it.
        table = logs.new_full((length, 2 * batch, states + 2), _NEVER)
        table[0, :, 2:] = torch.where(state < 2, heard[:, 0], _NEVER)
        for before, now, step in zip(table[:-1], table[1:], heard[:, 1:].unbind(1), strict=True):
            near = torch.logaddexp(before[:, 2:], before[:, 1:-1])
            torch.add(torch.logaddexp(near, before[:, :-2] + jump), step, out=now[:, 2:])
        alpha, beta = table[:, :, 2:].transpose(0, 1).split(batch)
        beta = beta.gather(1, turn[:, :, None].expand(-1, -1, states))
        beta = beta.gather(2, back[:, None].expand(-1, length, -1))

        # An utterance ends in its last token or in the blank after it; without tokens in the blank.
        ends = alpha.gather(1, (frames - 1)[:, None, None].expand(-1, 1, states))[:, 0]
        in_token = ends.gather(1, (last - 1).clamp(min=0)).masked_fill(last == 0, _NEVER)
        total = torch.logaddexp(ends.gather(1, last), in_token)[:, 0]
        possible = total > 0.1 * _NEVER
        inside = torch.arange(length, device=logs.device) < frames[:, None]
        inside = inside[:, :, None] & (state <= last)[:, None] & possible[:, None, None]
        share = (alpha + beta - said - total[:, None, None]).clamp(max=0.0).exp() * inside
        ctx.save_for_backward(share, labels)
        ctx.shape = logs.shape
        return torch.where(possible, -total, 0.0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        share, labels = ctx.saved_tensors
        grad = torch.zeros(ctx.shape, device=share.device)
        labels = labels[:, None].expand(-1, share.shape[1], -1)
        grad.scatter_add_(2, labels, -share * grads[0][:, None, None])
        return grad, None, None, None, None


def ctc_loss(logs: Tensor, targets: Tensor, frames: Tensor, tokens: Tensor, blank: int) -> Tensor:
    """Return the negative log-likelihood of each utterance; 0 where its text cannot fit.

    Args:
        logs: [batch, frames, classes] float32 log-probabilities.
        targets: [batch, tokens] int64; what lies past an utterance's own length is ignored.
        frames: [batch] int64, frames of each utterance, at least 1.
        tokens: [batch] int64, tokens of each utterance.
        blank: class of the blank.
    """
    return _Ctc.apply(logs, targets, frames, tokens, blank)
