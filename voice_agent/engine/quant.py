"""8-bit weights: an int8 matrix with a float32 scale for each of its rows (output channels)."""

from __future__ import annotations

import torch


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
