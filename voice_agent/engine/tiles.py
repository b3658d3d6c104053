"""Which tile a matrix product uses, by its shape. Speed alone: no tile changes a number.

Found on an H100 by `benchmarks/gpu_tiles.py`.
"""

from __future__ import annotations

from voice_agent.engine.kernels.linear import Tile


def tile(rows: int, n: int, k: int, *, wide: bool = False, parts: int = 1) -> Tile:
    """Pick a tile.

    Args:
        rows: rows of x, at most.
        n: rows of w.
        k: of the sum.
        wide: the operands are float32, so a tile holds half as much.
        parts: of the sum.
    """
    if parts > 1:
        return _of_parts(rows, wide)
    if wide:
        return Tile(64, 16, 64, stages=3) if rows <= 64 else Tile(64, 64, 32, stages=3)
    if rows <= 64:
        return Tile(64, 32 if n > 2048 else 16, 128, stages=5)
    if rows <= 256:
        return Tile(64, 64, 64, stages=5) if n >= 2048 else Tile(64, 32, 128, stages=5)
    if rows <= 512:
        if n > 2048:
            return Tile(128, 128, 64, warps=8, stages=4)
        if n == 2048:
            return Tile(64, 128, 64, stages=4)
        return Tile(64, 64, 128, stages=4) if k > 2048 else Tile(64, 64, 64, stages=5)
    if rows <= 2048 and n <= 2048:
        if rows <= 1024 and n <= 1024:
            return Tile(64, 128, 64, stages=4)
        return Tile(128, 128, 64, warps=8, stages=4)
    if n >= 1024:
        return Tile(128, 256, 64, warps=8, stages=3)
    return Tile(128, 128, 64, warps=8, stages=4)


def _of_parts(rows: int, wide: bool) -> Tile:
    """For long sums: their parts apart while there are few rows; two sums to hold otherwise."""
    if wide:
        few = Tile(64, 16, 64, stages=3, apart=True)
        return few if rows <= 64 else Tile(64, 64, 32, stages=3)
    if rows <= 64:
        return Tile(64, 32, 128, stages=5, apart=True)
    if rows <= 256:
        return Tile(64, 128, 64, stages=4, apart=True)
    if rows <= 512:
        return Tile(128, 128, 64, stages=4, apart=True)
    if rows <= 1024:
        return Tile(64, 128, 64, stages=4)
    return Tile(128, 128, 64, warps=8, stages=4)
