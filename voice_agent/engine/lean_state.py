"""What `LeanEncoder` reads and writes of the slots: places by position, and the state itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from voice_agent.engine.attention import distance_index, ring_positions
from voice_agent.engine.slots import SlotPool


@dataclass(frozen=True, slots=True)
class Rows:
    """Where the lanes of one step read and write.

    Attributes:
        index: int64, shape (n · chunk, ring): distance to each place, as the position table has it.
        unseen: float32, shape (n · chunk, ring): -inf where a place may not be seen, else 0.
        written: int64, shape (n, chunk): places of the K, V ring.
        conv_read: int64, shape (n, kernel - 1): of the convolution's ring, oldest first.
        conv_written: int64, shape (n, at most kernel - 1): of the convolution's ring.
    """

    index: torch.Tensor
    unseen: torch.Tensor
    written: torch.Tensor
    conv_read: torch.Tensor
    conv_written: torch.Tensor


class Places:
    """The same for every position that a chunk can have, at one right context.

    Once a segment is older than the ring, positions a ring apart look alike.
    """

    def __init__(self, pool: SlotPool, *, chunk: int, left: int, max_chunk: int) -> None:
        """Compute the tables; see `attention.distance_index`."""
        self._ring, self._kept = ring, kept = pool.ring, pool.conv.shape[2]
        pos = torch.arange(2 * ring)
        held = ring_positions(pos, chunk, ring)
        self._index, visible = distance_index(
            pos, held, chunk=chunk, left=left, max_chunk=max_chunk
        )
        unseen = torch.zeros(visible.shape).masked_fill(~visible, float("-inf"))
        self._unseen = unseen[:, 0].expand(self._index.shape)
        self._written = (torch.arange(ring)[:, None] + torch.arange(chunk)) % ring
        start = torch.arange(kept)[:, None]
        self._conv_read = (start + torch.arange(kept)) % kept
        self._conv_written = (start + torch.arange(chunk)[-kept:]) % kept

    def at(self, pos: Sequence[int]) -> Rows:
        """What lanes at these positions need."""
        ring, kept = self._ring, self._kept
        row = [p if p < ring else ring + p % ring for p in pos]
        in_ring, in_conv = [p % ring for p in pos], [p % kept for p in pos]
        return Rows(
            index=self._index[row].flatten(0, 1),
            unseen=self._unseen[row].flatten(0, 1),
            written=self._written[in_ring],
            conv_read=self._conv_read[in_conv],
            conv_written=self._conv_written[in_conv],
        )


class Alone:
    """The state of a step's only lane, used where it lies."""

    def __init__(self, pool: SlotPool, slot: int) -> None:
        self._kv = [kv[:, slot] for kv in pool.kv.unbind(1)]  # [2, head, ring, d_head] a layer
        self._conv = [conv[slot] for conv in pool.conv]
        self._written = self._conv_read = self._conv_written = torch.empty(0)

    def at(self, rows: Rows) -> Alone:
        """Go to a position."""
        self._written = rows.written[0]
        self._conv_read, self._conv_written = rows.conv_read[0], rows.conv_written[0]
        return self

    def attended(self, layer: int, kv: torch.Tensor) -> torch.Tensor:
        """Keep keys and values, and tell all that are kept.

        Args:
            layer: which.
            kv: shape (2, chunk, head, d_head).

        Returns:
            shape (2, head, ring, d_head).
        """
        kept = self._kv[layer]
        return kept.index_copy_(2, self._written, kv.transpose(1, 2))

    def with_past(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        """Keep the convolution's inputs, and join them to those kept before.

        Args:
            layer: which.
            x: shape (1, chunk, d_model).

        Returns:
            shape (1, kernel - 1 + chunk, d_model).
        """
        kept = self._conv[layer]
        both = torch.cat([kept.index_select(0, self._conv_read)[None], x], dim=1)
        kept.index_copy_(0, self._conv_written, x[0, -len(self._conv_written) :])
        return both


class Together:
    """The state of several lanes, gathered."""

    def __init__(self, pool: SlotPool, slots: torch.Tensor, rows: Rows) -> None:
        self._pool, self._slots, self._rows = pool, slots, rows
        self._lanes = slots[:, None]

    def attended(self, layer: int, kv: torch.Tensor) -> torch.Tensor:
        """As `Alone.attended`: (2, n · chunk, head, d_head) to (2, n · head, ring, d_head)."""
        kept, places = self._pool.kv[:, layer], self._rows.written
        new = kv.view(2, *places.shape, *kv.shape[2:])
        kept.transpose(2, 3)[:, self._lanes, places] = new
        return kept.index_select(1, self._slots).flatten(1, 2)

    def with_past(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        """As `Alone.with_past`: (n, chunk, d_model) to (n, kernel - 1 + chunk, d_model)."""
        kept, rows = self._pool.conv[layer], self._rows
        both = torch.cat([kept[self._lanes, rows.conv_read], x], dim=1)
        kept[self._lanes, rows.conv_written] = x[:, -rows.conv_written.shape[1] :]
        return both
