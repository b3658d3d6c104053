"""Trains the acoustic model of `tiny-kn`: an offline Conformer with a CTC head, by wall time.

The loop draws batches from a pool that may still be filling, plays each utterance at another
speed, in another room, over another noise (`training.augment`), and leaves `checkpoint.pt` with
averaged weights in half precision.

CTC alone, on 256 pieces, sat on its plateau (a loss of 4.9 a token) through 1,077 steps of 1,000 s
on a GPU. eSpeak NG knows when each phoneme begins; a second head that names the phoneme of every
frame shows the encoder what to listen for. It is dropped at the end.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from training.aligned import HOP, Store
from training.augment import Strength, degrade, mask_features, play
from voice_agent.engine.indic.conformer import Conformer, ConformerConfig, CtcHead
from voice_agent.engine.indic.features import LogMel

BLANK = 256
PHONEMES = 160  # room in the head that names them
LONGEST_S = 18.0  # of an utterance
MARGIN_S = 0.6  # of silence around one, at most

TINY_KN = ConformerConfig(
    n_layers=7,
    d_model=144,
    n_heads=4,
    subsampling="dw_striding",
    subsampling_factor=4,
    subsampling_conv_channels=64,
    conv_kernel_size=15,
    conv_norm_type="layer_norm",
    xscaling=False,
)
SMOKE = dataclasses.replace(TINY_KN, n_layers=2, d_model=64, subsampling_conv_channels=16)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train. `progress` runs from 0 to 1 with the time or the steps that are allowed."""

    seconds_per_batch: float = 400.0
    draw: int = 4096  # utterances that are cut into batches of like length at a time
    learning_rate: float = 2.0e-3
    weight_decay: float = 1e-3
    warmup: float = 0.06
    dropout: float = 0.05
    ema_decay: float = 0.998
    strength: Strength = Strength(time_masks=3)
    clean: float = 0.12
    calm: float = 0.85
    naming: float = 2.0  # weight of the phoneme of each frame; falls to a fifth
    seed: int = 0

    def at(self, progress: float) -> Strength | None:
        """Augmentation: none until the model spells, then growing to its full strength.

        Half of it after `calm`, so that nearly clean speech is what it has heard last.
        """
        if progress < self.clean:
            return None
        if progress >= self.calm:
            return self.strength.lighter(0.5)
        return self.strength.lighter(max(0.0, 1.0 - (progress - self.clean) / self.clean))

    def rate(self, progress: float) -> float:
        """Learning rate: linear warm-up, then half a cosine to a fiftieth of the peak."""
        if progress < self.warmup:
            return self.learning_rate * (progress / self.warmup + 0.01)
        share = (progress - self.warmup) / (1.0 - self.warmup)
        return self.learning_rate * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * min(share, 1))))


class KannadaModel(nn.Module):
    """Features, encoder and CTC head; the part that learns is the last two."""

    def __init__(self, config: ConformerConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.features = LogMel()
        self.encoder = Conformer(config, dropout)
        self.ctc = CtcHead(config.d_model, BLANK + 1)

    def scores(self, mel: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities [batch, frames, 257] and the frames of each row."""
        encoded, lengths = self.encoder(mel, frames)
        return self.ctc(encoded.float()), lengths


def save(path: Path, model: nn.Module, config: ConformerConfig, facts: dict[str, object]) -> None:
    """Write config, half-precision weights and what is known of the run."""
    weights = {k: v.half().cpu() for k, v in model.state_dict().items() if v.is_floating_point()}
    weights = {k: v for k, v in weights.items() if not k.startswith("features.")}
    part = path.with_suffix(".part")
    torch.save({"config": dataclasses.asdict(config), "weights": weights, "facts": facts}, part)
    part.replace(path)


def load(path: Path) -> tuple[KannadaModel, dict[str, object]]:
    """Read what `save` wrote; the model is float32 and in evaluation mode."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    model = KannadaModel(ConformerConfig(**state["config"]))
    weights = {k: v.float() for k, v in state["weights"].items()}
    missing, unknown = model.load_state_dict(weights, strict=False)
    wrong = [k for k in missing if not k.startswith("features.")] + list(unknown)
    if wrong:
        raise ValueError(f"{path} does not fit the model: {', '.join(wrong[:4])}")
    return model.eval(), state["facts"]


class Speech(Store):
    """Aligned speech whose texts are spelt in tokens, cut into batches of like length."""

    def __init__(
        self,
        folder: Path,
        encode: Callable[[str], list[int]],
        hours: float,
        device: torch.device,
        names: dict[str, int] | None = None,
    ) -> None:
        """`names` numbers the phonemes; what is not in it yet is added."""
        self.encode, self.names = encode, {"": 0} if names is None else names
        self.tokens: list[list[int]] = []
        self.usable = np.zeros(0, bool)
        super().__init__(folder, hours, device, self._number)

    def _number(self, name: str) -> int:
        return self.names.setdefault(name, len(self.names) % PHONEMES)

    def refresh(self, limit: int = 1) -> int:
        """Read new shards and spell their texts."""
        read = super().refresh(limit)
        self.tokens += [self.encode(text) for text in self.text[len(self.tokens) :]]
        frames = self.length / (HOP * 4)
        counts = np.array([len(t) for t in self.tokens])
        # Empty, too long for a batch, or impossible to align.
        self.usable = (counts > 0) & (counts < 0.8 * frames) & (self.length < LONGEST_S * 16_000)
        return read

    def batches(
        self, seconds: float, rng: np.random.Generator, draw: int = 4096
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Draw utterances; return (indices, speeds) of batches of at most so many seconds."""
        chosen = rng.choice(np.flatnonzero(self.usable), draw)
        speeds = rng.uniform(0.87, 1.15, draw)
        length = self.length[chosen] / speeds / 16_000 + MARGIN_S
        order = np.argsort(length)
        cut, begin = [], 0
        while begin < draw:
            end = begin + 1
            while end < draw and length[order[end]] * (end + 1 - begin) <= seconds:
                end += 1
            cut.append((chosen[order[begin:end]], speeds[order[begin:end]]))
            begin = end
        return [cut[i] for i in rng.permutation(len(cut))]

    def targets(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the padded tokens [batch, most] of the utterances and their counts."""
        counts = torch.tensor([len(self.tokens[i]) for i in rows])
        padded = torch.zeros(len(rows), int(counts.max()), dtype=torch.long)
        for row, index in zip(padded, rows, strict=True):
            row[: len(self.tokens[index])] = torch.tensor(self.tokens[index])
        return padded, counts


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step hears: features, their frames, and the phoneme of each encoder frame."""

    mel: Tensor
    frames: Tensor
    phonemes: Tensor


def batch_of(
    model: KannadaModel,
    speech: Speech,
    rows: np.ndarray,
    speeds: np.ndarray,
    strength: Strength | None,
) -> Batch:
    """Play utterances at these speeds between two pauses, (augmented) as features."""
    device = speech.device
    start = torch.from_numpy(speech.start[rows]).to(device)
    length = torch.from_numpy(speech.length[rows]).to(device)
    speed = torch.from_numpy(speeds).to(device, torch.float32)
    lead, tail = torch.randint(800, 4800, (2, len(rows)), device=device)
    samples = (length / speed).long() + lead + tail
    # Few widths: the allocator and the transforms meet the same shapes again.
    width = -(-int(samples.max()) // 8000) * 8000
    wave = play(speech.pcm, start, length, speed, lead, width)
    if strength is not None:
        wave = degrade(wave, samples, strength)
    mel, frames = model.features(wave, samples)
    if strength is not None:
        mel = mask_features(mel, frames, strength)
    factor = model.encoder.config.subsampling_factor
    centres = torch.arange(-(-mel.shape[2] // factor), device=device) * (HOP * factor)
    at = ((centres - lead[:, None]) * speed[:, None]).long()
    return Batch(mel, frames, speech.labels_at(start, length, at))


def ctc_loss(scores: Tensor, lengths: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
    """Mean CTC loss a token."""
    loss = nn.functional.ctc_loss(
        scores.transpose(0, 1),
        targets.to(scores.device),
        lengths,
        counts.to(scores.device),
        blank=BLANK,
        reduction="sum",
        zero_infinity=True,
    )
    return loss / counts.sum()


def train(
    config: ConformerConfig,
    recipe: Recipe,
    speech: Speech,
    out: Path,
    progress: Callable[[int], float],
    held_out: Speech | None = None,
    report_s: float = 15.0,
    begin: Path | None = None,
) -> list[dict[str, float]]:
    """Train until `progress(step)` reaches 1; leave `checkpoint.pt` under `out`.

    Args:
        config: shape of the encoder.
        recipe: how.
        speech: training speech; read again while it grows.
        out: folder of the checkpoint.
        progress: 0 to 1, from the step number, the clock or both.
        held_out: speech to report the loss on.
        report_s: seconds between lines printed.
        begin: checkpoint whose weights to begin with; None for random ones.

    Returns:
        The lines printed: step, progress, loss, held-out loss.
    """
    torch.manual_seed(recipe.seed)
    device = speech.device
    rng = np.random.default_rng(recipe.seed)
    model = KannadaModel(config, recipe.dropout)
    if begin is not None:
        model.load_state_dict(load(begin)[0].state_dict())
    model = model.to(device)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.ema_decay)
    )
    namer = nn.Linear(config.d_model, PHONEMES).to(device)
    parameters = [*model.parameters(), *namer.parameters()]
    optimiser = torch.optim.AdamW(
        parameters,
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=recipe.weight_decay,
        fused=device.type == "cuda",
    )
    log: list[dict[str, float]] = []
    step, at, seen = 0, 0.0, 0
    sums = torch.zeros(2, device=device)
    began = said = time.monotonic()

    def report() -> None:
        nonlocal seen, said
        mean = (sums / max(seen, 1)).tolist()
        line = {
            "step": step,
            "progress": round(at, 3),
            "seconds": round(time.monotonic() - began, 1),
            "loss": round(mean[0], 4),
            "naming": round(mean[1], 4),
            "hours": round(speech.hours(), 1),
        }
        if held_out is not None:
            line["held_out_loss"] = round(held_out_loss(average.module, held_out), 4)
        log.append(line)
        print(line, flush=True)
        facts = {"log": log, "recipe": repr(recipe), "torch": str(torch.__version__)}
        save(out / "checkpoint.pt", average.module, config, facts)
        sums.zero_()
        seen, said = 0, time.monotonic()

    report()  # where it starts from
    while at < 1.0:
        for rows, speeds in speech.batches(recipe.seconds_per_batch, rng, recipe.draw):
            at = progress(step)
            if at >= 1.0:
                break
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate(at)
            model.train()
            with torch.no_grad():
                batch = batch_of(model, speech, rows, speeds, recipe.at(at))
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                encoded, lengths = model.encoder(batch.mel, batch.frames)
            encoded = encoded.float()
            loss = ctc_loss(model.ctc(encoded), lengths, *speech.targets(rows))
            named = namer(encoded.transpose(1, 2)).transpose(1, 2)
            guess = nn.functional.cross_entropy(named, batch.phonemes[:, : named.shape[2]])
            optimiser.zero_grad(set_to_none=True)
            (loss + recipe.naming * (1.0 - 0.8 * at) * guess).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            average.update_parameters(model)
            sums += torch.stack([loss.detach(), guess.detach()])
            seen, step = seen + 1, step + 1
            if time.monotonic() - said > report_s:
                report()
            if speech.refresh():
                break  # draw from the new shard, too
    if seen:
        report()
    return log


@torch.no_grad()
def held_out_loss(model: nn.Module, speech: Speech) -> float:
    """Mean CTC loss a token on clean speech, without augmentation."""
    model.eval()
    total, tokens = 0.0, 0
    usable = np.flatnonzero(speech.usable)
    order = usable[np.argsort(speech.length[usable])]
    for rows in np.array_split(order, max(1, len(order) // 50)):
        batch = batch_of(model, speech, rows, np.ones(len(rows)), None)
        scores, lengths = model.scores(batch.mel, batch.frames)
        targets, counts = speech.targets(rows)
        total += float(ctc_loss(scores, lengths, targets, counts)) * int(counts.sum())
        tokens += int(counts.sum())
    return total / max(tokens, 1)
