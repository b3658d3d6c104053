"""The timing of steps: correctness first, then clocks, the most valuable batches first.

The fp32 engine on the CPU is the reference (the test suite holds it to NeMo). A system is
streamed over the same short audio, at the batch that is to be timed, and its tokens compared. In
float32 not one may differ; in 16 or 8 bits the share that does is stated, and has a limit (a lane
counts up to its first difference). What does not pass has no row.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from voice_agent.bench.engine_audio import noise, samples_for, windows
from voice_agent.bench.engine_floor import Ceilings, step_counts
from voice_agent.bench.engine_rows import Report, StepRow
from voice_agent.bench.engine_systems import Ours, System, compare, edits
from voice_agent.engine.chunks import Chunks

if TYPE_CHECKING:
    import torch

    from voice_agent.engine.checkpoint import Checkpoint

REFERENCE_LANES = 8
REFERENCE_STEPS = 32
LEAST_STEPS = 10
_ENOUGH_TOKENS = 48
_DRAWS = 4
_ROW_S = 15.0  # for warming up and timing one batch, also where its share of the time is less
_POOL_NUMBERS = 2**25  # of all windows that are drawn for one batch
_ITEM = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and how.

    Attributes:
        model: checkpoint or shape, for the rows.
        right: right context.
        dtype: of the encoder, by name.
        device: where.
        batches: in the order of their value.
        steps: to time for each.
        weights: "int8" or None.
        kv: "int8" or None.
        threads: of one operation on a CPU; None for torch's choice.
        max_token_error: a row's limit where the precision is below float32.
        peers_up_to: the largest batch that others are timed at.
    """

    model: str
    right: int
    dtype: str
    device: torch.device
    batches: tuple[int, ...]
    steps: int
    weights: str | None = None
    kv: str | None = None
    threads: int | None = None
    max_token_error: float = 0.05
    peers_up_to: int = 1024

    @property
    def precision(self) -> str:
        """As a row says it: "bfloat16, weights int8"."""
        eight = [f"{k} {v}" for k, v in (("weights", self.weights), ("kv", self.kv)) if v]
        return ", ".join([self.dtype, *eight])

    @property
    def exact(self) -> bool:
        """Whether tokens must be equal."""
        return self.precision == "float32"

    def torch_dtype(self) -> torch.dtype:
        """As torch knows it."""
        import torch

        return {"float32": torch.float32, "bfloat16": torch.bfloat16,
                "float16": torch.float16}[self.dtype]  # fmt: skip


@dataclass(slots=True)
class Reference:
    """Short audio, and what the fp32 engine on the CPU says to it, by lane."""

    windows: np.ndarray
    tokens: list[list[int]] = field(default_factory=list)

    @classmethod
    def of(cls, checkpoint: Checkpoint, right: int, seed: int | None = None) -> Reference:
        """Draw audio and stream it."""
        import torch

        chunks = Chunks.of(checkpoint.config, right)
        steps = max(3, -(-REFERENCE_STEPS // chunks.frames))
        ours = Ours(checkpoint, slots=REFERENCE_LANES, device="cpu", dtype=torch.float32)
        rng = np.random.default_rng(seed)
        for _ in range(_DRAWS):  # one that says next to nothing would prove next to nothing
            audio = noise(REFERENCE_LANES, samples_for(chunks, steps), rng)
            made = cls(windows(audio, chunks, steps))
            made.tokens = ours.stream(iter(made.windows), right).tokens
            if made.total >= _ENOUGH_TOKENS:
                break
        return made

    @property
    def total(self) -> int:
        """Tokens in all lanes."""
        return sum(map(len, self.tokens))

    def compare(self, system: System, batch: int, right: int) -> tuple[int, int]:
        """Tokens compared, and wrong ones, of a system that steps in batches of this size.

        A small batch takes the lanes in turns; a large one holds all of them among strangers. Of
        one that is not held to its tokens (`unheld` says why) all edits are counted.
        """
        lanes = len(self.tokens)
        others = _pool(batch, self.windows.shape[2]) if batch > lanes else []
        said: list[list[int]] = []
        for first in range(0, lanes, batch):
            known = self.windows[:, first : first + batch]
            strangers = batch - known.shape[1] if others else 0
            # Strangers come first, so that nobody sits where the reference sat.
            crowd = (
                np.concatenate([others[step % len(others)][:strangers], w]) if others else w
                for step, w in enumerate(known)
            )
            said += system.stream(crowd, right).tokens[strangers:]
        if hasattr(system, "unheld"):
            return self.total, sum(map(edits, said, self.tokens))
        return compare(said, self.tokens)


class Run:
    """Fills a report, until a deadline."""

    def __init__(
        self, plan: Plan, report: Report, ceilings: Ceilings, machine: str, commit: str,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        """Take what rows carry.

        Args:
            plan: what is measured.
            report: filled and saved, row by row.
            ceilings: of this machine.
            machine: for the rows.
            commit: for the rows.
            say: tells a person how far it is.
        """
        self.plan, self.report, self.ceilings = plan, report, ceilings
        self.machine, self.commit, self.say = machine, commit, say

    def leave_out(self, what: str, why: str) -> None:
        """Say why something has no row."""
        self.report.problems[what] = why
        self.report.save()
        self.say(f"{what}: {why}")

    def time_system(
        self,
        system: System,
        checkpoint: Checkpoint,
        reference: Reference,
        batches: Sequence[int],
        deadline: float,
    ) -> None:
        """Compare, then time, one system at each batch.

        Args:
            system: what steps.
            checkpoint: for the floor.
            reference: what it is compared with.
            batches: lanes, in the order of their value.
            deadline: on `time.monotonic`.
        """
        plan = self.plan
        for number, batch in enumerate(batches):
            what = f"{system.name} at batch {batch:,}"
            if time.monotonic() > deadline:
                self.leave_out(what, "not measured: the time (--budget-s) was used up")
                continue
            try:
                compared = reference.compare(system, batch, plan.right)
                held = not hasattr(system, "unheld")
                if held and compared[1] > (0 if plan.exact else plan.max_token_error * compared[0]):
                    allowed = "none" if plan.exact else f"{plan.max_token_error:.1%}"
                    self.leave_out(
                        what,
                        f"failed parity, no row: {compared[1]} of {compared[0]} tokens are not "
                        f"the fp32 reference's, and {allowed} may be other",
                    )
                    continue
                if time.monotonic() > deadline:
                    self.leave_out(what, "not timed: comparing it took the rest of its time")
                    continue
                share = (deadline - time.monotonic()) / (len(batches) - number)
                until = min(deadline, time.monotonic() + max(_ROW_S, share))
                row = self._time(system, checkpoint, batch, compared, until)
            except Exception as error:  # a peer's failure must not cost the rows that stand
                if not _out_of_memory(error):
                    raise
                gc.collect()
                self.leave_out(what, f"does not fit the memory ({error})")
                continue
            if row is None:
                self.leave_out(
                    what, f"not measured: fewer than {LEAST_STEPS} steps in its share of --budget-s"
                )
                continue
            self.report.steps.append(row)
            self.report.save()
            self.say(
                f"{what}: p50 {row.p50_ms:.3g} ms, p99 {row.p99_ms:.3g}, floor "
                f"{row.floor_ms:.3g}, tokens wrong {row.wrong_tokens} of {row.tokens_compared}"
            )

    def _time(
        self,
        system: System,
        checkpoint: Checkpoint,
        batch: int,
        compared: tuple[int, int],
        until: float,
    ) -> StepRow | None:
        plan, config = self.plan, checkpoint.config
        chunks = Chunks.of(config, plan.right)
        # Until every lane has its whole past, steps are cheaper than they will be.
        warm = -(-config.encoder.left(plan.right) // chunks.frames) + 3
        pool = _pool(batch, chunks.window_samples)
        streamed = system.stream(_fresh(pool, warm + plan.steps, until), plan.right)
        taken = 1000 * np.asarray(streamed.step_s[warm:])
        if len(taken) < LEAST_STEPS:
            return None
        tokens = sum(streamed.counts[warm:]) if streamed.counts else None
        frames = batch * chunks.frames
        emitted = (
            tokens / (frames * len(taken))
            if tokens is not None
            else sum(map(len, streamed.tokens)) / (frames * len(streamed.step_s))
        )
        parts: dict[str, float] = {}
        if isinstance(system, Ours):
            parts = system.parts(batch, plan.right, pool[0])
        item = _ITEM[plan.dtype]
        counts = step_counts(
            config, batch, plan.right, weight_bytes=_ITEM[plan.weights or plan.dtype],
            kv_bytes=_ITEM[plan.kv or plan.dtype], state_bytes=item, tokens_a_frame=emitted,
        )  # fmt: skip
        by_bytes, by_flop = self.ceilings.floor_ms(counts)
        p50, p95, p99 = (float(p) for p in np.percentile(taken, [50, 95, 99]))
        return StepRow(
            system=system.name, includes=system.includes, machine=self.machine,
            commit=self.commit, model=plan.model,
            dtype=getattr(system, "precision", plan.precision), right=plan.right,
            chunk_ms=round(1000 * chunks.frames * config.frame_s), batch=batch, steps=len(taken),
            p50_ms=p50, p95_ms=p95, p99_ms=p99, features_ms=parts.get("features"),
            encoder_ms=parts.get("encoder"), decoder_ms=parts.get("decoder"),
            bytes_floor_ms=by_bytes, flop_floor_ms=by_flop, tokens_a_frame=emitted,
            tokens_compared=compared[0], wrong_tokens=compared[1],
        )  # fmt: skip


def _pool(batch: int, samples: int) -> list[np.ndarray]:
    """Windows of fresh noise, more than one, so that no cache holds them all."""
    rng = np.random.default_rng()
    sets = int(np.clip(_POOL_NUMBERS // (batch * samples), 3, 256))
    return [noise(batch, samples, rng) for _ in range(sets)]


def _fresh(pool: Sequence[np.ndarray], steps: int, until: float) -> Iterator[np.ndarray]:
    """At least one: transformers refuses to generate from nothing."""
    for step in range(steps):
        if step and time.monotonic() > until:
            return
        yield pool[step % len(pool)]


def _out_of_memory(error: BaseException) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError)


def make_ours(plan: Plan, checkpoint: Checkpoint, slots: int) -> tuple[Ours, dict[str, Any]]:
    """Our engine with so many slots, and what its start took."""
    import torch

    cuda = plan.device.type == "cuda"
    before = torch.cuda.memory_allocated(plan.device) if cuda else 0
    began = time.monotonic()
    ours = Ours(
        checkpoint, slots=slots, device=plan.device, dtype=plan.torch_dtype(),
        threads=plan.threads, weights=plan.weights, kv=plan.kv, max_batch=slots,
    )  # fmt: skip
    about: dict[str, Any] = {"slots": slots, "ready_s": round(time.monotonic() - began, 2)}
    for name in ("mode", "reason", "report"):  # whether the step is captured, and what that took
        if found := getattr(ours.runner, name, ""):
            about[name] = found
    if cuda:
        torch.cuda.synchronize(plan.device)
        about["gpu_bytes"] = torch.cuda.memory_allocated(plan.device) - before
        about["gpu_bytes_reserved"] = torch.cuda.memory_reserved(plan.device)
    return ours, about
