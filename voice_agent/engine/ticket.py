"""A step on its way from `EngineRunner.launch` to `EngineRunner.collect`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from voice_agent.engine.emissions import Emissions

if TYPE_CHECKING:
    from voice_agent.engine.fused import Inputs


@dataclass(frozen=True, slots=True)
class Captured:
    """One bucket's step.

    Attributes:
        inputs: static.
        step: runs it.
        more: goes on with the decoder where lanes were left busy.
        encoded: its encoder frames, (bucket · chunk, d_model), until the next step.
        projected: the same in the joint's space, (bucket · chunk, joint_hidden).
    """

    inputs: Inputs
    step: Callable[[], None]
    more: Callable[[], None]
    encoded: torch.Tensor
    projected: torch.Tensor


@dataclass(slots=True)
class Ticket:
    """A step on its way.

    Attributes:
        lanes: that it computes.
        right: their right context.
        hosted: lanes whose decoding is left to the host.
        captured: what runs; None where the step is done already.
        results: host memory that the device's results come to.
        fetched: tokens that were asked for.
        event: after which they are there; None on a CPU.
        settled: they are there, and the device is done with the step.
        emissions: what was said, once it is known.
        before: of parts of the batch that were computed before this one.
        first: lane of the batch that this part begins with.
    """

    lanes: int
    right: int
    hosted: list[int] = field(default_factory=list)
    captured: Captured | None = None
    results: torch.Tensor | None = None
    fetched: int = 0
    event: torch.cuda.Event | None = None
    settled: bool = False
    emissions: Emissions | None = None
    before: list[Emissions] = field(default_factory=list)
    first: int = 0
