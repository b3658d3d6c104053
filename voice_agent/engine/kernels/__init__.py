"""Triton kernels of the GPU step. Import a module of this package only where Triton is there.

Each works for as many lanes as a number on the device says: programs beyond it end at once, so one
captured graph serves every number of lanes up to its bucket, and no padding is computed. A row's
numbers depend on that row alone, in whatever company: sums run over K in one order, which neither
the tile nor the bucket changes.

Every kernel has a plain twin in `naive.py`.
"""

from __future__ import annotations


def reason_missing() -> str | None:
    """Why the kernels cannot run here; None if they can."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return "Triton is not installed"
    return None
