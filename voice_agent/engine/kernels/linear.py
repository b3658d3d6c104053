"""Matrix products with what follows them: x @ w.T, then bias, activation, another layout.

    out[m, n] = act(sum_k x[m, k] · w[n, k] · scale[n] + bias[n])

A row's sum runs over k in the order of the tensor core's instructions, which no tile changes: so a
row's numbers depend on neither the tile nor the bucket (benchmarks/gpu_tiles.py compares bits).
A long sum is made of parts (`Weight.parts`), each from zero, added in their order. With few rows it
is k that takes the time: a program has one part, and who reads the product adds them (`add_norm`).
With many rows it has them all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from voice_agent.engine.kernels.launch import OPTIONS, OVERLAP, begin, prefetch


@dataclass(frozen=True, slots=True)
class Tile:
    """One program's share. Changes speed, never a number.

    Attributes:
        m: rows of x.
        n: rows of w.
        k: of the sum, a load.
        warps: of a program.
        stages: loads in flight.
        apart: each part of a long sum in a program of its own.
    """

    m: int
    n: int
    k: int
    warps: int = 4
    stages: int = 3
    apart: bool = False


LONG = 2048
"""A sum over a multiple of so many has `PARTS` parts."""
PARTS = 4


@triton.jit
def _activate(x, ACT: tl.constexpr):
    if ACT == "silu":
        x = x * tl.sigmoid(x)
    if ACT == "relu":
        x = tl.maximum(x, 0.0)
    return x


@triton.jit
def _sum(
    x_ptr, w_ptr, x_at, w_at, alive, real, k, length,
    EVEN_N: tl.constexpr, EVEN_K: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """A tile of x @ w.T over the next `length` of k, from zero."""
    acc = tl.zeros((BM, BN), tl.float32)
    for at in range(0, length, BK):
        if EVEN_K:
            x = tl.load(x_ptr + x_at, mask=alive[:, None], other=0.0)
            if EVEN_N:
                w = tl.load(w_ptr + w_at)
            else:
                w = tl.load(w_ptr + w_at, mask=real[:, None], other=0.0)
        else:
            inside = k < length - at
            x = tl.load(x_ptr + x_at, mask=alive[:, None] & inside[None, :], other=0.0)
            w = tl.load(w_ptr + w_at, mask=real[:, None] & inside[None, :], other=0.0)
        if PRECISION == "tf32x3":
            x = x.to(tl.float32)
        acc = tl.dot(x, tl.trans(w.to(x.dtype)), acc, input_precision=PRECISION)
        x_ptr += BK
        w_ptr += BK
    return acc


@triton.jit(do_not_specialize=["rows_a_lane", "out_group", "out_skip"])
def _linear(
    x_ptr, w_ptr, scale_ptr, bias_ptr, row_bias_ptr, out_ptr, lanes_ptr, row_lane_ptr,
    rows_a_lane, N, K, out_group, out_skip,
    ACT: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_ROW_BIAS: tl.constexpr,
    REGROUP: tl.constexpr, EVEN_N: tl.constexpr, EVEN_K: tl.constexpr, AHEAD: tl.constexpr,
    PRECISION: tl.constexpr, PARTS: tl.constexpr, APART: tl.constexpr, apart_stride,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Rows m of x [., K] and n of w [N, K]. Offsets fit 32 bits: `linear` sees to it."""
    pid = tl.program_id(0)
    length = K // PARTS
    if PARTS > 1:
        length = tl.multiple_of(length, 16)
    with_bias = N
    if APART:
        part = pid % PARTS
        with_bias = tl.where(part == 0, N, 0)
        pid = pid // PARTS
        x_ptr += part * length
        w_ptr += part * length
        out_ptr += part.to(tl.int64) * apart_stride
    tiles_n = tl.cdiv(N, BN)
    if AHEAD:  # few rows: the time goes to fetching weights, and those do not wait for x
        line: tl.constexpr = 128 // (w_ptr.dtype.element_ty.primitive_bitwidth // 8)
        at_n = tl.minimum(pid % tiles_n * BN + tl.arange(0, BN), N - 1)
        ahead = length if APART else K
        for at in range(0, ahead, 16 * line):
            at_k = tl.minimum(at + tl.arange(0, 16) * line, ahead - 1)
            prefetch(w_ptr + (at_n[:, None] * K + at_k[None, :]))
    rows = tl.load(lanes_ptr) * rows_a_lane
    tiles_m = tl.cdiv(rows, BM)
    # Neighbours in time share rows of w and of x, so that both stay in the L2 cache.
    in_group = GROUP * tiles_n
    first_m = (pid // in_group) * GROUP
    size_m = tl.maximum(min(tiles_m - first_m, GROUP), 1)
    m = (first_m + (pid % in_group) % size_m) * BM + tl.arange(0, BM)
    n = ((pid % in_group) // size_m) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    alive = m < rows
    real = n < N
    x_at = m[:, None] * K + k[None, :]
    w_at = n[:, None] * K + k[None, :]
    if HAS_SCALE:
        scale = tl.load(scale_ptr + n, mask=real, other=0.0)
    if HAS_BIAS:
        bias = tl.load(bias_ptr + n, mask=n < with_bias, other=0.0).to(tl.float32)
    begin()
    if pid >= tiles_m * tiles_n:
        return
    acc = _sum(x_ptr, w_ptr, x_at, w_at, alive, real, k, length,
               EVEN_N, EVEN_K, PRECISION, BM, BN, BK)  # fmt: skip
    if HAS_SCALE:
        acc *= scale[None, :]
    if HAS_BIAS:
        acc += bias[None, :]
    if PARTS > 1 and not APART:
        for part in range(1, PARTS):
            at = part * length
            acc += _sum(x_ptr + at, w_ptr + at, x_at, w_at, alive, real, k, length,
                        EVEN_N, EVEN_K, PRECISION, BM, BN, BK)  # fmt: skip
    if HAS_ROW_BIAS:
        owner = tl.load(row_lane_ptr + m // rows_a_lane, mask=alive, other=0)
        acc += tl.load(
            row_bias_ptr + owner[:, None] * N + n[None, :],
            mask=alive[:, None] & real[None, :], other=0.0,
        )  # fmt: skip
    acc = _activate(acc, ACT)
    if REGROUP:  # groups of rows may lie apart in `out`, with room for rows before each
        m = m + (m // out_group + 1) * out_skip
    to = out_ptr + (m[:, None] * N + n[None, :])
    tl.store(to, acc.to(out_ptr.dtype.element_ty), mask=alive[:, None] & real[None, :])


@dataclass(frozen=True, slots=True)
class Weight:
    """A matrix and what belongs to it.

    Attributes:
        data: shape (n, k): float, or int8 with `scale`.
        bias: shape (n,), or None.
        scale: float32, shape (n,): of each row of int8 data.
    """

    data: torch.Tensor
    bias: torch.Tensor | None = None
    scale: torch.Tensor | None = None

    @property
    def parts(self) -> int:
        """Parts of a row's sum. One of int8: times scale, they might or might not be rounded."""
        return PARTS if self.data.shape[1] % LONG == 0 and self.scale is None else 1


def linear(
    x: torch.Tensor,
    weight: Weight,
    out: torch.Tensor,
    lanes: torch.Tensor,
    tile: Tile,
    *,
    rows: int = 1,
    act: str = "",
    row_bias: tuple[torch.Tensor, torch.Tensor] | None = None,
    out_group: int = 0,
    out_skip: int = 0,
) -> torch.Tensor:
    """Multiply the first lanes' rows.

    Args:
        x: shape (capacity, k), contiguous.
        weight: the matrix.
        out: shape (capacity, n); (parts, capacity, n), float32, of a tile whose parts are apart.
        lanes: int32, shape (1,): how many lanes there are; rows beyond stay as they were.
        tile: of the work.
        rows: rows of x a lane.
        act: "silu", "relu" or "".
        row_bias: (table float32 (any, n), int32 (lanes,)): a bias chosen by lane.
        out_group: rows of `out` that lie together; 0 for all of them.
        out_skip: rows left free before each such group.

    Returns:
        out.
    """
    capacity, k = x.shape
    n = weight.data.shape[0]
    pieces = weight.parts
    apart = tile.apart and pieces > 1
    assert max(x.numel(), weight.data.numel(), capacity * n) < 2**31
    assert not apart or (act == "" and row_bias is None and not out_group)
    block = min(tile.k, max(16, triton.next_power_of_2(k)))
    if pieces > 1:  # no load crosses from one part into the next
        block = min(block, k // pieces & -(k // pieces))
    programs = triton.cdiv(capacity, tile.m) * triton.cdiv(n, tile.n) * (pieces if apart else 1)
    _linear[(programs,)](
        x, weight.data, weight.scale, weight.bias,
        row_bias[0] if row_bias else None, out, lanes, row_bias[1] if row_bias else None,
        rows, n, k, out_group, out_skip,
        ACT=act, HAS_SCALE=weight.scale is not None, HAS_BIAS=weight.bias is not None,
        HAS_ROW_BIAS=row_bias is not None, REGROUP=out_group > 0,
        EVEN_N=n % tile.n == 0, EVEN_K=k % block == 0,
        AHEAD=OVERLAP.value and tile.m <= 64 and tile.n <= 32,
        PRECISION="tf32x3" if torch.float32 in (x.dtype, weight.data.dtype) else "tf32",
        PARTS=pieces, APART=apart, apart_stride=capacity * n,
        BM=tile.m, BN=tile.n, BK=block, GROUP=8, num_warps=tile.warps,
        num_stages=tile.stages, **OPTIONS,
    )  # fmt: skip
    return out
