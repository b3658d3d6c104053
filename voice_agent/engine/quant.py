"""8-bit weights: an int8 matrix with a float32 scale for each of its rows (output channels).

On a GPU our kernels take them as they are. On a CPU torch's own weight-only product does, with the
other operand in bfloat16: each row of it is computed by itself, whatever its mates in the batch.
(Products that also round the other operand to 8 bits scale it by the whole batch: there a stream's
words would depend on its mates.)
"""

from __future__ import annotations

from dataclasses import dataclass

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
        data: int8, shape (n, k).
        scale: float32, shape (n,).
    """

    data: torch.Tensor
    scale: torch.Tensor


Affine = tuple[torch.Tensor | Int8Matrix, torch.Tensor | None]


def quantized(pair: Affine) -> Affine:
    """The same layer with its matrix in 8 bits."""
    weight, bias = pair
    assert isinstance(weight, torch.Tensor)
    return Int8Matrix(*quantize_rows(weight)), bias


def linear(x: torch.Tensor, pair: Affine) -> torch.Tensor:
    """F.linear, for either kind of matrix.

    Args:
        x: shape (..., k).
        pair: matrix (n, k), and bias (n,) or None.

    Returns:
        shape (..., n), in x's dtype.
    """
    weight, bias = pair
    if isinstance(weight, torch.Tensor):
        return F.linear(x, weight, bias)
    flat = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
    ones = torch.ones(len(weight.scale), dtype=torch.bfloat16, device=x.device)
    out = torch._weight_int8pack_mm(flat, weight.data, ones).float() * weight.scale
    if bias is not None:
        out += bias
    return out.to(x.dtype).view(*x.shape[:-1], -1)
