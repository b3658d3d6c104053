"""Which tile a matrix product uses, by its shape. Speed alone: no tile changes a number."""

from __future__ import annotations

from voice_agent.engine.kernels.linear import Tile


def tile(rows: int, n: int, k: int, *, wide: bool = False) -> Tile:
    """Pick a tile.

    Args:
        rows: rows of x, at most.
        n: rows of w.
        k: of the sum.
        wide: the operands are float32, so a tile holds half as much.
    """
    if wide:
        return Tile(64, 16, 64, stages=3) if rows <= 64 else Tile(64, 64, 32, stages=3)
    if rows <= 64:
        return Tile(64, 16 if n <= 2048 else 32, 128, stages=5)
    if rows <= 256:
        return Tile(64, 64, 128, stages=4)
    if rows <= 1024:
        return Tile(64, 128, 64, stages=4) if n > 2048 else Tile(64, 64, 128, stages=4)
    return Tile(128, 256, 64, warps=8, stages=3) if n >= 1024 else Tile(128, 128, 64, 8, 3)
