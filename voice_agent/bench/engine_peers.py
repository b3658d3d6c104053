"""The systems beside ours: imported before any clock runs, held to our tokens, then timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from voice_agent.bench.engine_run import Reference, Run
from voice_agent.bench.engine_systems import release
from voice_agent.engine.errors import EngineError

if TYPE_CHECKING:
    from voice_agent.engine.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class Peer:
    """One of them, not built yet.

    Attributes:
        name: as `--beside` has it.
        kind: makes it from a checkpoint, a device and a dtype.
        checkpoint: the weights, in the variant that it computes.
        reference: what our fp32 engine says with that.
    """

    name: str
    kind: Callable[..., Any]
    checkpoint: Checkpoint
    reference: Reference

    @classmethod
    def prepared(
        cls, run: Run, name: str, checkpoint: Checkpoint, reference: Reference
    ) -> Peer | None:
        """Import it; None, and a problem in the report, where that fails."""
        began = time.monotonic()
        try:
            if name == "nemo":
                from voice_agent.bench.engine_nemo import Nemo

                Nemo.need()
                peer = cls(name, Nemo, checkpoint, reference)
            elif name.startswith("sherpa-onnx"):
                from voice_agent.bench.engine_sherpa import Sherpa

                Sherpa.need()
                kind = partial(Sherpa, int8=name == "sherpa-onnx")
                peer = cls(name, kind, checkpoint, reference)
            else:
                from voice_agent.bench.engine_transformers import Transformers, exact

                Transformers.need()
                checkpoint = exact(checkpoint)
                peer = cls(name, Transformers, checkpoint, Reference.of(checkpoint, run.plan.right))
        except Exception as error:  # whatever ails another system costs no row of ours
            run.leave_out(name, f"not measured: {type(error).__name__}: {error}")
            return None
        run.say(f"{name} is imported, in {time.monotonic() - began:.1f} s")
        return peer

    def measure(self, run: Run, batches: Sequence[int], deadline: float) -> None:
        """Build it, check it in float32, and time it; whatever ails it is told."""
        import torch

        plan = run.plan
        try:
            system = self.kind(self.checkpoint, plan.device, torch.float32)
            if hasattr(system, "unheld"):
                run.leave_out(f"{self.name}'s tokens", system.unheld)
            elif not plan.exact:
                self._check_in_float32(run, system)
                system.cast(plan.torch_dtype())
            run.time_system(system, self.checkpoint, self.reference, batches, deadline)
        except Exception as error:
            run.leave_out(self.name, f"not measured: {type(error).__name__}: {error}")
        release(plan.device)

    def _check_in_float32(self, run: Run, system: Any) -> None:
        """The same function as ours? In float32 every token must be equal."""
        compared, wrong = self.reference.compare(system, system.check_lanes, run.plan.right)
        run.report.startup[f"{self.name}_float32"] = {
            "tokens_compared": compared, "wrong_tokens": wrong
        }  # fmt: skip
        run.say(f"{self.name} in float32: {wrong} of {compared} tokens differ from ours")
        if wrong:
            raise EngineError(f"failed parity in float32 ({wrong} of {compared} tokens), no row")
