"""How one kernel begins while the one before ends: programmatic dependent launch.

On Hopper and later a kernel's programs may be put on the chip while those of the kernel before are
finishing; each then waits until all of that work is visible. In a step of some 400 short kernels
this hides most of what a launch costs. Every program has to call `begin`, those too that have
nothing to do: the wait of the next kernel relies on it.

Before `begin` a kernel may read what the one before does not write: weights, the number of lanes,
their slots and positions, and what was written two kernels ago or earlier, since a program only
starts when every program of the kernel before has come past its own `begin`.
"""

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl


def _available() -> bool:
    if os.environ.get("TRITON_INTERPRET") == "1" or not torch.cuda.is_available():
        return False
    return torch.cuda.get_device_capability()[0] >= 9 and hasattr(
        tl.extra.cuda, "gdc_launch_dependents"
    )


OVERLAP = tl.constexpr(_available())
OPTIONS: dict[str, bool] = {"launch_pdl": True} if OVERLAP.value else {}
"""For every launch."""


@triton.jit
def begin():
    """Wait for the kernel before; let the next one take its place."""
    if OVERLAP:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def seat(lane, slots_ptr, pos_ptr, lanes_ptr):
    """Whether there is such a lane, its slot and its position; of none, slot 0 and position 0."""
    alive = lane < tl.load(lanes_ptr)
    slot = tl.load(slots_ptr + lane, mask=alive, other=0).to(tl.int64)
    return alive, slot, tl.load(pos_ptr + lane, mask=alive, other=0)


@triton.jit
def prefetch(pointers):
    """Have the cache lines under `pointers` brought into the L2 cache."""
    if OVERLAP:
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [pointers],
            dtype=tl.int32, is_pure=False, pack=1,
        )  # fmt: skip
