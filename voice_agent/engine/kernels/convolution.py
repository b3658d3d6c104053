"""The middle of the convolution module: GLU, causal depthwise convolution, norm, SiLU.

A program has one lane, all channels and all of its frames. The last inputs of each slot lie in a
ring, frame p at p % (kernel - 1), so that a chunk writes its own frames and moves none; frames
before the segment count as zero by their position.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from voice_agent.engine.kernels.launch import OPTIONS, OVERLAP, begin, prefetch, seat
from voice_agent.engine.kernels.norms import EPSILON, Norm, _gain, _layer_norm


@triton.jit
def _glu(x_ptr, row, c, real, D):
    a = tl.load(x_ptr + row * (2 * D) + c, mask=real, other=0.0).to(tl.float32)
    b = tl.load(x_ptr + row * (2 * D) + D + c, mask=real, other=0.0).to(tl.float32)
    return (a * tl.sigmoid(b)).to(x_ptr.dtype.element_ty)


@triton.jit
def _convolution(
    x_ptr, w_ptr, bias_ptr, norm_w, norm_b, cache_ptr, slots_ptr, pos_ptr, lanes_ptr, out_ptr, D,
    CHUNK: tl.constexpr, TAPS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_NORM: tl.constexpr,
    AHEAD: tl.constexpr, BLOCK: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    lane = tl.program_id(0)
    alive, slot, pos = seat(lane, slots_ptr, pos_ptr, lanes_ptr)
    past: tl.constexpr = TAPS - 1
    cache = cache_ptr + slot * (past * D)
    c = tl.arange(0, BLOCK)
    real = c < D
    if HAS_BIAS:
        bias = tl.load(bias_ptr + c, mask=real, other=0.0).to(tl.float32)
    if HAS_NORM:
        gain, shift = _gain(norm_w, norm_b, c, real)
    if AHEAD:
        for tap in tl.static_range(TAPS - 1):
            prefetch(cache + tap * D + tl.minimum(c, D - 1))
            prefetch(w_ptr + tap * D + tl.minimum(c, D - 1))
    begin()
    if not alive:
        return
    row = lane.to(tl.int64) * CHUNK
    for t in range(CHUNK):
        y = tl.zeros((BLOCK,), tl.float32)
        for tap in tl.static_range(TAPS):
            j = t + tap - past  # frame within the chunk; negative: of the past
            w = tl.load(w_ptr + tap * D + c, mask=real, other=0.0).to(tl.float32)
            if tap == past:
                value = _glu(x_ptr, row + j, c, real, D).to(tl.float32)
            else:
                held = (pos + j < pos) & (pos + j >= 0)
                # For a chunk of one frame every other tap is of the past.
                place = tl.where(held, (pos + j) % past, 0)
                value = tl.load(cache + place * D + c, mask=c < tl.where(held, D, 0), other=0.0).to(
                    tl.float32
                )
                if CHUNK > 1:
                    new = c < tl.where(pos + j >= pos, D, 0)
                    value += _glu(x_ptr, row + tl.maximum(j, 0), c, new, D).to(tl.float32)
            y += w * value
        if HAS_BIAS:
            y += bias
        if HAS_NORM:
            y = y.to(out_ptr.dtype.element_ty).to(tl.float32)
            y = _layer_norm(tl.where(real, y, 0.0), gain, shift, real, D, EPS)
        y = y * tl.sigmoid(y)
        tl.store(out_ptr + (row + t) * D + c, y.to(out_ptr.dtype.element_ty), mask=real)
    tl.debug_barrier()  # what was read above may be overwritten now
    for t in range(max(0, CHUNK - past), CHUNK):
        value = _glu(x_ptr, row + t, c, real, D)
        tl.store(cache + ((pos + t) % past) * D + c, value, mask=real)


def convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    norm: Norm | None,
    cache: torch.Tensor,
    out: torch.Tensor,
    *,
    slots: torch.Tensor,
    pos: torch.Tensor,
    lanes: torch.Tensor,
    chunk: int,
) -> torch.Tensor:
    """Convolve a chunk a lane and move the slots' rings on.

    Args:
        x: shape (capacity · chunk, 2 · d): the first pointwise convolution's output.
        weight: shape (kernel, d).
        bias: shape (d,), or None.
        norm: of the channels; None where batch norm is folded into the weight.
        cache: shape (slots, kernel - 1, d): one layer of the pool.
        out: shape (capacity · chunk, d).
        slots: int32, shape (capacity,).
        pos: int32, shape (capacity,).
        lanes: int32, shape (1,).
        chunk: new frames a lane.

    Returns:
        out.
    """
    taps, d = weight.shape
    block = triton.next_power_of_2(d)
    _convolution[(x.shape[0] // chunk,)](
        x, weight, bias, norm.weight if norm else None, norm.bias if norm else None,
        cache, slots, pos, lanes, out, d,
        CHUNK=chunk, TAPS=taps, HAS_BIAS=bias is not None, HAS_NORM=norm is not None,
        AHEAD=OVERLAP.value and x.shape[0] <= 512,
        BLOCK=block, EPS=EPSILON, num_warps=max(1, min(8, block // 128)), **OPTIONS,
    )  # fmt: skip
    return out
