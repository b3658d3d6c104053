"""A sub-layer's end and the next one's begin: add to the residual, normalise.

x = x + factor · y;   (last of a layer: x = LayerNorm(x));   h = LayerNorm(x)

y may come as the parts of its sum (`linear.Weight.parts`), which are added here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from voice_agent.engine.kernels.launch import OPTIONS, begin

EPSILON = 1e-5


@triton.jit
def _gain(weight_ptr, bias_ptr, col, real):
    weight = tl.load(weight_ptr + col, mask=real, other=0.0).to(tl.float32)
    return weight, tl.load(bias_ptr + col, mask=real, other=0.0).to(tl.float32)


@triton.jit
def _layer_norm(x, weight, bias, real, N, EPS: tl.constexpr):
    mean = tl.sum(x, axis=0) / N
    centred = tl.where(real, x - mean, 0.0)
    variance = tl.sum(centred * centred, axis=0) / N
    return centred * tl.rsqrt(variance + EPS) * weight + bias


@triton.jit(do_not_specialize=["rows_a_lane", "factor"])
def _add_norm(
    x_ptr, y_ptr, out_w, out_b, next_w, next_b, h_ptr, lanes_ptr, rows_a_lane, N, factor,
    part_stride,
    PARTS: tl.constexpr, ADD: tl.constexpr, LAST: tl.constexpr, NEXT: tl.constexpr,
    BLOCK: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    alive = row < tl.load(lanes_ptr) * rows_a_lane
    col = tl.arange(0, BLOCK)
    real = col < N
    at = row * N + col
    if LAST:
        out_gain, out_shift = _gain(out_w, out_b, col, real)
    if NEXT:
        gain, shift = _gain(next_w, next_b, col, real)
    if ADD:  # products lie between the kernel that wrote x and this one
        residual = tl.load(x_ptr + at, mask=col < tl.where(alive, N, 0), other=0.0)
    begin()
    if not alive:
        return
    y = tl.load(y_ptr + at, mask=real, other=0.0).to(tl.float32)
    for part in tl.static_range(1, PARTS):
        y += tl.load(y_ptr + part * part_stride + at, mask=real, other=0.0)
    if PARTS > 1:
        y = y.to(h_ptr.dtype.element_ty).to(tl.float32)
    x = y * factor
    if ADD:
        x += residual
    if LAST:
        x = _layer_norm(x, out_gain, out_shift, real, N, EPS)
    tl.store(x_ptr + at, x, mask=real)
    if NEXT:
        h = _layer_norm(x, gain, shift, real, N, EPS)
        tl.store(h_ptr + at, h.to(h_ptr.dtype.element_ty), mask=real)


@dataclass(frozen=True, slots=True)
class Norm:
    """A layer norm's gain and shift, shape (n,) each."""

    weight: torch.Tensor
    bias: torch.Tensor


def add_norm(
    x: torch.Tensor,
    y: torch.Tensor,
    lanes: torch.Tensor,
    *,
    rows: int = 1,
    factor: float = 1.0,
    add: bool = True,
    last: Norm | None = None,
    following: Norm | None = None,
    h: torch.Tensor | None = None,
) -> None:
    """Move the residual stream on, in place, for the first lanes' rows.

    The stream is float32 whatever its sub-layers compute in: rounded to bfloat16 after each of
    them it loses more than all of their products do.

    Args:
        x: float32, shape (capacity, n): the residual stream.
        y: shape (capacity, n), or (parts, capacity, n) float32: the sub-layer's output.
        lanes: int32, shape (1,).
        rows: of x a lane.
        factor: of y.
        add: to x; else x becomes factor · y.
        last: norm of the layer's end.
        following: norm before the next sub-layer.
        h: shape (capacity, n): receives `following`'s output; its dtype is the layers'.
    """
    capacity, n = x.shape
    pieces = y.shape[0] if y.dim() == 3 else 1
    block = triton.next_power_of_2(n)
    _add_norm[(capacity,)](
        x, y, last.weight if last else None, last.bias if last else None,
        following.weight if following else None, following.bias if following else None,
        h, lanes, rows, n, factor, capacity * n, PARTS=pieces,
        ADD=add, LAST=last is not None, NEXT=following is not None, BLOCK=block, EPS=EPSILON,
        num_warps=max(1, min(8, block // 256)), **OPTIONS,
    )  # fmt: skip
