"""What `tiny-en` is trained on at a step: the losses, and the heads that exist only for them.

Every utterance of a batch is heard twice, by two augmentations (another room, channel and noise,
another vocal tract, other masks) and at two right contexts. Both answers are held to the text, to
the phones where they are known and to the teacher's frames; and each is held to the other (CR-CTC,
arXiv 2410.05101), which is where the model is told that a speaker or a room does not matter, and
where what the wide context hears teaches the narrow one (dual-mode ASR, arXiv 2010.06030).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.augment import Number, Strength
from training.ctc_loss import ctc_loss
from training.fastconformer import FastConformerRNNT, ModelShape, dropout, roomy
from training.pool import PHONES
from training.rnnt_loss import rnnt_loss
from training.teacher import TeacherEars, TeacherLoss, WithoutPlace


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the run is; shares are of the audio, by group of voices (`voice.split("/")[0]`)."""

    seconds_per_batch: float = 1200.0  # as the encoder sees it: both views count
    learning_rate: float = 2.2e-3
    encoder_rate: float = 1.0  # share of the rate that the encoder learns at
    weight_decay: float = 1e-2
    warmup_s: float = 45.0
    warmup_steps: int = 600
    alone_s: float = 25.0  # in which only what a run that goes on has anew is trained
    clip_norm: float = 1.0
    gentle: float = 0.0  # share of the way to clean speech that augmentation always keeps
    gentle_part: float = 0.15  # progress until which augmentation grows from none to full
    # Few masks: the teacher hears what they hide, and the student cannot guess it.
    strength: Strength = Strength(borrow=0.1, time_masks=2, frequency_masks=1)
    settle: float = 0.0  # share of the way to clean speech that the last 30 % go back
    small_part: float = 0.1  # progress until which batches are half as large
    views: int = 2  # augmentations of each utterance in a batch, 1 or 2
    consistency: float = 0.2  # weight of the views' distance, from `consistency_from` on
    consistency_from: float = 0.1
    wobble: float = 0.12  # most that the speed swings within an utterance
    ctc_weight: float = 0.3
    rnnt_rows: float = 0.5  # share of a batch that the transducer, the dearest loss, is given
    rnnt_from: float = 0.1  # progress until which CTC alone aligns the encoder, at half the cost
    lm_weight: float = 0.3  # of the prediction network as a language model, with the transducer's
    teacher_weight: float = 4.0
    teacher_floor: float = 1.0  # share of that weight which stays to the end
    ears: tuple[float, float] = (0.03, 0.06)  # progress over which the teacher's ears are let in
    # Frames by which they are later, once let in, than what they are fitted to says the same: what
    # a student at right context 0 has not heard yet, it may say later.
    ears_later: int = 2
    taught_weight: float = 40.0  # of the distance of what the joint gets from both ears
    taught_ctc: float = 0.2  # of the distance of what CTC says with both
    short_part: float = 0.1  # progress until which utterances are short, which align sooner
    short_s: float = 4.0
    phones_part: float = 0.8  # progress until which frames are told their phones
    phones_delay: int = 1  # frames by which that answer comes after the sound
    ema_decay: float = 0.999
    right_contexts: dict[int, float] = field(
        default_factory=lambda: {0: 0.5, 1: 0.15, 6: 0.15, 13: 0.2}
    )
    shares: dict[str, float] = field(default_factory=dict)
    graphs: bool = False  # steps as CUDA graphs
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as the encoder gets it: all first views, then all second ones."""

    mel: Tensor  # [rows, mels, frames]
    frames: Tensor  # [rows] mel frames
    right: Tensor  # [rows] right context
    targets: Tensor  # [rows, tokens]
    counts: Tensor  # [rows] tokens
    phones: Tensor | None = None  # [rows, encoder frames, 2]; -100 where none is known
    heard: Tensor | None = None  # [rows, encoder frames, layers, size]: the teacher's
    rnnt: Tensor | None = None  # rows that the transducer's loss is computed on; None is none
    near: bool = False  # whether the views' distance is a loss


@dataclass(frozen=True, slots=True)
class Weights:
    """What each loss counts at this moment of the run."""

    aligning: Number
    phones: Number
    teacher: Number
    consistency: Number
    lm: Number
    ears: Number  # 0 to 1: how far the teacher's ears have learnt to stand in for the student's
    later: Number  # frames that they are later than their own delays
    taught: Number
    taught_ctc: Number

    def packed(self) -> Tensor:
        """Return them as one tensor [9]."""
        return torch.tensor([getattr(self, one.name) for one in fields(self)])

    @classmethod
    def unpacked(cls, packed: Tensor) -> Weights:
        """Return what `packed` has packed, as tensors on its device."""
        return cls(*packed.unbind())


class Student(nn.Module):
    """The model and the heads that exist only while training.

    Where student and teacher have as many layers, each of the student's is held to the teacher's
    (arXiv 1909.10351); else the last one alone.
    """

    def __init__(self, shape: ModelShape, teacher_size: int, teacher_layers: int = 1) -> None:
        super().__init__()
        self.shape = shape
        self.model = FastConformerRNNT(shape)
        self.ctc = nn.Linear(shape.d_model, shape.vocab_size + 1)
        self.phones = nn.Linear(shape.d_model, 2 * len(PHONES))
        within = shape.n_layers - 1 if teacher_layers == shape.n_layers else 0
        # What the last layer is late with, the ones before it cannot have waited for.
        delays = [(1,)] * within + [(1, 2)]
        self.teacher = nn.ModuleList(
            TeacherLoss(shape.d_model, teacher_size, late) for late in delays if teacher_size
        )
        self.ears = TeacherEars(teacher_size, shape.d_model) if teacher_size else None
        self.place = WithoutPlace(teacher_layers, teacher_size) if teacher_size else None

    def losses(self, batch: Batch, weights: Weights, half: torch.autocast) -> dict[str, Tensor]:
        """Return every loss by name, and `total`, their weighted sum."""
        # A loss inside the stack (arXiv 2102.03216) lets its lower part learn before the upper.
        last = self.shape.n_layers - 1
        said = None
        if self.place is not None and batch.heard is not None:
            said = self.place(batch.heard)
        with half:
            encoded, lengths, stack = self.model.encoder(
                batch.mel, batch.frames, batch.right, range(max(1, last))
            )
            heights = [encoded, stack[max(0, last - 1)]]
            phones = None if batch.phones is None else self.phones(torch.stack(heights))
            ears = quiet = None
            if said is not None:
                heard = said[:, :, -1], encoded.shape[1], weights.later
                ears = self.ears(*heard).to(encoded.dtype)
                # The noise is for what decodes; in what is taught it would be an error of its own.
                quiet = self.ears(*heard, quiet=True).to(encoded.dtype)
                heights += [ears, quiet]
            scores = roomy(self.ctc, torch.stack(heights))
        logs = scores.float().log_softmax(-1)
        names = ("ctc", "inner") if ears is None else ("ctc", "inner", "ears_ctc")
        losses = dict(zip(names, self._ctc(logs[: len(names)], lengths, batch), strict=True))
        total = weights.aligning * 0.5 * (losses["ctc"] + losses["inner"])
        if batch.near:
            losses["apart"] = consistency(logs[0], lengths) / batch.counts.sum()
            total = total + weights.consistency * losses["apart"]
        if batch.rnnt is not None:
            losses |= self._rnnt(encoded, ears, lengths, batch, half)
            total = total + losses["rnnt"] + weights.lm * losses["lm"]
        if quiet is not None:
            losses |= self._taught(encoded, quiet, logs, lengths, batch, half)
            heard = weights.aligning * 0.5 * losses["ears_ctc"] + losses.get("ears_rnnt", 0.0)
            heard = heard + weights.taught * losses["taught"]
            heard = heard + weights.taught_ctc * losses["taught_ctc"]
            total = total + weights.ears * heard + (1.0 - weights.ears) * losses["ears_follow"]
        if phones is not None:
            wanted = batch.phones.expand(len(phones), -1, -1, -1).flatten()
            guesses = phones.float().unflatten(-1, (2, -1)).flatten(0, -2)
            apart = F.cross_entropy(guesses, wanted, reduction="sum")
            losses["phones"] = apart / (wanted >= 0).sum().clamp(min=1)
            total = total + weights.phones * losses["phones"]
        if said is not None:
            above = said.unbind(2)[-len(self.teacher) :]
            with half:
                *within, losses["teacher"] = (
                    held(x, heard, lengths)
                    for held, x, heard in zip(
                        self.teacher, [*stack[: len(above) - 1], encoded], above, strict=True
                    )
                )
            total = total + weights.teacher * losses["teacher"]
            if within:
                losses["within"] = torch.stack(within).mean()
                total = total + weights.teacher * losses["within"]
        return losses | {"total": total}

    def _ctc(self, logs: Tensor, lengths: Tensor, batch: Batch) -> list[Tensor]:
        """CTC a token at each height, all in one call: [heights, rows, frames, classes]."""
        heights = len(logs)
        apart = ctc_loss(
            logs.flatten(0, 1),
            batch.targets.repeat(heights, 1),
            lengths.repeat(heights),
            batch.counts.repeat(heights),
            self.model.blank,
        )
        return list(apart.view(heights, -1).sum(1) / batch.counts.sum())

    def _rnnt(
        self,
        encoded: Tensor,
        ears: Tensor | None,
        lengths: Tensor,
        batch: Batch,
        half: torch.autocast,
    ) -> dict[str, Tensor]:
        """Return the transducer's loss, and that of its own language model, a token.

        What predictor and joint say where no audio is heard is a language model, which a
        transducer that knows its few speakers by heart neglects (arXiv 2011.01991, 2102.01380).
        With a teacher's ears, half of the rows are heard by these as well.
        """
        model, rows = self.model, batch.rnnt
        targets, counts = batch.targets[rows], batch.counts[rows]
        # Forgetting some of its own words keeps the prediction network from reciting the few
        # human sentences by heart.
        history = F.pad(targets, (1, 0), value=model.blank)
        forget = torch.rand(len(targets), 1, device=encoded.device) * 0.2
        forgotten = torch.rand(history.shape, device=encoded.device) < forget
        also = 0 if ears is None else len(rows) // 2

        def twice(x: Tensor) -> Tensor:
            return torch.cat((x, x[:also])) if also else x

        with half:
            predicted, _ = model.decoder(history.masked_fill(forgotten, model.blank))
            predicted = dropout(predicted, 0.1, True)
            frames = encoded.index_select(0, rows)
            if ears is not None:
                frames = torch.cat((frames, ears.index_select(0, rows[:also])))
            logits = model.joint(frames, twice(predicted))
            unheard = model.joint.joint_net(model.joint.pred(predicted[:, :-1]))
        tokens = torch.arange(targets.shape[1], device=targets.device) < counts[:, None]
        guesses = unheard[..., : model.blank].float().flatten(0, 1)
        apart = F.cross_entropy(guesses, targets.flatten(), reduction="none") * tokens.flatten()
        apart_rows = rnnt_loss(
            logits, twice(targets), twice(lengths[rows]), twice(counts), model.blank
        )
        losses = {
            "rnnt": apart_rows[: len(rows)].sum() / counts.sum(),
            "lm": apart.sum() / counts.sum(),
        }
        if also:
            losses["ears_rnnt"] = apart_rows[len(rows) :].sum() / counts[:also].sum()
        return losses

    def _taught(
        self,
        encoded: Tensor,
        ears: Tensor,
        logs: Tensor,
        lengths: Tensor,
        batch: Batch,
        half: torch.autocast,
    ) -> dict[str, Tensor]:
        """Return how far the student is from its teacher's ears, and they from the student.

        Args:
            encoded: [rows, frames, d_model], the student's.
            ears: of the same shape, the teacher's.
            logs: [4, rows, frames, classes] CTC's log-probabilities, the student's first and these
                ears' last.
            lengths: [rows] frames that hold audio.
            batch: for its tokens.
            half: precision of the joint.
        """
        inside = torch.arange(encoded.shape[1], device=lengths.device) < lengths[:, None]

        def apart(one: Tensor, wanted: Tensor) -> Tensor:
            wanted = wanted.detach().float()
            every = F.smooth_l1_loss(
                one.float() / wanted.std(), wanted / wanted.std(), reduction="none"
            )
            return (every.mean(-1) * inside).sum() / inside.sum()

        with half:  # the joint's own weights must not give in to be near
            joint = self.model.joint.enc
            mine, theirs = (
                F.linear(x, joint.weight.detach(), joint.bias.detach()) for x in (encoded, ears)
            )
        return {
            "taught": apart(mine, theirs),
            "taught_ctc": divergence(logs[-1].detach(), logs[0], lengths) / batch.counts.sum(),
            "ears_follow": apart(ears, encoded),
        }


def divergence(wanted: Tensor, logs: Tensor, lengths: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence from what is wanted, summed over all frames.

    Args:
        wanted: [rows, frames, classes] log-probabilities.
        logs: of the same shape.
        lengths: [rows] frames that hold audio.
    """
    apart = (wanted.exp() * (wanted - logs)).sum(-1)
    inside = torch.arange(logs.shape[1], device=logs.device) < lengths[:, None]
    return (apart * inside).sum()


def consistency(logs: Tensor, lengths: Tensor) -> Tensor:
    """Return how far apart two views' answers are, summed over views and frames.

    Args:
        logs: [2 * batch, frames, classes] log-probabilities, the second view's after the first's.
        lengths: [2 * batch] frames that hold audio.
    """
    one, other = logs.chunk(2)
    return divergence(torch.cat((other, one)).detach(), logs, lengths)
