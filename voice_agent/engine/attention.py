"""Relative-position attention of one chunk over its cached past.

    score(i, j) = ((q_i + u) · k_j + (q_i + v) · p_{pos_i - pos_j}) / sqrt(d_head)

Transformer-XL, https://arxiv.org/abs/1901.02860 §3.3; nemo RelPositionMultiHeadAttention. `p` is
the sinusoid table through `linear_pos`, projected once at load: it depends on distance alone.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def position_table(d_model: int, left: int, chunk: int) -> torch.Tensor:
    """Sinusoids for every distance that a query can have to a key.

    Args:
        d_model: width.
        left: frames of past, at most.
        chunk: frames in a chunk, at most.

    Returns:
        float32, shape (left + 2·chunk - 1, d_model); row r is distance r - (chunk - 1), where
        positive distances lie in the past.
    """
    distance = torch.arange(-(chunk - 1), left + chunk, dtype=torch.float32)[:, None]
    div = torch.exp(torch.arange(0, d_model, 2, dtype=torch.float32) * -(math.log(1e4) / d_model))
    table = torch.zeros(len(distance), d_model)
    table[:, 0::2] = torch.sin(distance * div)
    table[:, 1::2] = torch.cos(distance * div)
    return table


def ring_positions(pos: torch.Tensor, chunk: int, ring: int) -> torch.Tensor:
    """Which frame lies in each place of a slot's ring once the chunk is written.

    Args:
        pos: int64, shape (n,): position of each lane's first new frame.
        chunk: new frames.
        ring: places.

    Returns:
        int64, shape (n, ring): the newest position p < pos + chunk with p % ring == place;
        negative where the segment is younger than that.
    """
    newest = (pos + chunk - 1)[:, None]
    place = torch.arange(ring, device=pos.device)[None, :]
    return newest - (newest - place) % ring


def distance_index(
    pos: torch.Tensor, held: torch.Tensor, *, chunk: int, left: int, max_chunk: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of the position table for each query and place, and what a query may see.

    Args:
        pos: int64, shape (n,).
        held: int64, shape (n, ring), from `ring_positions`.
        chunk: frames a lane.
        left: frames of past that a chunk sees.
        max_chunk: the `chunk` that the position table was made for.

    Returns:
        index: int64, shape (n, chunk, ring), clamped into the table where nothing may be seen.
        visible: bool, shape (n, 1, 1, ring): written by this segment, and not too old.
    """
    first = pos[:, None]
    visible = (held >= 0) & (held >= first - left)
    query = first + torch.arange(chunk, device=pos.device)
    index = query[:, :, None] - held[:, None, :] + (max_chunk - 1)
    index = index.clamp(0, left + 2 * max_chunk - 2)
    return index, visible[:, None, None, :]


def rel_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    bias_u: torch.Tensor,
    bias_v: torch.Tensor,
    table: torch.Tensor,
    index: torch.Tensor,
    visible: torch.Tensor,
) -> torch.Tensor:
    """Attend to the ring. Portable form, on scaled_dot_product_attention.

    Args:
        q: shape (n, chunk, head, d_head).
        k: shape (n, head, ring, d_head).
        v: shape (n, head, ring, d_head).
        bias_u: shape (head, d_head).
        bias_v: shape (head, d_head).
        table: shape (head, distances, d_head): the layer's projected positions.
        index: int64, shape (n, chunk, ring), from `distance_index`.
        visible: bool, shape (n, 1, 1, ring).

    Returns:
        shape (n, chunk, head · d_head).
    """
    n, chunk, heads, d_head = q.shape
    by_distance = torch.matmul(
        (q + bias_v).transpose(1, 2), table.mT
    )  # [n, head, chunk, distances]
    index = index[:, None].expand(n, heads, chunk, index.shape[-1])
    bias = by_distance.gather(-1, index) * (1 / math.sqrt(d_head))
    bias = bias.masked_fill(~visible, float("-inf"))
    out = F.scaled_dot_product_attention((q + bias_u).transpose(1, 2), k, v, attn_mask=bias)
    return out.transpose(1, 2).reshape(n, chunk, heads * d_head)
