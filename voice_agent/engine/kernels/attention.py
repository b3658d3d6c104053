"""Relative-position attention over the ring, reading K and V where they lie.

A program has one lane, one head and all queries of its chunk. It walks over the keys by position:
the chunk's own from the projection, then `left` of the past from the slot's ring, and keeps a
running softmax. It also writes the chunk into the ring: over places that hold frames older than
`left`, which nobody reads in this step.

    score(i, j) = ((q_i + u) · k_j + (q_i + v) · p_{i - j}) / sqrt(d_head)

A lone query is multiplied in float32 as the keys come: a tensor core would have 15 of 16 rows to
fill up, and hold registers that more programs can use. Several are filled up to a tile of 16; a
block of keys then meets (queries + keys) rows of the position table, each query's moved by one.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from voice_agent.engine.kernels.launch import OPTIONS, begin, seat

SHAPE = (16, 1, 3)
"""Keys a block, warps a program, blocks in flight: found on an H100 by benchmarks/gpu_tiles.py."""
_WIDE = (16, 4, 1)  # of float32
LONE = (16, 1)
"""The same for a lone query, without blocks in flight; float32 takes four warps."""
_NEW = 16  # of the chunk's own keys, a block
_ROWS = 16  # queries of a tensor-core tile


@triton.jit
def _past(t, pos, ring, d, in_head, LEFT: tl.constexpr, RING: tl.constexpr, DH: tl.constexpr):
    """Where keys t of the past lie: which there are, their places, their numbers and the mask."""
    past = (t < LEFT) & (pos - LEFT + t >= 0)
    place = ring + tl.where(past, pos - LEFT + t, 0) % RING
    return past, place, place[:, None] * DH + d[None, :], past[:, None] & in_head[None, :]


@triton.jit
def _attend(
    q_u, q_v, k, v, k_scale, v_scale, t, seen, i, d, in_head, table_ptr, origin,
    best, total, out, scale,
    DH: tl.constexpr, DISTANCES: tl.constexpr, QUANTIZED: tl.constexpr,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Take a block of keys into the running softmax; query i and key t meet at origin + i - t."""
    scores = tl.dot(q_u, tl.trans(k.to(q_u.dtype)), input_precision=PRECISION)
    if QUANTIZED:
        scores *= k_scale[None, :]
    window: tl.constexpr = 2 * KEYS if KEYS >= QUERIES else 2 * QUERIES
    first = tl.min(t, axis=0)
    row = origin - first - (KEYS - 1) + tl.arange(0, window)
    at = table_ptr + row[:, None] * DH + d[None, :]
    known = ((row >= 0) & (row < DISTANCES))[:, None] & in_head[None, :]
    by_row = tl.dot(q_v, tl.trans(tl.load(at, mask=known, other=0.0)), input_precision=PRECISION)
    moved = i[:, None] - (t - first)[None, :] + (KEYS - 1)
    scores += tl.gather(by_row, moved, axis=1)
    scores = tl.where(seen[None, :], scores * scale, float("-inf"))
    newest = tl.maximum(best, tl.max(scores, axis=1))
    old = tl.exp(best - newest)
    weights = tl.exp(scores - newest[:, None])
    total = total * old + tl.sum(weights, axis=1)
    if QUANTIZED:
        weights *= v_scale[None, :]
    out = out * old[:, None]
    out = tl.dot(weights.to(q_u.dtype), v.to(q_u.dtype), out, input_precision=PRECISION)
    return newest, total, out


@triton.jit
def _attention(
    qkv_ptr, k_ptr, v_ptr, k_scale_ptr, v_scale_ptr, u_ptr, v_bias_ptr, table_ptr,
    slots_ptr, pos_ptr, lanes_ptr, out_ptr, scale,
    HEADS: tl.constexpr, DH: tl.constexpr, RING: tl.constexpr, LEFT: tl.constexpr,
    CHUNK: tl.constexpr, DISTANCES: tl.constexpr, MAX_CHUNK: tl.constexpr,
    QUANTIZED: tl.constexpr, QUERIES: tl.constexpr, BD: tl.constexpr, KEYS: tl.constexpr,
    NEW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    lane = tl.program_id(0)
    alive, slot, pos = seat(lane, slots_ptr, pos_ptr, lanes_ptr)
    head = tl.program_id(1)
    kind = qkv_ptr.dtype.element_ty
    width: tl.constexpr = HEADS * DH
    d = tl.arange(0, BD)
    in_head = d < DH
    i = tl.arange(0, QUERIES)
    asked = (i < CHUNK)[:, None] & in_head[None, :]
    own = lane.to(tl.int64) * CHUNK * (3 * width) + head * DH
    u = tl.load(u_ptr + head * DH + d, mask=in_head, other=0.0)
    vb = tl.load(v_bias_ptr + head * DH + d, mask=in_head, other=0.0)
    table_ptr += head * DISTANCES * DH
    ring = (slot * HEADS + head) * RING
    begin()
    if not alive:
        return
    q = tl.load(qkv_ptr + own + i[:, None] * (3 * width) + d[None, :], mask=asked, other=0.0)
    q_u = (q + u[None, :]).to(kind)
    q_v = (q + vb[None, :]).to(kind)

    best = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    out = tl.zeros((QUERIES, BD), tl.float32)
    for first_new in tl.static_range(0, CHUNK, NEW):
        t_new = first_new + tl.arange(0, NEW)
        new = t_new < CHUNK
        at_new = own + t_new[:, None] * (3 * width) + d[None, :]
        new_d = new[:, None] & in_head[None, :]
        k_new = tl.load(qkv_ptr + at_new + width, mask=new_d, other=0.0)
        v_new = tl.load(qkv_ptr + at_new + 2 * width, mask=new_d, other=0.0)
        best, total, out = _attend(
            q_u, q_v, k_new, v_new, 1.0, 1.0, t_new, new, i, d, in_head, table_ptr, MAX_CHUNK - 1,
            best, total, out, scale, DH, DISTANCES, False, QUERIES, NEW, PRECISION,
        )  # fmt: skip
    # A young segment has seen few frames: blocks without any are passed over.
    start = tl.maximum(LEFT - pos, 0) // KEYS * KEYS
    for first in range(start, LEFT, KEYS):
        t = first + tl.arange(0, KEYS)
        past, place, at, past_d = _past(t, pos, ring, d, in_head, LEFT, RING, DH)
        k = tl.load(k_ptr + at, mask=past_d, other=0.0)
        v = tl.load(v_ptr + at, mask=past_d, other=0.0)
        if QUANTIZED:
            k_scale = tl.load(k_scale_ptr + place, mask=past, other=0.0)
            v_scale = tl.load(v_scale_ptr + place, mask=past, other=0.0)
        else:
            k_scale, v_scale = 1.0, 1.0
        best, total, out = _attend(
            q_u, q_v, k, v, k_scale, v_scale, t, past, i, d, in_head, table_ptr,
            LEFT + MAX_CHUNK - 1,
            best, total, out, scale, DH, DISTANCES, QUANTIZED, QUERIES, KEYS, PRECISION,
        )  # fmt: skip
    out /= total[:, None]
    to = lane.to(tl.int64) * CHUNK * width + i[:, None] * width + head * DH + d[None, :]
    tl.store(out_ptr + to, out.to(kind), mask=asked)

    for c in range(CHUNK):
        at1 = own + c * (3 * width) + d
        k1 = tl.load(qkv_ptr + at1 + width, mask=in_head, other=0.0)
        v1 = tl.load(qkv_ptr + at1 + 2 * width, mask=in_head, other=0.0)
        place1 = ring + (pos + c) % RING
        _keep(k1, k_ptr + place1 * DH + d, k_scale_ptr, place1, in_head, QUANTIZED)
        _keep(v1, v_ptr + place1 * DH + d, v_scale_ptr, place1, in_head, QUANTIZED)


@triton.jit
def _keep(x, to, scale_ptr, place, in_head, QUANTIZED: tl.constexpr):
    """Write a frame's key or value into the ring."""
    if QUANTIZED:
        x = x.to(tl.float32)
        scale = tl.maximum(tl.max(tl.abs(x), axis=0), 1e-8) / 127.0
        tl.store(scale_ptr + place, scale)
        tl.store(to, tl.floor(x / scale + 0.5).to(tl.int8), mask=in_head)
    else:
        tl.store(to, x, mask=in_head)


@triton.jit
def _attention_of_one(
    qkv_ptr, k_ptr, v_ptr, k_scale_ptr, v_scale_ptr, u_ptr, v_bias_ptr, table_ptr,
    slots_ptr, pos_ptr, lanes_ptr, out_ptr, scale,
    HEADS: tl.constexpr, DH: tl.constexpr, RING: tl.constexpr, LEFT: tl.constexpr,
    DISTANCES: tl.constexpr, MAX_CHUNK: tl.constexpr, QUANTIZED: tl.constexpr,
    BD: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """`_attention` of a chunk of one frame."""
    lane = tl.program_id(0)
    alive, slot, pos = seat(lane, slots_ptr, pos_ptr, lanes_ptr)
    head = tl.program_id(1)
    kind = qkv_ptr.dtype.element_ty
    width: tl.constexpr = HEADS * DH
    d = tl.arange(0, BD)
    in_head = d < DH
    u = tl.load(u_ptr + head * DH + d, mask=in_head, other=0.0)
    vb = tl.load(v_bias_ptr + head * DH + d, mask=in_head, other=0.0)
    table_ptr += head * DISTANCES * DH
    p_new = tl.load(table_ptr + (MAX_CHUNK - 1) * DH + d, mask=in_head, other=0.0).to(tl.float32)
    ring = (slot * HEADS + head) * RING
    begin()
    if not alive:
        return
    own = qkv_ptr + lane.to(tl.int64) * (3 * width) + head * DH + d
    q = tl.load(own, mask=in_head, other=0.0)
    k_new = tl.load(own + width, mask=in_head, other=0.0)
    v_new = tl.load(own + 2 * width, mask=in_head, other=0.0)
    q_u = (q + u).to(kind).to(tl.float32) * scale
    q_v = (q + vb).to(kind).to(tl.float32) * scale

    best = tl.sum(q_u * k_new.to(tl.float32) + q_v * p_new, axis=0)
    total = 1.0
    out = v_new.to(tl.float32)
    # A young segment has seen few frames: blocks without any are passed over.
    start = tl.maximum(LEFT - pos, 0) // KEYS * KEYS
    for first in range(start, LEFT, KEYS):
        t = first + tl.arange(0, KEYS)
        past, place, at, past_d = _past(t, pos, ring, d, in_head, LEFT, RING, DH)
        k = tl.load(k_ptr + at, mask=past_d, other=0.0).to(tl.float32)
        v = tl.load(v_ptr + at, mask=past_d, other=0.0).to(tl.float32)
        row = LEFT + MAX_CHUNK - 1 - t
        p = tl.load(table_ptr + row[:, None] * DH + d[None, :], mask=past_d, other=0.0)
        if QUANTIZED:
            k *= tl.load(k_scale_ptr + place, mask=past, other=0.0)[:, None]
            v *= tl.load(v_scale_ptr + place, mask=past, other=0.0)[:, None]
        scores = tl.sum(q_u[None, :] * k + q_v[None, :] * p.to(tl.float32), axis=1)
        scores = tl.where(past, scores, float("-inf"))
        newest = tl.maximum(best, tl.max(scores, axis=0))
        old = tl.exp(best - newest)
        weights = tl.exp(scores - newest)
        total = total * old + tl.sum(weights, axis=0)
        out = out * old + tl.sum(weights[:, None] * v, axis=0)
        best = newest
    to = out_ptr + lane.to(tl.int64) * width + head * DH + d
    tl.store(to, (out / total).to(kind), mask=in_head)
    place1 = ring + pos % RING
    _keep(k_new, k_ptr + place1 * DH + d, k_scale_ptr, place1, in_head, QUANTIZED)
    _keep(v_new, v_ptr + place1 * DH + d, v_scale_ptr, place1, in_head, QUANTIZED)


def attention(
    qkv: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    *,
    bias_u: torch.Tensor,
    bias_v: torch.Tensor,
    table: torch.Tensor,
    slots: torch.Tensor,
    pos: torch.Tensor,
    lanes: torch.Tensor,
    chunk: int,
    left: int,
    max_chunk: int,
    scales: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Attend, and append the chunk to the slots' rings.

    Args:
        qkv: shape (capacity · chunk, 3 · heads · d_head).
        k: shape (slots, heads, ring, d_head): one layer of the pool; int8 with `scales`.
        v: likewise.
        out: shape (capacity · chunk, heads · d_head).
        bias_u: shape (heads, d_head).
        bias_v: shape (heads, d_head).
        table: shape (heads, distances, d_head): projected positions, `attention.position_table`.
        slots: int32, shape (capacity,): distinct among the lanes.
        pos: int32, shape (capacity,).
        lanes: int32, shape (1,).
        chunk: new frames a lane.
        left: frames of the past that a chunk sees.
        max_chunk: of the position table.
        scales: float32, shape (slots, heads, ring) each: of int8 keys and values.

    Returns:
        out.
    """
    _, heads, ring, d_head = k.shape
    wide = qkv.dtype == torch.float32
    tensors = (
        qkv, k, v, *(scales or (None, None)), bias_u, bias_v, table, slots, pos, lanes, out,
        1 / math.sqrt(d_head),
    )  # fmt: skip
    shape = dict(
        HEADS=heads, DH=d_head, RING=ring, LEFT=left, DISTANCES=table.shape[1],
        MAX_CHUNK=max_chunk, QUANTIZED=scales is not None,
        BD=max(16, triton.next_power_of_2(d_head)),
    )  # fmt: skip
    if chunk == 1:
        keys, warps = LONE
        _attention_of_one[(qkv.shape[0], heads)](
            *tensors, **shape, KEYS=keys, num_warps=4 if wide else warps, **OPTIONS
        )
        return out
    keys, warps, stages = _WIDE if wide else SHAPE
    _attention[(qkv.shape[0] // chunk, heads)](
        *tensors, **shape, CHUNK=chunk, QUERIES=max(_ROWS, triton.next_power_of_2(chunk)),
        KEYS=keys, NEW=_NEW, PRECISION="tf32x3" if wide else "tf32",
        num_warps=warps, num_stages=stages, **OPTIONS,
    )  # fmt: skip
    return out
