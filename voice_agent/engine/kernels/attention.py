"""Relative-position attention over the ring, reading K and V where they lie.

A program has one lane, one head and up to four of its queries. It walks over the keys by
position: `left` of the past from the slot's ring, the chunk's own from the projection, and keeps
a running softmax. One program of each lane and head also writes the chunk into the ring: places
that hold frames older than `left`, which nobody reads in this step.

    score(i, j) = ((q_i + u) · k_j + (q_i + v) · p_{i - j}) / sqrt(d_head)
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

KEYS = 16  # a block


@triton.jit
def _attend(
    q_u, q_v, k, v, table_ptr, distance, seen, asked, d, in_head, best, total, out,
    DH: tl.constexpr, DISTANCES: tl.constexpr,
):  # fmt: skip
    """Take a block of keys into the running softmax."""
    known = (distance >= 0) & (distance < DISTANCES) & asked[:, None] & seen[None, :]
    table = tl.load(
        table_ptr + distance[:, :, None] * DH + d[None, None, :],
        mask=known[:, :, None] & in_head[None, None, :], other=0.0,
    ).to(tl.float32)  # fmt: skip
    scores = tl.sum(q_u[:, None, :] * k[None, :, :] + q_v[:, None, :] * table, axis=2)
    scores = tl.where(seen[None, :], scores, float("-inf"))
    newest = tl.maximum(best, tl.max(scores, axis=1))
    # All keys of a block may lie before the segment.
    safe = tl.where(newest == float("-inf"), 0.0, newest)
    old = tl.exp(best - safe)
    weights = tl.exp(scores - safe[:, None])
    total = total * old + tl.sum(weights, axis=1)
    out = out * old[:, None] + tl.sum(weights[:, :, None] * v[None, :, :], axis=1)
    return newest, total, out


@triton.jit
def _attention(
    qkv_ptr, k_ptr, v_ptr, k_scale_ptr, v_scale_ptr, u_ptr, v_bias_ptr, table_ptr,
    slots_ptr, pos_ptr, lanes_ptr, out_ptr, scale,
    HEADS: tl.constexpr, DH: tl.constexpr, RING: tl.constexpr, LEFT: tl.constexpr,
    CHUNK: tl.constexpr, DISTANCES: tl.constexpr, MAX_CHUNK: tl.constexpr,
    QUANTIZED: tl.constexpr, QUERIES: tl.constexpr, BD: tl.constexpr, KEYS: tl.constexpr,
    NEW: tl.constexpr,
):  # fmt: skip
    lane = tl.program_id(0)
    if lane >= tl.load(lanes_ptr):
        return
    head = tl.program_id(1)
    slot = tl.load(slots_ptr + lane)
    pos = tl.load(pos_ptr + lane)
    kind = qkv_ptr.dtype.element_ty
    width: tl.constexpr = HEADS * DH
    d = tl.arange(0, BD)
    in_head = d < DH
    i = tl.program_id(2) * QUERIES + tl.arange(0, QUERIES)
    asked = i < CHUNK
    row = (lane.to(tl.int64) * CHUNK + i) * (3 * width) + head * DH
    q = tl.load(qkv_ptr + row[:, None] + d[None, :], mask=asked[:, None] & in_head[None, :], other=0.0)
    u = tl.load(u_ptr + head * DH + d, mask=in_head, other=0.0)
    vb = tl.load(v_bias_ptr + head * DH + d, mask=in_head, other=0.0)
    q_u = (q + u[None, :]).to(kind).to(tl.float32) * scale
    q_v = (q + vb[None, :]).to(kind).to(tl.float32) * scale
    ring = (slot.to(tl.int64) * HEADS + head) * RING
    own = lane.to(tl.int64) * CHUNK * (3 * width) + head * DH

    best = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    out = tl.zeros((QUERIES, BD), tl.float32)
    # A young segment has seen few frames, so its first blocks may hold none: they are passed over.
    start = tl.maximum(LEFT - pos, 0) // KEYS * KEYS
    for first in range(start, LEFT, KEYS):
        t = first + tl.arange(0, KEYS)
        seen = (t < LEFT) & (pos - LEFT + t >= 0)
        place = ring + tl.where(seen, pos - LEFT + t, 0) % RING
        at = place[:, None] * DH + d[None, :]
        seen_d = seen[:, None] & in_head[None, :]
        k = tl.load(k_ptr + at, mask=seen_d, other=0.0).to(tl.float32)
        v = tl.load(v_ptr + at, mask=seen_d, other=0.0).to(tl.float32)
        if QUANTIZED:
            k *= tl.load(k_scale_ptr + place, mask=seen, other=0.0)[:, None]
            v *= tl.load(v_scale_ptr + place, mask=seen, other=0.0)[:, None]
        distance = i[:, None] + (LEFT + MAX_CHUNK - 1) - t[None, :]
        best, total, out = _attend(
            q_u, q_v, k, v, table_ptr + head * DISTANCES * DH, distance, seen, asked, d, in_head,
            best, total, out, DH, DISTANCES,
        )  # fmt: skip
    for first in tl.static_range(0, CHUNK, NEW):
        t = first + tl.arange(0, NEW)
        seen = t < CHUNK
        at = own + t.to(tl.int64)[:, None] * (3 * width) + d[None, :]
        seen_d = seen[:, None] & in_head[None, :]
        k = tl.load(qkv_ptr + at + width, mask=seen_d, other=0.0).to(tl.float32)
        v = tl.load(qkv_ptr + at + 2 * width, mask=seen_d, other=0.0).to(tl.float32)
        distance = i[:, None] + (MAX_CHUNK - 1) - t[None, :]
        best, total, out = _attend(
            q_u, q_v, k, v, table_ptr + head * DISTANCES * DH, distance, seen, asked, d, in_head,
            best, total, out, DH, DISTANCES,
        )  # fmt: skip
    out /= total[:, None]
    to = (lane.to(tl.int64) * CHUNK + i)[:, None] * width + head * DH + d[None, :]
    tl.store(out_ptr + to, out.to(kind), mask=asked[:, None] & in_head[None, :])

    if tl.program_id(2) == 0:
        for c in range(CHUNK):
            at1 = own + c * (3 * width) + d
            k1 = tl.load(qkv_ptr + at1 + width, mask=in_head, other=0.0)
            v1 = tl.load(qkv_ptr + at1 + 2 * width, mask=in_head, other=0.0)
            place1 = ring + (pos + c) % RING
            if QUANTIZED:
                k_scale = tl.maximum(tl.max(tl.abs(k1.to(tl.float32)), axis=0), 1e-8) / 127.0
                v_scale = tl.maximum(tl.max(tl.abs(v1.to(tl.float32)), axis=0), 1e-8) / 127.0
                tl.store(k_scale_ptr + place1, k_scale)
                tl.store(v_scale_ptr + place1, v_scale)
                k8 = tl.floor(k1.to(tl.float32) / k_scale + 0.5).to(tl.int8)
                v8 = tl.floor(v1.to(tl.float32) / v_scale + 0.5).to(tl.int8)
                tl.store(k_ptr + place1 * DH + d, k8, mask=in_head)
                tl.store(v_ptr + place1 * DH + d, v8, mask=in_head)
            else:
                tl.store(k_ptr + place1 * DH + d, k1, mask=in_head)
                tl.store(v_ptr + place1 * DH + d, v1, mask=in_head)


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
    queries = min(4, triton.next_power_of_2(chunk))
    capacity = qkv.shape[0] // chunk
    _attention[(capacity, heads, triton.cdiv(chunk, queries))](
        qkv, k, v, scales[0] if scales else None, scales[1] if scales else None,
        bias_u, bias_v, table, slots, pos, lanes, out, 1 / math.sqrt(d_head),
        HEADS=heads, DH=d_head, RING=ring, LEFT=left, CHUNK=chunk, DISTANCES=table.shape[1],
        MAX_CHUNK=max_chunk, QUANTIZED=scales is not None, QUERIES=queries,
        BD=triton.next_power_of_2(d_head), KEYS=KEYS,
        NEW=min(KEYS, triton.next_power_of_2(chunk)), num_warps=queries,
    )  # fmt: skip
    return out
