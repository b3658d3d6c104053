"""The training loop of `tiny-en`: a schedule bound to wall time, over a pool that may still grow.

One device a process, and as many processes as `training.ranks` finds; the first of them writes. A
run resumes from `state.pt` in its output folder, and leaves there after every save: `ema.pt`
(averaged weights), `small.pt` (these and the heads in bfloat16, to go on from elsewhere),
`log.jsonl` (a line per report, and after every evaluation the word error rates).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.fastconformer import FastConformerRNNT, ModelShape
from training.graphs import CaptureFailed, Graphs
from training.mel import SAMPLE_RATE
from training.nemo_file import read_weights
from training.pool import Draw, Pool
from training.ranks import Ranks
from training.step import Step
from training.student import Recipe, Student
from training.teacher import WhisperEar


class Trainer:
    """Holds the state of a run; `run` goes on until the deadline."""

    def __init__(
        self,
        shape: ModelShape,
        recipe: Recipe,
        pool: Pool,
        out: Path,
        device: torch.device,
        ear: WhisperEar | None = None,
        evaluate: Callable[[FastConformerRNNT, Student], dict[str, float]] | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.ranks = ranks or Ranks(device)
        self.recipe, self.pool, self.out, self.device = recipe, pool, out, device
        self.evaluate = evaluate
        self.work = Step(shape, recipe, pool, device, ear)
        self.student = self.work.student
        self.graphs = Graphs(self.work) if recipe.graphs else None
        self.averaged = FastConformerRNNT(shape).to(device).eval()
        self.averaged.load_state_dict(self.student.model.state_dict())
        both = (self.averaged, self.student.model)
        self._averaging = [list(model.parameters()) for model in both]
        self.anew: set[str] = set()  # what a run that goes on did not find
        self.optimizer = self._optimizer()
        self._draw_from(0)
        # The first process's clock: rate and progress must be the same everywhere.
        self.now = self.started = self.ranks.agreed(time.time())
        self.step, self.audio_s = 0, 0.0
        self.calibrated = False
        self.fitting = 1.0  # share of the batch's audio that the device's memory holds
        self.out.mkdir(parents=True, exist_ok=True)
        if (out / "state.pt").exists():
            self._resume()

    def _optimizer(self) -> torch.optim.AdamW:
        rate = self.recipe.learning_rate
        return torch.optim.AdamW(self._groups(), lr=rate, betas=(0.9, 0.98), fused=True)

    def _groups(self) -> list[dict[str, object]]:
        """Part the parameters by rate, decay and what is new; vectors do not decay."""
        parted: dict[tuple[bool, bool, bool], list[Tensor]] = {}
        for name, p in self.student.named_parameters():
            outside, narrow = not name.startswith("model.encoder."), p.dim() < 2
            key = outside, narrow, name in self.anew
            parted.setdefault(key, []).append(p)
        return [
            {
                "params": params,
                "share": 1.0 if outside else self.recipe.encoder_rate,
                "anew": anew,
                "weight_decay": 0.0 if narrow else self.recipe.weight_decay,
            }
            for (outside, narrow, anew), params in sorted(parted.items(), key=lambda item: item[0])
        ]

    def _draw_from(self, step: int) -> None:
        """Give each process draws of its own, which a run that goes on does not repeat."""
        drawn = np.random.SeedSequence([self.recipe.seed, step, self.ranks.rank])
        self.rng = np.random.default_rng(drawn)
        torch.manual_seed(int(drawn.generate_state(1)[0]))

    def _resume(self) -> None:
        saved = torch.load(self.out / "state.pt", map_location=self.device, weights_only=True)
        self.student.load_state_dict(saved["student"])
        self.averaged.load_state_dict(saved["averaged"])
        self.anew = set(saved["anew"])
        self.optimizer = self._optimizer()
        self.optimizer.load_state_dict(saved["optimizer"])
        for group, wanted in zip(self.optimizer.param_groups, self._groups(), strict=True):
            group["share"] = wanted["share"]  # the recipe's, which may have changed meanwhile
        self.step, self.started, self.audio_s = saved["step"], saved["started"], saved["audio_s"]
        self.calibrated = True
        self._draw_from(self.step)

    def begin_from(self, path: Path) -> None:
        """Take the weights of another run; the optimiser starts afresh.

        Args:
            path: its `small.pt`, or a `.nemo` file, which lacks what only training needs. What has
                another shape here is learnt anew, at first alone, and told.
        """
        if path.suffix == ".nemo":
            saved = {f"model.{name}": tensor for name, tensor in read_weights(path).items()}
        else:
            saved = torch.load(path, map_location=self.device, weights_only=True)
        mine = self.student.state_dict()
        taken = {n: t.float() for n, t in saved.items() if n in mine and t.shape == mine[n].shape}
        self.student.load_state_dict(taken, strict=False)
        if anew := sorted(mine.keys() - taken.keys()):
            self._log({"begin_from": path.name, "anew": anew})
        self.anew = set(anew)
        self.optimizer = self._optimizer()
        self.averaged.load_state_dict(self.student.model.state_dict())
        self.calibrated = True

    def save(self) -> None:
        """Write the whole state, and the averaged weights alone; the first process does."""
        if not self.ranks.first:
            return
        state = {
            "student": self.student.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "anew": sorted(self.anew),
            "step": self.step,
            "started": self.started,
            "audio_s": self.audio_s,
        }
        averaged = self.averaged.state_dict()
        small = self.student.state_dict() | {f"model.{k}": v for k, v in averaged.items()}
        small = {name: tensor.to(torch.bfloat16) for name, tensor in small.items()}
        for name, content in (("state.pt", state), ("ema.pt", averaged), ("small.pt", small)):
            torch.save(content, self.out / f"{name}.part")
            os.replace(self.out / f"{name}.part", self.out / name)

    def _rate(self, progress: float) -> float:
        warm = min(
            1.0,
            (self.now - self.started) / self.recipe.warmup_s,
            (self.step + 1) / self.recipe.warmup_steps,
        )
        return self.recipe.learning_rate * warm * (0.5 + 0.5 * math.cos(math.pi * min(1, progress)))

    def train_step(self, draw: Draw, progress: float) -> dict[str, Tensor] | None:
        """Take one optimiser step on a batch, together with the other processes' batches.

        Returns:
            The losses of this process's own batch, still on the device, good until the next step;
            None where the device's memory, which others use too, did not suffice for it.

        Raises:
            torch.OutOfMemoryError: even small batches do not fit.
        """
        losses = self._gradients(draw, progress)
        if losses is None and self.ranks.count == 1:
            return None
        gradients = self.work.flat
        self.ranks.average(gradients, losses is not None)
        norm = torch.linalg.vector_norm(gradients)
        gradients.mul_((self.recipe.clip_norm / (norm + 1e-6)).clamp(max=1.0))
        groups = self.optimizer.param_groups
        alone = self.now - self.started < self.recipe.alone_s and any(g["anew"] for g in groups)
        for group in groups:
            learns = group["anew"] or not alone
            group["lr"] = group["share"] * self._rate(progress) * learns
        if self.device.type == "cuda":
            # The fused optimiser skips the update itself: asking here would stall the device.
            self.optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
            self.optimizer.step()
        elif bool(torch.isfinite(norm)):
            self.optimizer.step()
        decay = min(self.recipe.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(*self._averaging, 1 - decay)
        self.step += 1
        if losses is None:
            return None
        # Of all processes, whose batches are alike.
        played = float(self.pool.length[draw.rows].sum()) / SAMPLE_RATE
        self.audio_s += self.ranks.count * played
        return losses | {"norm": norm}

    def _gradients(self, draw: Draw, progress: float) -> dict[str, Tensor] | None:
        """Fill the gradients; return the losses, or None where memory did not suffice."""
        played, phase = self.work.drawn(draw, progress, self.rng), self.work.phase(progress)
        try:
            if self.graphs is not None:
                try:
                    return self.graphs.gradients(played, phase)
                except CaptureFailed as failed:
                    self.graphs = None
                    self._log({"step": self.step, "without_graphs": str(failed)})
            return self.work.gradients(played.to(self.device), phase)
        except torch.OutOfMemoryError:
            if self.fitting < 0.2:
                raise
        # Out of the handler, whose traceback would keep the step's activations.
        if self.graphs is not None:
            self.graphs.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.fitting *= 0.8
        self._log({"step": self.step, "out_of_memory": len(draw.rows), "fitting": self.fitting})
        return None

    def _log(self, row: dict[str, object]) -> None:
        line = json.dumps(row)
        print(line, flush=True)
        if self.ranks.first:
            with (self.out / "log.jsonl").open("a") as log:
                log.write(line + "\n")

    def _batches(self, progress: float) -> list[Draw]:
        """Draw the next batches at this moment of the run."""
        recipe = self.recipe
        share = self.fitting * (0.5 if progress < recipe.small_part else 1.0)
        return self.pool.batches(
            recipe.shares,
            share * recipe.seconds_per_batch / recipe.views,
            self.rng,
            draw=max(3000, round(8 * recipe.seconds_per_batch)),
            longest_s=recipe.short_s if progress < recipe.short_part else math.inf,
        )

    def _capture(self, batches: list[Draw], progress: float) -> None:
        """Capture what is not captured yet, all at once: or processes would wait for each other."""
        if self.graphs is None:
            return
        began, phase, graphs = time.time(), self.work.phase(progress), self.graphs
        by_width = {draw.seconds: draw for draw in batches}.values()
        played = ((draw, self.work.drawn(draw, progress, self.rng)) for draw in by_width)
        fresh = [draw for draw, it in played if not graphs.ready(it, phase)]
        for draw in fresh:
            self._gradients(draw, progress)
        if fresh and self.graphs is not None:
            took = round(time.time() - began, 1)
            self._log({"step": self.step, "captured": len(fresh), "seconds": took})

    def run(
        self,
        deadline: float,
        report_every_s: float = 10.0,
        evaluate_every_s: float = 90.0,
        save_every_s: float = 60.0,
        max_steps: int | None = None,
    ) -> None:
        """Train until `deadline` (seconds since the epoch), annealing so as to end there."""
        reported = saved = scanned = evaluated = time.time()
        steps_then = self.step
        while self.pool.refresh():
            pass
        while not self.calibrated:
            for draw in self._batches(0.0)[:1]:
                self.work.calibrate(self.work.drawn(draw, 0.0, self.rng).to(self.device))
                self.averaged.load_state_dict(self.student.model.state_dict())
                self.calibrated = True
        if self.ranks.first:
            self.work.learn_places()
        self.ranks.share_weights(self.student)
        done = False
        while not done:
            known = len(self.pool.start)
            progress = self._progress(deadline, max_steps)
            batches = self._batches(progress)
            self._capture(batches, progress)
            for draw in batches:
                self.now = self.ranks.agreed(time.time())
                progress = self._progress(deadline, max_steps)
                if progress >= 1.0:
                    done = True
                    break
                losses = self.train_step(draw, progress)
                # While the pool is small, what has just come into it must not wait for long.
                if losses is None or len(self.pool.start) > 1.5 * known:
                    break
                now = time.time()
                if now - scanned > 5.0:
                    scanned = now
                    self.pool.refresh()
                if self.ranks.first and (now - reported > report_every_s or self.step == 1):
                    self._log(
                        {
                            "step": self.step,
                            "elapsed_s": round(now - self.started, 1),
                            "progress": round(progress, 4),
                            "step_ms": round(
                                1000 * (now - reported) / max(1, self.step - steps_then), 1
                            ),
                            "rate": self._rate(progress),
                            "trained_h": round(self.audio_s / 3600, 1),
                            **{k: round(float(v), 4) for k, v in losses.items()},
                            "hours": {k: round(v, 2) for k, v in self.pool.hours().items()},
                        }
                    )
                    reported, steps_then = time.time(), self.step
                if self.evaluate and now - evaluated > evaluate_every_s:
                    self._log(
                        {"step": self.step, "wer": self.evaluate(self.averaged, self.student)}
                    )
                    evaluated = time.time()
                if now - saved > save_every_s:
                    self.save()
                    saved = time.time()
        self.save()
        if self.evaluate:
            self._log(
                {
                    "step": self.step,
                    "wer": self.evaluate(self.averaged, self.student),
                    "final": True,
                }
            )

    def _progress(self, deadline: float, max_steps: int | None) -> float:
        if max_steps is not None:
            return self.step / max_steps
        return (self.now - self.started) / max(1.0, deadline - self.started)
