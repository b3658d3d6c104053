"""From drawn utterances to gradients: what of a training step the device does, and its input.

Whatever differs from one step to the next comes in tensors of a few shapes, so that the device's
part may stand in a CUDA graph (`training.graphs`) that is replayed for other utterances, at another
moment of the run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from training.augment import Strength, borrow, degrade, mask_features, place, play
from training.fastconformer import ModelShape
from training.mel import HOP, SAMPLE_RATE, VOCAL_TRACTS, LogMel
from training.pool import Draw, Pool
from training.student import Batch, Recipe, Student, Weights
from training.subsampling import subsampled_length
from training.teacher import WhisperEar


class Phase(NamedTuple):
    """Which losses there are at this moment of a run, beside CTC and the teacher's."""

    rnnt: bool
    phones: bool
    near: bool  # the distance of the views


@dataclass(frozen=True, slots=True)
class Played:
    """Utterances and how they are played: n of them, each heard in some views."""

    start: Tensor  # [n] first sample in the store
    length: Tensor  # [n] samples there
    speed: Tensor  # [n]
    lead: Tensor  # [n] samples of silence before
    samples: Tensor  # [n] samples, silence before and after included
    depth: Tensor  # [n] how far the speed swings
    cycles: Tensor  # [n] how often
    right: Tensor  # [views * n] right contexts
    targets: Tensor  # [n, tokens]
    counts: Tensor  # [n] tokens
    rnnt: Tensor  # rows of views * n that the transducer's loss is computed on
    strength: Tensor  # of augmentation, see `Strength.packed`
    weights: Tensor  # of the losses, see `Weights.packed`
    seconds: int  # that the batch is wide

    def tensors(self) -> list[Tensor]:
        """Return all but the width, in order."""
        return [getattr(self, field.name) for field in fields(self)[:-1]]

    def to(self, device: torch.device) -> Played:
        """Return it on a device, without waiting for that."""
        if device.type != "cuda":
            return self
        there = [t.pin_memory().to(device, non_blocking=True) for t in self.tensors()]
        return Played(*there, seconds=self.seconds)

    def shapes(self) -> tuple:
        """Return what a graph of it is good for."""
        return self.seconds, *(tuple(t.shape) for t in self.tensors())


class Step:
    """Draws batches, lets them be heard, and fills the gradients of what is trained."""

    def __init__(
        self,
        shape: ModelShape,
        recipe: Recipe,
        pool: Pool,
        device: torch.device,
        ear: WhisperEar | None,
    ) -> None:
        self.recipe, self.pool, self.device, self.ear = recipe, pool, device, ear
        taught = (ear.output_size, ear.layers) if ear else (0, 1)
        self.student = Student(shape, *taught).to(device)
        self.mel = LogMel(shape.feat_in, device, tracts=VOCAL_TRACTS)
        # Listed once: walking the modules at every step takes a tenth of the step.
        self.trained = list(self.student.parameters())
        # All gradients are parts of one tensor, which is averaged, measured and clipped at once.
        self.flat = torch.zeros(sum(p.numel() for p in self.trained), device=device)
        parts = self.flat.split([p.numel() for p in self.trained])
        for parameter, part in zip(self.trained, parts, strict=True):
            parameter.grad = part.view_as(parameter)

    def phase(self, progress: float) -> Phase:
        """Return which losses there are at this progress."""
        recipe = self.recipe
        return Phase(
            rnnt=progress >= recipe.rnnt_from,
            phones=self.pool.told > 0 and progress < recipe.phones_part,
            near=recipe.views == 2 and progress >= recipe.consistency_from,
        )

    def _strength(self, progress: float) -> Strength:
        early = max(0.0, 1.0 - progress / self.recipe.gentle_part)
        late = self.recipe.settle * min(1.0, max(0.0, progress - 0.7) / 0.3)
        return self.recipe.strength.lighter(max(early, late, self.recipe.gentle))

    def _weights(self, progress: float) -> Weights:
        recipe = self.recipe
        begin, end = recipe.ears
        return Weights(
            aligning=1.0 if progress < recipe.rnnt_from else recipe.ctc_weight,
            phones=max(0.0, 1.0 - progress / recipe.phones_part),
            teacher=recipe.teacher_weight * max(recipe.teacher_floor, 1.0 - progress / 0.8),
            consistency=recipe.consistency,
            lm=recipe.lm_weight,
            ears=min(1.0, max(0.0, progress - begin) / (end - begin)),
            later=recipe.ears_later if progress >= begin else 0,
            taught=recipe.taught_weight,
            taught_ctc=recipe.taught_ctc,
        )

    def drawn(self, draw: Draw, progress: float, rng: np.random.Generator) -> Played:
        """Draw how a batch is played at this moment of the run; all on the CPU."""
        recipe, rows, count = self.recipe, draw.rows, len(draw.rows)
        heard = recipe.views * count
        lengths = self.pool.length[rows]
        lead = rng.integers(0, SAMPLE_RATE // 2, count)
        # What is said at the end is known some frames later.
        tail = rng.integers(SAMPLE_RATE // 5, SAMPLE_RATE * 7 // 10, count)
        samples = lead + lengths / draw.speeds + tail
        contexts = list(recipe.right_contexts)
        odds = np.array([recipe.right_contexts[r] for r in contexts])
        cycles = np.maximum(1, np.round(lengths / SAMPLE_RATE * rng.uniform(0.3, 1.5, count)))
        targets, counts = self.pool.targets(rows, draw.tokens)
        return Played(
            start=torch.from_numpy(self.pool.start[rows]),
            length=torch.from_numpy(lengths),
            speed=torch.from_numpy(draw.speeds),
            lead=torch.from_numpy(lead),
            samples=torch.from_numpy(samples.astype(np.int64)),
            depth=torch.from_numpy(rng.uniform(0.0, recipe.wobble, count)),
            cycles=torch.from_numpy(cycles),
            right=torch.from_numpy(rng.choice(contexts, heard, p=odds / odds.sum())),
            targets=targets,
            counts=counts,
            rnnt=torch.from_numpy(rng.permutation(heard)[: math.ceil(recipe.rnnt_rows * heard)]),
            strength=self._strength(progress).packed(),
            weights=self._weights(progress).packed(),
            seconds=draw.seconds,
        )

    def _half(self) -> torch.autocast:
        """Bfloat16 where it pays; oneDNN's LSTM refuses it on CPUs without such instructions."""
        native = self.device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        # What is cast once and kept would be cast at the first replay of a graph alone.
        return torch.autocast(self.device.type, torch.bfloat16, enabled=native, cache_enabled=False)

    def _clean(self, played: Played) -> Tensor:
        width = played.seconds * SAMPLE_RATE
        wobble = (played.depth, played.cycles)
        return play(
            self.pool.store, played.start, played.length, played.speed, played.lead, width, wobble
        )

    def hear(self, played: Played) -> tuple[Tensor, Tensor, Tensor]:
        """Return the audio of all views, its samples, and the vocal tracts that it is heard by."""
        clean, strength = self._clean(played), Strength.unpacked(played.strength)
        samples = played.samples.repeat(self.recipe.views)
        wave = degrade(clean.repeat(self.recipe.views, 1), samples, strength)
        warp = torch.randint(1, len(self.mel.banks), (len(samples),), device=clean.device)
        warp = warp * (torch.rand(len(samples), device=clean.device) < strength.warp)
        return wave, samples, warp

    def batch(self, played: Played, phase: Phase) -> Batch:
        """Let a batch be heard; `played` lies on the device."""
        views = self.recipe.views
        wave, samples, warp = self.hear(played)
        mel, frames = self.mel(wave, samples, warp)
        phones = heard = None
        if phase.phones:
            halves = torch.arange(2 * subsampled_length(mel.shape[2]), device=mel.device)
            moments = (halves - 2 * self.recipe.phones_delay - 0.5) * 4 * HOP
            wobble = (played.depth, played.cycles)
            at = place(moments, played.speed, played.lead, played.length, wobble)
            phones = self.pool.phones_at(played.start, played.length, at).unflatten(1, (-1, 2))
            phones = phones.repeat(views, 1, 1)
        if self.ear:
            # Teacher and student hear the same (arXiv 2106.05237): so every playing is one more
            # question that the student cannot have learnt the answer of by heart.
            with self._half():
                heard = self.ear(wave, warp)
        strength = Strength.unpacked(played.strength)
        return Batch(
            mask_features(borrow(mel, frames, strength.borrow), frames, strength),
            frames,
            played.right,
            played.targets.repeat(views, 1),
            played.counts.repeat(views),
            phones,
            heard,
            played.rnnt if phase.rnnt else None,
            phase.near,
        )

    def losses(self, played: Played, phase: Phase) -> dict[str, Tensor]:
        """Return every loss of a batch; see `Student.losses`."""
        weights = Weights.unpacked(played.weights)
        return self.student.losses(self.batch(played, phase), weights, self._half())

    def gradients(self, played: Played, phase: Phase) -> dict[str, Tensor]:
        """Fill the gradients, zero where nothing reaches; return the losses."""
        losses = self.losses(played, phase)
        found = torch.autograd.grad(losses["total"], self.trained, allow_unused=True)
        self.flat.zero_()
        reached = [(p.grad, g) for p, g in zip(self.trained, found, strict=True) if g is not None]
        torch._foreach_copy_([into for into, _ in reached], [grad for _, grad in reached])
        return {name: value.detach() for name, value in losses.items()}

    def learn_places(self) -> None:
        """Let the teacher hear what is in the pool, unless its places are known already."""
        if self.ear is not None and not self.student.place.known:
            with self._half():
                self.student.place.learn(self.ear, self.pool.store[: self.pool.used])

    @torch.no_grad()
    def calibrate(self, played: Played) -> None:
        """Let the subsampling expect these features, and give frames of mean 0 and deviation 1."""
        mel, frames = self.mel(*self.hear(played))
        subsampling = self.student.model.encoder.pre_encode
        inside = torch.arange(mel.shape[2], device=mel.device) < frames[:, None]
        subsampling.expect(mel.transpose(1, 2)[inside])
        out, lengths = subsampling(mel, frames)
        inside = torch.arange(out.shape[1], device=mel.device) < lengths[:, None]
        mean, deviation = out[inside].mean(0), out[inside].std()
        subsampling.out.bias.sub_(mean).div_(deviation)
        subsampling.out.weight /= deviation
