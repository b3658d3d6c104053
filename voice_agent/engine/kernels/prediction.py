"""The prediction network on the device, for the lanes that have just spoken.

float32, as three tf32 products. All four gates of a cell come out of one product: their rows of the
weights lie side by side, those for the input before those for the state (`packed`).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from voice_agent.engine.kernels.launch import begin

CELLS = 16
"""LSTM cells a program."""


def packed(
    w_ih: torch.Tensor, w_hh: torch.Tensor, b_ih: torch.Tensor, b_hh: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """An LSTM layer's weights in the order in which `lstm` reads them.

    Args:
        w_ih: shape (4 · hidden, hidden), gates in torch's order: input, forget, cell, output.
        w_hh: likewise.
        b_ih: shape (4 · hidden,).
        b_hh: likewise.

    Returns:
        (4 · hidden, 2 · hidden), cell by cell its four gates; and the bias, (4 · hidden,).
    """
    rows = torch.cat([w_ih, w_hh], dim=1)
    by_cell = rows.view(4, -1, rows.shape[1]).transpose(0, 1).flatten(0, 1)
    return by_cell.contiguous(), (b_ih + b_hh).view(4, -1).T.flatten().contiguous()


@triton.jit
def tanh(x):
    """By the sigmoid, which Triton has."""
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0


@triton.jit
def _speakers(first, count, spoke_ptr, slots_ptr, ROWS: tl.constexpr):
    """A program's part of the list of who spoke: places in it, which there are, their slots."""
    i = first + tl.arange(0, ROWS)
    alive = i < count
    lane = tl.load(spoke_ptr + i, mask=alive, other=0)
    return i, alive, tl.load(slots_ptr + lane, mask=alive, other=0).to(tl.int64)


@triton.jit
def _times(acc, x_ptr, x_row, alive, w_ptr, w_row, real, WIDTH: tl.constexpr, BK: tl.constexpr):
    """Add x @ w.T to a tile, over rows that begin at `x_row` and `w_row`."""
    for start in range(0, WIDTH, BK):
        k = start + tl.arange(0, BK)
        inside = (k < WIDTH)[None, :]
        x = tl.load(x_ptr + x_row[:, None] + k[None, :], mask=alive[:, None] & inside, other=0.0)
        w = tl.load(w_ptr + w_row[:, None] + k[None, :], mask=real[:, None] & inside, other=0.0)
        acc = tl.dot(x, tl.trans(w), acc, input_precision="tf32x3")
    return acc


@triton.jit(do_not_specialize=["turn"])
def lstm(
    input_ptr, token_ptr, h_ptr, c_ptr, w_ptr, b_ptr, spoke_ptr, tally_ptr, slots_ptr,
    out_ptr, turn,
    LAYER: tl.constexpr, LAYERS: tl.constexpr, HIDDEN: tl.constexpr,
    ROWS: tl.constexpr, CELLS: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """One layer; its new state waits in `out_ptr` until the next kernel takes it home."""
    begin()
    count = tl.load(tally_ptr + 3 + 2 * turn)
    first = tl.program_id(0) * ROWS
    if first >= count:
        return
    i, alive, slot = _speakers(first, count, spoke_ptr, slots_ptr, ROWS)
    unit = tl.program_id(1) * CELLS + tl.arange(0, CELLS)
    mine = alive[:, None] & (unit < HIDDEN)[None, :]
    state = slot * (LAYERS * HIDDEN)
    if LAYER == 0:
        source = tl.load(token_ptr + i, mask=alive, other=0).to(tl.int64) * HIDDEN
    else:
        source = i.to(tl.int64) * HIDDEN
        # The layer below has been read by all that needed it: its new state goes home.
        below = tl.load(input_ptr + source[:, None] + unit[None, :], mask=mine, other=0.0)
        home = state[:, None] + (LAYER - 1) * HIDDEN + unit[None, :]
        tl.store(h_ptr + home, below, mask=mine)
    gate = tl.program_id(1) * (4 * CELLS) + tl.arange(0, 4 * CELLS)
    real = gate < 4 * HIDDEN
    of_gate = gate * (2 * HIDDEN)
    before = state + LAYER * HIDDEN
    acc = tl.zeros((ROWS, 4 * CELLS), tl.float32)
    acc = _times(acc, input_ptr, source, alive, w_ptr, of_gate, real, HIDDEN, BK)
    acc = _times(acc, h_ptr, before, alive, w_ptr + HIDDEN, of_gate, real, HIDDEN, BK)
    acc += tl.load(b_ptr + gate, mask=real, other=0.0)[None, :]
    even, odd = tl.split(acc.reshape(ROWS, CELLS, 2, 2))  # input and cell; forget and output
    in_gate, cell = tl.split(even)
    forget, out_gate = tl.split(odd)
    c_at = c_ptr + before[:, None] + unit[None, :]
    c = tl.sigmoid(forget) * tl.load(c_at, mask=mine, other=0.0) + tl.sigmoid(in_gate) * tanh(cell)
    tl.store(c_at, c, mask=mine)
    to = out_ptr + (i.to(tl.int64) * HIDDEN)[:, None] + unit[None, :]
    tl.store(to, tl.sigmoid(out_gate) * tanh(c), mask=mine)


@triton.jit(do_not_specialize=["turn"])
def project(
    input_ptr, h_ptr, w_ptr, b_ptr, spoke_ptr, tally_ptr, slots_ptr, pred_ptr, turn,
    LAYERS: tl.constexpr, HIDDEN: tl.constexpr, JOINT: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """The last layer's new state, home and into the joint's space."""
    begin()
    count = tl.load(tally_ptr + 3 + 2 * turn)
    first = tl.program_id(0) * ROWS
    if first >= count:
        return
    i, alive, slot = _speakers(first, count, spoke_ptr, slots_ptr, ROWS)
    col = tl.program_id(1) * COLS + tl.arange(0, COLS)
    source = i.to(tl.int64) * HIDDEN
    mine = alive[:, None] & (col < HIDDEN)[None, :]
    top = tl.load(input_ptr + source[:, None] + col[None, :], mask=mine, other=0.0)
    home = (slot * (LAYERS * HIDDEN) + (LAYERS - 1) * HIDDEN)[:, None] + col[None, :]
    tl.store(h_ptr + home, top, mask=mine)
    out = tl.zeros((ROWS, COLS), tl.float32)
    out = _times(out, input_ptr, source, alive, w_ptr, col * HIDDEN, col < JOINT, HIDDEN, BK)
    out += tl.load(b_ptr + col, mask=col < JOINT, other=0.0)[None, :]
    to = pred_ptr + (slot * JOINT)[:, None] + col[None, :]
    tl.store(to, out, mask=alive[:, None] & (col < JOINT)[None, :])
