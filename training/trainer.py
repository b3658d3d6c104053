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

from training.augment import Strength, degrade, mask_features, place, play
from training.fastconformer import FastConformerRNNT, ModelShape, subsampled_length
from training.mel import HOP, SAMPLE_RATE, LogMel
from training.pool import Pool
from training.ranks import Ranks
from training.student import Batch, Recipe, Student, Weights
from training.teacher import WhisperEar

VOCAL_TRACTS = 256  # made-up speakers' frequency axes


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
        evaluate: Callable[[FastConformerRNNT], dict[str, float]] | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.ranks = ranks or Ranks(device)
        self.shape, self.recipe, self.pool, self.out, self.device = shape, recipe, pool, out, device
        self.ear, self.evaluate = ear, evaluate
        self.student = Student(shape, ear.output_size if ear else 0).to(device)
        self.averaged = FastConformerRNNT(shape).to(device).eval()
        self.averaged.load_state_dict(self.student.model.state_dict())
        flat = [p for p in self.student.parameters() if p.dim() < 2]
        wide = [p for p in self.student.parameters() if p.dim() >= 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": wide}, {"params": flat, "weight_decay": 0.0}],
            lr=recipe.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        # Listed once: walking the modules at every step takes a tenth of the step.
        self.trained = list(self.student.parameters())
        self.mel = LogMel(shape.feat_in, device, tracts=VOCAL_TRACTS)
        if recipe.compiled:
            # A layer at a time: they share their code, so that it is compiled once for all.
            torch._dynamo.config.suppress_errors = True
            for layer in self.student.model.encoder.layers:
                layer.compile(dynamic=True)
        self._draw_from(0)
        # The first process's clock: rate and progress must be the same everywhere.
        self.now = self.started = self.ranks.agreed(time.time())
        self.step, self.audio_s = 0, 0.0
        self.calibrated = False
        self.fitting = 1.0  # share of the batch's audio that the device's memory holds
        self.out.mkdir(parents=True, exist_ok=True)
        if (out / "state.pt").exists():
            self._resume()

    def _draw_from(self, step: int) -> None:
        """Give each process draws of its own, which a run that goes on does not repeat."""
        drawn = np.random.SeedSequence([self.recipe.seed, step, self.ranks.rank])
        self.rng = np.random.default_rng(drawn)
        torch.manual_seed(int(drawn.generate_state(1)[0]))

    def _resume(self) -> None:
        saved = torch.load(self.out / "state.pt", map_location=self.device, weights_only=True)
        self.student.load_state_dict(saved["student"])
        self.averaged.load_state_dict(saved["averaged"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.started, self.audio_s = saved["step"], saved["started"], saved["audio_s"]
        self.calibrated = True
        self._draw_from(self.step)

    def begin_from(self, path: Path) -> None:
        """Take the weights of another run's `small.pt`; the optimiser starts afresh."""
        saved = torch.load(path, map_location=self.device, weights_only=True)
        self.student.load_state_dict({name: tensor.float() for name, tensor in saved.items()})
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

    def _shares(self, progress: float) -> dict[str, float]:
        first, last = self.recipe.shares, self.recipe.final_shares or self.recipe.shares
        late = min(1.0, max(0.0, progress - 0.4) / (self.recipe.final_part - 0.4))
        return {g: (1 - late) * first.get(g, 0.0) + late * last.get(g, 0.0) for g in first | last}

    def _rate(self, progress: float) -> float:
        warm = min(
            1.0,
            (self.now - self.started) / self.recipe.warmup_s,
            (self.step + 1) / self.recipe.warmup_steps,
        )
        return self.recipe.learning_rate * warm * (0.5 + 0.5 * math.cos(math.pi * min(1, progress)))

    def _to_device(self, tensor: Tensor) -> Tensor:
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor

    def _half(self) -> torch.autocast:
        """Bfloat16 where it pays; oneDNN's LSTM refuses it on CPUs without such instructions."""
        native = self.device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return torch.autocast(self.device.type, torch.bfloat16, enabled=native)

    @torch.no_grad()
    def _calibrate(self, mel: Tensor, frames: Tensor) -> None:
        """Fold the features' mean and deviation into the first layers, which start near zero mean.

        The features are not normalised (about -8 +- 5), as the real model's are not; without this
        the constant drowns the signal and learning stalls.
        """
        subsampling = self.student.model.encoder.pre_encode
        inside = torch.arange(mel.shape[2], device=mel.device) < frames[:, None]
        values = mel.transpose(1, 2)[inside]
        mean, deviation = values.mean(), values.std()
        first = subsampling.conv[0]
        first.bias -= first.weight.sum((1, 2, 3)) * mean / deviation
        first.weight /= deviation
        out, lengths = subsampling(mel, frames)
        inside = torch.arange(out.shape[1], device=mel.device) < lengths[:, None]
        mean, deviation = out[inside].mean(0), out[inside].std()
        subsampling.out.bias.sub_(mean).div_(deviation)
        subsampling.out.weight /= deviation
        self.averaged.load_state_dict(self.student.model.state_dict())

    def _strength(self, progress: float) -> Strength:
        early = max(0.0, 1.0 - progress / self.recipe.gentle_part)
        late = self.recipe.settle * min(1.0, max(0.0, progress - 0.7) / 0.3)
        return Strength().lighter(max(early, late, self.recipe.gentle))

    def _weights(self, progress: float) -> Weights:
        recipe = self.recipe
        alone = progress < recipe.rnnt_from
        near = recipe.views == 2 and progress >= recipe.consistency_from
        return Weights(
            aligning=1.0 if alone else recipe.ctc_weight,
            phones=max(0.0, 1.0 - progress / recipe.phones_part),
            teacher=recipe.teacher_weight * max(recipe.teacher_floor, 1.0 - progress / 0.8),
            consistency=recipe.consistency if near else 0.0,
        )

    def _batch(self, rows: np.ndarray, speeds: np.ndarray, progress: float) -> Batch:
        """Play utterances, and let each be heard by as many augmentations as there are views."""
        device, count, recipe, views = self.device, len(rows), self.recipe, self.recipe.views
        lengths = self.pool.length[rows]
        lead = self.rng.integers(0, SAMPLE_RATE // 2, count)
        total = lead + lengths / speeds + self.rng.integers(800, SAMPLE_RATE * 3 // 10, count)
        total = total.astype(np.int64)
        targets, counts = self.pool.targets(rows)
        frames_here = subsampled_length(torch.from_numpy(total // HOP))
        contexts = list(recipe.right_contexts)
        odds = np.array([recipe.right_contexts[r] for r in contexts])
        right = self.rng.choice(contexts, (views, count), p=odds / odds.sum()).ravel()
        start, length, speed, leading, samples, depth, cycles, right, many, tokens = (
            self._to_device(torch.as_tensor(x))
            for x in (
                self.pool.start[rows],
                lengths,
                speeds,
                lead,
                total,
                self.rng.uniform(0.0, recipe.wobble, count),
                np.maximum(1, np.round(lengths / SAMPLE_RATE * self.rng.uniform(0.3, 1.5, count))),
                right,
                counts,
                targets,
            )
        )
        wobble = (depth, cycles)
        width = -(-int(total.max()) // SAMPLE_RATE) * SAMPLE_RATE
        clean = play(self.pool.store, start, length, speed, leading, width, wobble)
        strength = self._strength(progress)
        warp = torch.randint(1, len(self.mel.banks), (views * count,), device=device)
        warp = warp * (torch.rand(views * count, device=device) < strength.warp)
        every = samples.repeat(views)
        mel, frames = self.mel(degrade(clean.repeat(views, 1), every, strength), every, warp)
        if not self.calibrated:
            self._calibrate(mel, frames)
            self.calibrated = True

        weights, phones, heard, chosen = self._weights(progress), None, None, None
        if self.pool.told and weights.phones > 0:
            halves = torch.arange(2 * subsampled_length(mel.shape[2]), device=device)
            moments = (halves - 2 * recipe.phones_delay - 0.5) * 4 * HOP
            at = place(moments, speed, leading, length, wobble)
            phones = self.pool.phones_at(start, length, at).unflatten(1, (-1, 2))
            phones = phones.repeat(views, 1, 1)
        if self.ear and weights.teacher > 0:
            with self._half():
                heard = self.ear(clean).repeat(views, 1, 1)
        if progress >= recipe.rnnt_from:
            most = math.ceil(recipe.rnnt_rows * views * count)
            chosen = self._to_device(torch.from_numpy(self.rng.permutation(views * count)[:most]))
        return Batch(
            mask_features(mel, frames, strength),
            frames,
            right,
            tokens.repeat(views, 1),
            many.repeat(views),
            frames_here.repeat(views),
            counts.repeat(views),
            phones,
            heard,
            chosen,
        )

    def train_step(
        self, rows: np.ndarray, speeds: np.ndarray, progress: float
    ) -> dict[str, Tensor] | None:
        """Take one optimiser step on a batch, together with the other processes' batches.

        Returns:
            The losses of this process's own batch, still on the device; None where the device's
            memory, which others use too, did not suffice for it.

        Raises:
            torch.OutOfMemoryError: even small batches do not fit.
        """
        losses = self._gradients(rows, speeds, progress)
        if losses is None and self.ranks.count == 1:
            return None
        self.ranks.average_gradients(self.trained, losses is not None)
        norm = torch.nn.utils.clip_grad_norm_(self.trained, self.recipe.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(progress)
        if self.device.type == "cuda":
            # The fused optimiser skips the update itself: asking here would stall the device.
            self.optimizer.found_inf = (~torch.isfinite(norm)).float()  # type: ignore[attr-defined]
            self.optimizer.step()
        elif bool(torch.isfinite(norm)):
            self.optimizer.step()
        decay = min(self.recipe.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.averaged.parameters()), list(self.student.model.parameters()), 1 - decay
            )
        self.step += 1
        if losses is None:
            return None
        # Of all processes, whose batches are alike.
        self.audio_s += self.ranks.count * float(self.pool.length[rows].sum()) / SAMPLE_RATE
        return {name: value.detach() for name, value in losses.items()} | {"norm": norm}

    def _gradients(
        self, rows: np.ndarray, speeds: np.ndarray, progress: float
    ) -> dict[str, Tensor] | None:
        """Fill the gradients; return the losses, or None where memory did not suffice."""
        self.optimizer.zero_grad(set_to_none=True)
        try:
            batch = self._batch(rows, speeds, progress)
            losses = self.student.losses(batch, self._weights(progress), self._half())
            losses["total"].backward()
            return losses
        except torch.OutOfMemoryError:
            if self.fitting < 0.2:
                raise
        # Out of the handler, whose traceback would keep the step's activations.
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.fitting *= 0.8
        self._log({"step": self.step, "out_of_memory": len(rows), "fitting": self.fitting})
        return None

    def _log(self, row: dict[str, object]) -> None:
        line = json.dumps(row)
        print(line, flush=True)
        if self.ranks.first:
            with (self.out / "log.jsonl").open("a") as log:
                log.write(line + "\n")

    def _batches(self, progress: float) -> list[tuple[np.ndarray, np.ndarray]]:
        """Draw the next batches at this moment of the run."""
        recipe = self.recipe
        share = self.fitting * (0.5 if progress < recipe.small_part else 1.0)
        return self.pool.batches(
            self._shares(progress),
            share * recipe.seconds_per_batch / recipe.views,
            self.rng,
            draw=max(3000, round(8 * recipe.seconds_per_batch)),
            longest_s=recipe.short_s if progress < recipe.short_part else math.inf,
        )

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
            for rows, speeds in self._batches(0.0)[:1]:
                self._batch(rows, speeds, 0.0)
        self.ranks.share_weights(self.student)
        self.ranks.share_weights(self.averaged)
        done = False
        while not done:
            known = len(self.pool.start)
            for rows, speeds in self._batches(self._progress(deadline, max_steps)):
                self.now = self.ranks.agreed(time.time())
                progress = self._progress(deadline, max_steps)
                if progress >= 1.0:
                    done = True
                    break
                losses = self.train_step(rows, speeds, progress)
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
                            "rate": self.optimizer.param_groups[0]["lr"],
                            "trained_h": round(self.audio_s / 3600, 1),
                            **{k: round(float(v), 4) for k, v in losses.items()},
                            "hours": {k: round(v, 2) for k, v in self.pool.hours().items()},
                        }
                    )
                    reported, steps_then = time.time(), self.step
                if self.evaluate and now - evaluated > evaluate_every_s:
                    self._log({"step": self.step, "wer": self.evaluate(self.averaged)})
                    evaluated = time.time()
                if now - saved > save_every_s:
                    self.save()
                    saved = time.time()
        self.save()
        if self.evaluate:
            self._log({"step": self.step, "wer": self.evaluate(self.averaged), "final": True})

    def _progress(self, deadline: float, max_steps: int | None) -> float:
        if max_steps is not None:
            return self.step / max_steps
        return (self.now - self.started) / max(1.0, deadline - self.started)
