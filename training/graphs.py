"""Steps as CUDA graphs: one launch for each, where one by one they would be thousands.

A small model's kernels are over before Python has launched the next one; captured once for every
shape of a batch, they follow each other without it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.step import Phase, Played, Step


class CaptureFailed(RuntimeError):
    """A step does something that no graph can hold."""


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    played: Played  # what it reads
    losses: dict[str, Tensor]  # what it writes, beside the gradients


class Graphs:
    """`Step.gradients`, replayed; captured at the first batch of every shape and phase."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self._made: dict[tuple, _Captured] = {}
        # They run one after another, so they may all work in the same memory.
        self._memory = torch.cuda.graph_pool_handle()

    def clear(self) -> None:
        """Forget all graphs, and give their memory back."""
        self._made.clear()
        self._memory = torch.cuda.graph_pool_handle()
        torch.cuda.empty_cache()

    def ready(self, played: Played, phase: Phase) -> bool:
        """Return whether a batch like this has been captured."""
        return (played.shapes(), phase) in self._made

    def gradients(self, played: Played, phase: Phase) -> dict[str, Tensor]:
        """Fill the gradients and return the losses, which the next step overwrites.

        Args:
            played: on the CPU.
            phase: which losses there are.

        Raises:
            CaptureFailed: only one by one can these steps be taken.
        """
        key = played.shapes(), phase
        if key not in self._made:
            self._made[key] = self._capture(played, phase)
        made = self._made[key]
        for there, here in zip(made.played.tensors(), played.tensors(), strict=True):
            there.copy_(here.pin_memory(), non_blocking=True)
        made.graph.replay()
        return made.losses

    def _capture(self, played: Played, phase: Phase) -> _Captured:
        there = played.to(self.step.device)
        # Once before, aside: libraries make their plans and workspaces at first use.
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            self.step.gradients(there, phase)
        torch.cuda.current_stream().wait_stream(aside)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        graph = torch.cuda.CUDAGraph()
        # Other threads ask the device about collectives meanwhile, which is none of the capture's.
        try:
            with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
                losses = self.step.gradients(there, phase)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise CaptureFailed(str(error)) from error
        return _Captured(graph, there, losses)
