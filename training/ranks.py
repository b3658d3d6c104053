"""Several processes, a device each, that train one model: what they tell each other at a step.

Every process draws its own batch; the gradients are averaged over those whose batch came through,
so that all take the same step and their weights stay equal. Started by `torch.distributed.run`.
"""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

# The others wait while the first one evaluates and saves.
_PATIENCE = timedelta(minutes=10)


class Ranks:
    """This process among those that train together; alone unless a launcher says otherwise."""

    def __init__(self, device: torch.device) -> None:
        """Meet the others.

        Args:
            device: of this process; on CUDA, the card of its local rank becomes the current one.
        """
        self.rank = int(os.environ.get("RANK", 0))
        self.count = int(os.environ.get("WORLD_SIZE", 1))
        if self.count > 1:
            if device.type == "cuda":
                torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            backend = "nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, timeout=_PATIENCE)
            # What the processes themselves agree on must not wait for the devices.
            self._talk = dist.new_group(backend="gloo", timeout=_PATIENCE)

    @property
    def first(self) -> bool:
        """Whether this one evaluates, saves and reports."""
        return self.rank == 0

    def agreed(self, value: float) -> float:
        """Return what the first process has here; all must ask."""
        if self.count == 1:
            return value
        told = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(told, 0, group=self._talk)
        return float(told)

    @torch.no_grad()
    def share_weights(self, module: nn.Module) -> None:
        """Give all processes the first one's weights."""
        if self.count > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, 0)

    @torch.no_grad()
    def average(self, gradients: Tensor, counts: bool) -> None:
        """Replace gradients by their mean over the processes that have them.

        Args:
            gradients: [n] of all that is trained.
            counts: False where this process's batch failed; nor does one count whose gradients
                are not finite. Should none count, all gradients are zero.
        """
        if self.count == 1:
            return
        # On the device, which is not asked: that would make this process wait for it.
        valid = torch.isfinite(gradients).all() & counts
        told = torch.cat((torch.where(valid, gradients, 0.0), valid[None]))
        dist.all_reduce(told)
        torch.div(told[:-1], told[-1].clamp(min=1.0), out=gradients)

    def leave(self) -> None:
        """Part from the others, all at once."""
        if self.count > 1:
            dist.barrier(group=self._talk)
            dist.destroy_process_group()
