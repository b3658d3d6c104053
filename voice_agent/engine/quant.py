"""8-bit weights: an int8 matrix with a float32 scale for each of its rows (output channels).

On a GPU our kernels take them as they are. On an x86 CPU fbgemm's dynamically quantised product
does, which rounds the other operand too. Left to itself that would cost words, and let a stream's
words depend on its mates, as the steps that it rounds in follow from the least and the greatest
number of the whole operand. So every row is brought to the range of those steps here, is given as
two rows, whole steps and what they leave over, and a row that holds both ends of the range goes
with them: whatever the others are, a row is rounded in the same way. (Of integers a sum is exact,
in any order.) On other CPUs torch's weight-only product takes the matrix, with the other operand
in bfloat16, each row by itself.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F


def quantize_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round a matrix to int8, symmetrically.

    Args:
        weight: shape (n, k).

    Returns:
        int8, shape (n, k), and float32, shape (n,): weight is about data · scale[:, None].
    """
    scale = weight.float().abs().amax(dim=1).clamp_min(1e-8) / 127
    data = (weight.float() / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
    return data, scale


@dataclass(frozen=True, slots=True)
class Int8Matrix:
    """A matrix in 8 bits, in place of a float one.

    Attributes:
        data: int8, shape (n, k); or the same as fbgemm packs it.
        scale: float32, shape (n,).
    """

    data: torch.Tensor | torch.ScriptObject
    scale: torch.Tensor


_SEVEN_BITS, _EIGHT_BITS = 63, 127
"""Steps on either side of 0."""

Affine = tuple[torch.Tensor | Int8Matrix, torch.Tensor | None]


def quantized(pair: Affine) -> Affine:
    """The same layer with its matrix in 8 bits, packed where `linear` has a product for that."""
    weight, bias = pair
    assert isinstance(weight, torch.Tensor)
    data, scale = quantize_rows(weight)
    # aarch64 has the same product in qnnpack, which nobody has held to anything here.
    packs = weight.device.type == "cpu" and "fbgemm" in torch.backends.quantized.supported_engines
    return Int8Matrix(_packed(data) if packs else data, scale), bias


def linear(x: torch.Tensor, pair: Affine) -> torch.Tensor:
    """F.linear, for either kind of matrix.

    Args:
        x: shape (..., k), k at least 2.
        pair: matrix (n, k), and bias (n,) or None.

    Returns:
        shape (..., n), in x's dtype.
    """
    weight, bias = pair
    if isinstance(weight, torch.Tensor):
        return F.linear(x, weight, bias)
    flat = x.reshape(-1, x.shape[-1])
    if isinstance(weight.data, torch.Tensor):
        ones = torch.ones(len(weight.scale), dtype=torch.bfloat16, device=x.device)
        out = torch._weight_int8pack_mm(flat.to(torch.bfloat16), weight.data, ones).float()
    else:
        out = _by_steps(flat.float(), weight.data)
    out *= weight.scale
    if bias is not None:
        out += bias
    return out.to(x.dtype).view(*x.shape[:-1], -1)


def _by_steps(x: torch.Tensor, packed: torch.ScriptObject) -> torch.Tensor:
    """Multiply, each row of x rounded by its own magnitude to 14 bits, or 16 with VNNI.

    Args:
        x: float32, shape (rows, k).
        packed: what `_packed` made of (n, k).

    Returns:
        float32, shape (rows, n).
    """
    steps = _steps()
    largest = torch.linalg.vector_norm(x, float("inf"), dim=1, keepdim=True).clamp_min_(1e-30)
    # A row that is not finite stays so by `largest`; in here it would move the ends for all.
    exact = (x * (steps / largest)).nan_to_num_()
    whole = exact.round()
    over = exact.sub_(whole).mul_(2 * steps)  # within half a step, so within the range again
    rows = torch.cat([whole, over, _ends(x.shape[1])])
    out = torch.ops.quantized.linear_dynamic(rows, packed, reduce_range=steps == _SEVEN_BITS)
    of_whole, of_over, _ = out.split([len(x), len(x), 1])
    return of_whole.add_(of_over, alpha=0.5 / steps).mul_(largest / steps)


def _packed(data: torch.Tensor) -> torch.ScriptObject:
    """Lay an int8 matrix (n, k) out for fbgemm."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"
    try:
        with warnings.catch_warnings():  # torch means to drop these tensors; the product stays
            warnings.simplefilter("ignore", UserWarning)
            weight = torch._make_per_tensor_quantized_tensor(data, 1.0, 0)
        return torch.ops.quantized.linear_prepack(weight, None)
    finally:
        torch.backends.quantized.engine = before


@cache  # by k, of which a model has few
def _ends(k: int) -> torch.Tensor:
    """The row that says how far rows go, so that a step is 1: shape (1, k)."""
    row = torch.full((1, k), -float(_steps() + 1))
    row[0, 0] = float(_steps())
    return row


@cache
def _steps() -> int:
    """How far from 0 a rounded operand goes: less far where sums of 8-bit products saturate.

    Without VNNI the sum of two products is kept in 16 bits, and 2 · 255 · 127 does not fit.
    """
    x = torch.tensor([[127.0], [-128.0]]).expand(2, 64)
    packed = _packed(torch.full((16, 64), 127, dtype=torch.int8))
    out = torch.ops.quantized.linear_dynamic(x, packed, reduce_range=False)
    return _EIGHT_BITS if out[0, 0] == 64 * 127 * 127 else _SEVEN_BITS
