"""What of the transducer's loss touches every logit, in one pass each, as Triton kernels.

The logits are its bulk: [batch, frames, tokens + 1, classes] are half a billion numbers a step.
PyTorch's operators pass over them ten times, half of these in float32; here it is once forward and
once backward. `training.rnnt_loss` has the same in plain PyTorch, for other devices.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _loaded(logits, labels, pair, per_row, nodes, classes: tl.constexpr, room: tl.constexpr):
    label = tl.load(labels + pair // per_row * nodes + pair % nodes)
    lane = tl.arange(0, room)
    held = lane < classes
    x = tl.load(logits + pair * classes + lane, mask=held, other=float("-inf")).to(tl.float32)
    return label, lane, held, x


@triton.jit
def _read(
    logits, labels, norm, emit, stay, per_row, nodes, blank, classes: tl.constexpr,
    room: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(0).to(tl.int64)
    label, lane, _, x = _loaded(logits, labels, pair, per_row, nodes, classes, room)
    top = tl.max(x, 0)
    whole = top + tl.log(tl.sum(tl.exp(x - top), 0))
    tl.store(norm + pair, whole)
    tl.store(emit + pair, tl.sum(tl.where(lane == label, x, 0.0), 0) - whole)
    tl.store(stay + pair, tl.sum(tl.where(lane == blank, x, 0.0), 0) - whole)


@triton.jit
def _write(
    logits, labels, norm, by_label, by_blank, grad, per_row, nodes, blank, classes: tl.constexpr,
    room: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(0).to(tl.int64)
    label, lane, held, x = _loaded(logits, labels, pair, per_row, nodes, classes, room)
    said, stayed = tl.load(by_label + pair), tl.load(by_blank + pair)
    out = tl.exp(x - tl.load(norm + pair)) * (said + stayed)
    out -= tl.where(lane == label, said, 0.0) + tl.where(lane == blank, stayed, 0.0)
    tl.store(grad + pair * classes + lane, out.to(grad.dtype.element_ty), mask=held)


def _launch(kernel: object, logits: Tensor, labels: Tensor, *others: Tensor, blank: int) -> None:
    _, frames, nodes, classes = logits.shape
    kernel[(logits.numel() // classes,)](  # type: ignore[index]
        logits, labels, *others, frames * nodes, nodes, blank, classes,
        triton.next_power_of_2(classes),
    )  # fmt: skip


def read(logits: Tensor, labels: Tensor, blank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return each pair's normaliser and the log-probabilities of its label and of the blank.

    Args:
        logits: [batch, frames, nodes, classes], contiguous.
        labels: [batch, nodes] int64, contiguous.
        blank: class of the blank.

    Returns:
        Three of [batch, frames, nodes] float32.
    """
    norm, emit, stay = torch.empty((3, *logits.shape[:3]), device=logits.device)
    _launch(_read, logits, labels, norm, emit, stay, blank=blank)
    return norm, emit, stay


def write(
    logits: Tensor, labels: Tensor, norm: Tensor, by_label: Tensor, by_blank: Tensor, blank: int
) -> Tensor:
    """Return the loss's gradient with respect to the logits.

    Args:
        logits: [batch, frames, nodes, classes], contiguous.
        labels: [batch, nodes] int64, contiguous.
        norm: [batch, frames, nodes] float32, of `read`.
        by_label: of the same shape, how much of the likelihood passes by the label.
        by_blank: as much by the blank.
        blank: class of the blank.
    """
    grad, shares = torch.empty_like(logits), (by_label.contiguous(), by_blank.contiguous())
    _launch(_write, logits, labels, norm, *shares, grad, blank=blank)
    return grad
