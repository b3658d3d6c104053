"""The training loop of `tiny-en`: a schedule bound to wall time, over a pool that may still grow.

One process, one device. It resumes from `state.pt` in its output folder, and leaves there after
every save: `ema.pt` (averaged weights), `log.jsonl` (a line per report), and after every
evaluation the word error rates.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.augment import Strength, degrade, mask_features, play
from training.fastconformer import FastConformerRNNT, ModelShape, dropout, subsampled_length
from training.mel import HOP, SAMPLE_RATE, LogMel
from training.pool import PHONES, Pool
from training.rnnt_loss import rnnt_loss
from training.teacher import TeacherLoss, WhisperEar


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the run is; shares are of the audio, by group of voices (`voice.split("/")[0]`)."""

    seconds_per_batch: float = 1200.0
    learning_rate: float = 2.2e-3
    weight_decay: float = 1e-2
    warmup_s: float = 45.0
    warmup_steps: int = 400
    clip_norm: float = 1.0
    gentle: float = 0.0  # share of the way to clean speech that augmentation always keeps
    gentle_part: float = 0.3  # progress until which augmentation grows from none to full
    small_part: float = 0.2  # progress until which batches are half as large
    ctc_weight: float = 0.3
    rnnt_rows: float = 1.0  # share of a batch that the transducer, the dearest loss, is given
    rnnt_from: float = 0.1  # progress until which CTC alone aligns the encoder, at half the cost
    teacher_weight: float = 1.0
    teacher_floor: float = 0.2  # share of that weight which stays to the end
    short_part: float = 0.15  # progress until which utterances are short, which align sooner
    short_s: float = 4.0
    phones_part: float = 0.8  # progress until which frames are told their phones
    phones_delay: int = 1  # frames by which that answer comes after the sound
    ema_decay: float = 0.999
    right_contexts: dict[int, float] = field(
        default_factory=lambda: {0: 0.45, 1: 0.2, 6: 0.15, 13: 0.2}
    )
    shares: dict[str, float] = field(default_factory=dict)
    final_shares: dict[str, float] = field(default_factory=dict)
    final_part: float = 0.75  # progress at which the final shares are reached
    seed: int = 0


class Student(nn.Module):
    """The model and the heads that exist only while training."""

    def __init__(self, shape: ModelShape, teacher_size: int) -> None:
        super().__init__()
        self.model = FastConformerRNNT(shape)
        self.ctc = nn.Linear(shape.d_model, shape.vocab_size + 1)
        self.phones = nn.Linear(shape.d_model, 2 * len(PHONES))
        self.teacher = TeacherLoss(shape.d_model, teacher_size) if teacher_size else None


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
    ) -> None:
        torch.manual_seed(recipe.seed)
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
        self.mel = LogMel(shape.feat_in, device)
        self.rng = np.random.default_rng(recipe.seed)
        self.step, self.started, self.audio_s = 0, time.time(), 0.0
        self.out.mkdir(parents=True, exist_ok=True)
        if (out / "state.pt").exists():
            self._resume()

    def _resume(self) -> None:
        saved = torch.load(self.out / "state.pt", map_location=self.device, weights_only=True)
        self.student.load_state_dict(saved["student"])
        self.averaged.load_state_dict(saved["averaged"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.started, self.audio_s = saved["step"], saved["started"], saved["audio_s"]
        self.rng = np.random.default_rng([self.recipe.seed, self.step])

    def save(self) -> None:
        """Write the whole state, and the averaged weights alone."""
        state = {
            "student": self.student.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "started": self.started,
            "audio_s": self.audio_s,
        }
        for name, content in (("state.pt", state), ("ema.pt", self.averaged.state_dict())):
            torch.save(content, self.out / f"{name}.part")
            os.replace(self.out / f"{name}.part", self.out / name)

    def _shares(self, progress: float) -> dict[str, float]:
        first, last = self.recipe.shares, self.recipe.final_shares or self.recipe.shares
        late = min(1.0, max(0.0, progress - 0.4) / (self.recipe.final_part - 0.4))
        return {g: (1 - late) * first.get(g, 0.0) + late * last.get(g, 0.0) for g in first | last}

    def _rate(self, progress: float) -> float:
        warm = min(
            1.0,
            (time.time() - self.started) / self.recipe.warmup_s,
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

    def _losses(self, rows: np.ndarray, speeds: np.ndarray, progress: float) -> dict[str, Tensor]:
        device, batch = self.device, len(rows)
        lead = self.rng.integers(0, SAMPLE_RATE // 2, batch)
        played = np.array([self.pool.length[i] for i in rows]) / speeds
        total = (lead + played + self.rng.integers(800, SAMPLE_RATE * 3 // 10, batch)).astype(int)
        targets, counts = self.pool.targets(rows)
        # Kept on the CPU too: asking the device for them would make it wait.
        frames_here = subsampled_length(torch.tensor(total // HOP))
        counts_here = counts
        start, length, speed, leading, samples, targets, counts = (
            self._to_device(torch.as_tensor(x))
            for x in (
                [self.pool.start[i] for i in rows],
                [self.pool.length[i] for i in rows],
                speeds,
                lead,
                total,
                targets,
                counts,
            )
        )
        width = -(-int(total.max()) // SAMPLE_RATE) * SAMPLE_RATE
        clean = play(self.pool.store, start, length, speed, leading, width)
        early = max(0.0, 1.0 - progress / self.recipe.gentle_part)
        late = 0.5 * min(1.0, max(0.0, progress - 0.7) / 0.3)
        strength = Strength().lighter(max(early, late, self.recipe.gentle))
        warp = torch.randint(1, len(self.mel.banks), (batch,), device=device)
        warp = warp * (torch.rand(batch, device=device) < strength.warp)
        mel, frames = self.mel(degrade(clean, samples, strength), samples, warp)
        if self.step == 0:
            self._calibrate(mel, frames)
        mel = mask_features(mel, frames, strength)

        contexts = list(self.recipe.right_contexts)
        odds = np.array([self.recipe.right_contexts[r] for r in contexts])
        right = int(self.rng.choice(contexts, p=odds / odds.sum()))
        model = self.student.model
        telling = max(0.0, 1.0 - progress / self.recipe.phones_part)
        with self._half():
            # Losses inside the stack (arXiv 2102.03216) let its lower part learn before the upper.
            third = max(1, self.shape.n_layers // 3)
            encoded, lengths, inner = model.encoder(mel, frames, right, (third - 1, 2 * third - 1))
            heights = (encoded, *inner)
            ctc = [self.student.ctc(x) for x in heights]
            phones = [self.student.phones(x) for x in heights] if telling > 0 else []
        outer, *within = (
            F.ctc_loss(
                scores.float().log_softmax(-1).transpose(0, 1),
                targets,
                frames_here,
                counts_here,
                model.blank,
                reduction="sum",
                zero_infinity=True,
            )
            / counts.sum()
            for scores in ctc
        )
        losses = {"ctc": outer, "inner": sum(within) / len(within)}
        aligning = 0.5 * losses["ctc"] + 0.5 * losses["inner"]
        fading = self.recipe.teacher_weight * max(self.recipe.teacher_floor, 1.0 - progress / 0.8)
        if self.ear and self.student.teacher and fading > 0:
            with self._half():
                heard = self.student.teacher(inner[-1], self.ear(clean), lengths)
            losses["teacher"] = heard
        if progress < self.recipe.rnnt_from:
            losses["total"] = aligning
        else:
            some = slice(None)
            if self.recipe.rnnt_rows < 1.0:
                chosen = self.rng.permutation(batch)[: math.ceil(self.recipe.rnnt_rows * batch)]
                some = self._to_device(torch.from_numpy(chosen))
            losses["rnnt"] = self._rnnt(encoded[some], targets[some], lengths[some], counts[some])
            losses["total"] = losses["rnnt"] + self.recipe.ctc_weight * aligning
        if phones and any(row in self.pool.phones for row in rows):
            wanted = self._phones(rows, lead, speeds, encoded.shape[1])
            apart = [
                F.cross_entropy(x.float().unflatten(2, (2, -1)).permute(0, 3, 1, 2), wanted)
                for x in phones
            ]
            losses["phones"] = sum(apart) / len(apart)
            losses["total"] = losses["total"] + telling * losses["phones"]
        if "teacher" in losses:
            losses["total"] = losses["total"] + fading * losses["teacher"]
        return losses

    def _phones(
        self, rows: np.ndarray, lead: np.ndarray, speeds: np.ndarray, length: int
    ) -> Tensor:
        """The phones of each frame's two halves, [batch, length, 2]; -100 where none is known.

        CTC and the transducer alone take long to find which sound stands for what; a few voices
        that say so themselves give the frames a meaning within minutes.
        """
        found = np.full((len(rows), length, 2), -100)
        halves = (np.arange(2 * length) - 2 * self.recipe.phones_delay - 0.5) * 4 * HOP
        for i, row in enumerate(rows):
            if row in self.pool.phones:
                named, ends = self.pool.phones[row]
                at = (halves - lead[i]) * speeds[i]
                index = np.searchsorted(ends, at, side="right")
                inside = (at >= 0) & (index < len(named))
                found[i].reshape(-1)[inside] = named[index[inside]]
        return self._to_device(torch.from_numpy(found))

    def _rnnt(self, encoded: Tensor, targets: Tensor, lengths: Tensor, counts: Tensor) -> Tensor:
        model = self.student.model
        # Forgetting some of its own words keeps the prediction network from reciting the few
        # human sentences by heart.
        history = F.pad(targets, (1, 0), value=model.blank)
        forget = torch.rand(len(targets), 1, device=self.device) * 0.3
        forgotten = torch.rand(history.shape, device=self.device) < forget
        with self._half():
            predicted, _ = model.decoder(history.masked_fill(forgotten, model.blank))
            logits = model.joint(encoded, dropout(predicted, 0.1, True))
        return rnnt_loss(logits, targets, lengths, counts, model.blank).sum() / counts.sum()

    def train_step(
        self, rows: np.ndarray, speeds: np.ndarray, progress: float
    ) -> dict[str, Tensor]:
        """Take one optimiser step on a batch; return its losses, still on the device."""
        losses = self._losses(rows, speeds, progress)
        self.optimizer.zero_grad(set_to_none=True)
        losses["total"].backward()
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
        self.audio_s += float(sum(self.pool.length[i] for i in rows)) / SAMPLE_RATE
        return {name: value.detach() for name, value in losses.items()} | {"norm": norm}

    def _log(self, row: dict[str, object]) -> None:
        line = json.dumps(row)
        print(line, flush=True)
        with (self.out / "log.jsonl").open("a") as log:
            log.write(line + "\n")

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
        self.pool.refresh()
        done = False
        while not done:
            progress = self._progress(deadline, max_steps)
            half = 0.5 if progress < self.recipe.small_part else 1.0
            batches = self.pool.batches(
                self._shares(progress),
                half * self.recipe.seconds_per_batch,
                self.rng,
                draw=max(3000, round(8 * self.recipe.seconds_per_batch)),
                longest_s=self.recipe.short_s if progress < self.recipe.short_part else math.inf,
            )
            for rows, speeds in batches:
                progress = self._progress(deadline, max_steps)
                if progress >= 1.0:
                    done = True
                    break
                losses = self.train_step(rows, speeds, progress)
                now = time.time()
                if now - scanned > 5.0:
                    scanned = now
                    self.pool.refresh()
                if now - reported > report_every_s or self.step == 1:
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
        return (time.time() - self.started) / max(1.0, deadline - self.started)
