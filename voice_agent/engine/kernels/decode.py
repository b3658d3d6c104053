"""Greedy label-looping on the device: every lane at its own frame, in a bounded number of rounds.

A round asks the joint once for each lane that has frames left, at that lane's frame. Blank moves
the lane to its next frame; a token is written down and moves the prediction network on. So rounds
are needed as many as the lane with the most (frames + tokens) has, two for most chunks of one
frame. Rounds without work end at once; `Tally` tells whether there is work left.

    joint    logits of each busy lane, as (max, argmax, sum of exp) of slices of the vocabulary
    advance  blank or token; lists of who is busy in the next round, and of who spoke
    lstm     one layer of the prediction network for those who spoke (`prediction`)
    project  its output into the joint's space (`prediction`)

float32, as three tf32 products (about 1e-6), with the state in the slots.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from voice_agent.engine.kernels.launch import OPTIONS, begin
from voice_agent.engine.kernels.prediction import CELLS, lstm, packed, project, tanh

ROWS = 32  # lanes a program
_TOKENS = 64  # of the vocabulary, a tile
_SLICES = 32  # of the vocabulary, at most
_BLOCK = 32  # of a sum, a load
_STAGES = 4  # loads in flight


@triton.jit
def _begin(
    slots_ptr, pos_ptr, skip_ptr, lanes_ptr, h_ptr, c_ptr, pred_ptr, h0_ptr, c0_ptr, pred0_ptr,
    frame_ptr, symbols_ptr, busy_ptr, tally_ptr,
    STATE: tl.constexpr, JOINT: tl.constexpr, BS: tl.constexpr, BJ: tl.constexpr,
):  # fmt: skip
    begin()
    lane = tl.program_id(0)
    if lane >= tl.load(lanes_ptr):
        return
    slot = tl.load(slots_ptr + lane).to(tl.int64)
    if tl.load(pos_ptr + lane) == 0:
        s = tl.arange(0, BS)
        tl.store(h_ptr + slot * STATE + s, tl.load(h0_ptr + s, mask=s < STATE), mask=s < STATE)
        tl.store(c_ptr + slot * STATE + s, tl.load(c0_ptr + s, mask=s < STATE), mask=s < STATE)
        j = tl.arange(0, BJ)
        first = tl.load(pred0_ptr + j, mask=j < JOINT)
        tl.store(pred_ptr + slot * JOINT + j, first, mask=j < JOINT)
    tl.store(frame_ptr + lane, 0)
    tl.store(symbols_ptr + lane, 0)
    if tl.load(skip_ptr + lane) == 0:
        tl.store(busy_ptr + tl.atomic_add(tally_ptr + 2, 1), lane)


@triton.jit(do_not_specialize=["turn"])
def _joint(
    encoded_ptr, pred_ptr, w_ptr, b_ptr, slots_ptr, frame_ptr, busy_ptr, tally_ptr, part_ptr,
    turn, capacity, VOCAB,
    JOINT: tl.constexpr, CHUNK: tl.constexpr, ACT: tl.constexpr, TILES: tl.constexpr,
    ROWS: tl.constexpr, TOKENS: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    begin()
    count = tl.load(tally_ptr + 2 + 2 * turn)
    first = tl.program_id(0) * ROWS
    if first >= count:
        return
    i = first + tl.arange(0, ROWS)
    alive = i < count
    busy_ptr += (turn % 2) * capacity
    lane = tl.load(busy_ptr + i, mask=alive, other=0)
    slot = tl.load(slots_ptr + lane, mask=alive, other=0).to(tl.int64)
    frame = tl.load(frame_ptr + lane, mask=alive, other=0)
    encoded_at = (lane.to(tl.int64) * CHUNK + frame) * JOINT
    best = tl.full((ROWS,), float("-inf"), tl.float32)
    arg = tl.zeros((ROWS,), tl.int32)
    total = tl.zeros((ROWS,), tl.float32)
    for tile in range(TILES):
        token = (tl.program_id(1) * TILES + tile) * TOKENS + tl.arange(0, TOKENS)
        real = token < VOCAB
        logits = tl.zeros((ROWS, TOKENS), tl.float32)
        for start in range(0, JOINT, BK):
            k = start + tl.arange(0, BK)
            seen = alive[:, None] & (k < JOINT)[None, :]
            hidden = tl.load(encoded_ptr + encoded_at[:, None] + k[None, :], mask=seen, other=0.0)
            hidden += tl.load(pred_ptr + (slot * JOINT)[:, None] + k[None, :], mask=seen, other=0.0)
            if ACT == "relu":
                hidden = tl.maximum(hidden, 0.0)
            elif ACT == "sigmoid":
                hidden = tl.sigmoid(hidden)
            else:
                hidden = tanh(hidden)
            w = tl.load(
                w_ptr + token.to(tl.int64)[:, None] * JOINT + k[None, :],
                mask=real[:, None] & (k < JOINT)[None, :], other=0.0,
            )  # fmt: skip
            logits = tl.dot(hidden, tl.trans(w), logits, input_precision="tf32x3")
        logits += tl.load(b_ptr + token, mask=real, other=0.0)[None, :]
        logits = tl.where(real[None, :], logits, float("-inf"))
        top = tl.max(logits, axis=1)
        which = tl.min(tl.where(logits == top[:, None], token[None, :], VOCAB), axis=1)
        newest = tl.maximum(best, top)
        safe = tl.where(newest == float("-inf"), 0.0, newest)
        total = total * tl.exp(best - safe) + tl.sum(tl.exp(logits - safe[:, None]), axis=1)
        arg = tl.where(top > best, which, arg)
        best = newest
    at = part_ptr + (tl.program_id(1) * capacity + i) * 3
    tl.store(at, best, mask=alive)
    tl.store(at + 1, arg.to(tl.float32, bitcast=True), mask=alive)
    tl.store(at + 2, total, mask=alive)


@triton.jit(do_not_specialize=["turn"])
def _advance(
    part_ptr, busy_ptr, spoke_ptr, token_ptr, frame_ptr, symbols_ptr, record_ptr, tally_ptr,
    turn, capacity, records, BLANK,
    CHUNK: tl.constexpr, MAX_SYMBOLS: tl.constexpr, SLICES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    begin()
    i = tl.program_id(0)
    if i >= tl.load(tally_ptr + 2 + 2 * turn):
        return
    next_ptr = busy_ptr + ((turn + 1) % 2) * capacity
    busy_ptr += (turn % 2) * capacity
    s = tl.arange(0, BLOCK)
    at = part_ptr + (s * capacity + i) * 3
    tops = tl.load(at, mask=s < SLICES, other=float("-inf"))
    args = tl.load(at + 1, mask=s < SLICES, other=0.0).to(tl.int32, bitcast=True)
    sums = tl.load(at + 2, mask=s < SLICES, other=0.0)
    top = tl.max(tops, axis=0)
    token = tl.min(tl.where((tops == top) & (s < SLICES), args, BLANK + 1), axis=0)
    lane = tl.load(busy_ptr + i)
    frame = tl.load(frame_ptr + lane)
    symbols = tl.load(symbols_ptr + lane)
    if token != BLANK:
        prob = 1.0 / tl.sum(tl.where(s < SLICES, sums * tl.exp(tops - top), 0.0), axis=0)
        at_record = tl.atomic_add(tally_ptr, 1)
        to = record_ptr + at_record.to(tl.int64) * 4
        fits = at_record < records
        tl.store(to, lane, mask=fits)
        tl.store(to + 1, token, mask=fits)
        tl.store(to + 2, frame, mask=fits)
        tl.store(to + 3, prob.to(tl.int32, bitcast=True), mask=fits)
        at_spoke = tl.atomic_add(tally_ptr + 3 + 2 * turn, 1)
        tl.store(spoke_ptr + at_spoke, lane)
        tl.store(token_ptr + at_spoke, token)
        symbols += 1
    if (token == BLANK) | (symbols >= MAX_SYMBOLS):
        frame += 1
        symbols = 0
    tl.store(frame_ptr + lane, frame)
    tl.store(symbols_ptr + lane, symbols)
    if frame < CHUNK:
        tl.store(next_ptr + tl.atomic_add(tally_ptr + 4 + 2 * turn, 1), lane)


@triton.jit
def _go_on(tally_ptr, ROUNDS: tl.constexpr, BLOCK: tl.constexpr):
    """Make the lanes left after the last round the first round's."""
    begin()
    left = tl.load(tally_ptr + 2 + 2 * ROUNDS)
    tl.debug_barrier()
    i = tl.arange(0, BLOCK)
    tl.store(tally_ptr + 2 + i, tl.where(i == 0, left, 0), mask=i < 2 * ROUNDS + 1)


@triton.jit
def _finish(tally_ptr, ROUNDS: tl.constexpr):
    begin()
    tl.store(tally_ptr + 1, tl.load(tally_ptr + 2 + 2 * ROUNDS))


@dataclass(frozen=True, slots=True)
class DecodeWeights:
    """Prediction network and joint, float32, on the device.

    Attributes:
        embed: shape (tokens + 1, hidden).
        lstm: (w_ih, w_hh, b_ih, b_hh) of each layer, as torch has them.
        pred: (weight (joint, hidden), bias).
        out: (weight (tokens + 1, joint), bias).
        activation: of the joint: "relu", "sigmoid" or "tanh".
        blank: id.
        max_symbols: tokens a frame, at most.
        start: (h, c) of shape (layers, hidden) and pred (joint,) before the first token.
    """

    embed: torch.Tensor
    lstm: tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], ...]
    pred: tuple[torch.Tensor, torch.Tensor]
    out: tuple[torch.Tensor, torch.Tensor]
    activation: str
    blank: int
    max_symbols: int
    start: tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class GreedyDecode:
    """Scratch memory of the loop, for any bucket up to `capacity` lanes.

    `results` is what the host reads, int32, shape (1 + records, 4): first (tokens written, lanes
    still busy, unused, unused), then a row (lane, token, frame, bits of the posterior) for each
    token, in no order but that of each lane's own tokens.
    """

    def __init__(
        self, weights: DecodeWeights, capacity: int, records: int, device: torch.device
    ) -> None:
        """Allocate for `capacity` lanes and `records` tokens a step."""
        self.weights = weights
        self._lstm = [packed(*layer) for layer in weights.lstm]
        self.records = records
        hidden = weights.embed.shape[1]
        vocab = weights.out[0].shape[0]
        tiles = triton.cdiv(vocab, _TOKENS)
        self.tiles = triton.cdiv(tiles, _SLICES)
        self.slices = triton.cdiv(tiles, self.tiles)

        def ints(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.int32, device=device)

        def floats(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.float32, device=device)

        self.results = ints(1 + records, 4)
        self.frame, self.symbols = ints(capacity), ints(capacity)
        self.busy, self.spoke, self.token = ints(2, capacity), ints(capacity), ints(capacity)
        self.parts = floats(self.slices, capacity, 3)
        self.hidden = floats(2, capacity, hidden)
        self.tally = ints(64)  # written, left, then (busy, spoke) of each round

    def begin(
        self,
        state: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        slots: torch.Tensor,
        pos: torch.Tensor,
        skip: torch.Tensor,
        lanes: torch.Tensor,
    ) -> None:
        """Lists and counters of a new step; lanes at pos 0 get the state before the first token.

        Args:
            state: lstm_h, lstm_c and pred of the pool.
            slots: int32, shape (capacity of the bucket,).
            pos: int32, likewise.
            skip: int32, likewise: lanes that are decoded elsewhere.
            lanes: int32, shape (1,).
        """
        w = self.weights
        self.tally.zero_()
        size, joint = w.start[0].numel(), w.start[2].numel()
        _begin[(len(slots),)](
            slots, pos, skip, lanes, *state, *w.start, self.frame, self.symbols, self.busy,
            self.tally, STATE=size, JOINT=joint, BS=triton.next_power_of_2(size),
            BJ=triton.next_power_of_2(joint), num_warps=4, **OPTIONS,
        )  # fmt: skip

    def go_on(self, rounds: int) -> None:
        """Before more rounds, where the last ones left lanes busy."""
        block = triton.next_power_of_2(2 * rounds + 1)
        _go_on[(1,)](self.tally, ROUNDS=rounds, BLOCK=block, num_warps=1, **OPTIONS)

    def rounds(
        self,
        count: int,
        encoded: torch.Tensor,
        state: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        slots: torch.Tensor,
        *,
        chunk: int,
    ) -> None:
        """Run rounds.

        Args:
            count: an even number, at most 30.
            encoded: float32, shape (capacity of the bucket · chunk, joint): in the joint's space.
            state: lstm_h, lstm_c and pred of the pool.
            slots: int32, shape (capacity of the bucket,).
            chunk: frames a lane.
        """
        assert count % 2 == 0 and 2 + 2 * count < len(self.tally)
        w, lanes = self.weights, len(slots)
        h, c, pred = state
        layers, hidden = w.start[0].shape
        joint = w.out[0].shape[1]
        tiles = triton.cdiv(lanes, ROWS)
        capacity = self.parts.shape[1]
        for turn in range(count):
            _joint[(tiles, self.slices)](
                encoded, pred, *w.out, slots, self.frame, self.busy, self.tally, self.parts,
                turn, capacity, w.out[0].shape[0],
                JOINT=joint, CHUNK=chunk, ACT=w.activation, TILES=self.tiles, ROWS=ROWS,
                TOKENS=_TOKENS, BK=_BLOCK, num_warps=8, num_stages=_STAGES, **OPTIONS,
            )  # fmt: skip
            _advance[(lanes,)](
                self.parts, self.busy, self.spoke, self.token, self.frame, self.symbols,
                self.results[1:], self.tally, turn, capacity, self.records, w.blank,
                CHUNK=chunk, MAX_SYMBOLS=w.max_symbols, SLICES=self.slices,
                BLOCK=triton.next_power_of_2(self.slices), num_warps=1, **OPTIONS,
            )  # fmt: skip
            source = w.embed
            for layer, (weight, bias) in enumerate(self._lstm):
                target = self.hidden[layer % 2]
                lstm[(tiles, triton.cdiv(hidden, CELLS))](
                    source, self.token, h, c, weight, bias, self.spoke, self.tally, slots,
                    target, turn,
                    LAYER=layer, LAYERS=layers, HIDDEN=hidden, ROWS=ROWS, CELLS=CELLS, BK=_BLOCK,
                    num_warps=8, num_stages=_STAGES, **OPTIONS,
                )  # fmt: skip
                source = target
            project[(tiles, triton.cdiv(max(joint, hidden), 16))](
                source, h, *w.pred, self.spoke, self.tally, slots, pred, turn,
                LAYERS=layers, HIDDEN=hidden, JOINT=joint, ROWS=ROWS, COLS=16, BK=_BLOCK,
                num_warps=4, num_stages=_STAGES, **OPTIONS,
            )  # fmt: skip
        _finish[(1,)](self.tally, ROUNDS=count, num_warps=1, **OPTIONS)
        self.results[0, :2].copy_(self.tally[:2])
