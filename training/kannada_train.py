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
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from training.augment import Strength, degrade, mask_features, play
from training.pool import Pool
from voice_agent.engine.indic.conformer import Conformer, ConformerConfig, CtcHead
from voice_agent.engine.indic.features import LogMel

BLANK = 256
PHONEMES = 160  # room in the head that names them

TINY_KN = ConformerConfig(
    n_layers=5,
    d_model=128,
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

    seconds_per_batch: float = 1000.0
    learning_rate: float = 2.0e-3
    weight_decay: float = 1e-3
    warmup: float = 0.06
    dropout: float = 0.05
    ema_decay: float = 0.998
    strength: Strength = Strength(time_masks=3)
    clean: float = 0.15
    naming: float = 2.0  # weight of the phoneme of each frame
    seed: int = 0

    def at(self, progress: float) -> Strength | None:
        """Augmentation: none until the model spells at all, then growing to its full strength."""
        if progress < self.clean:
            return None
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


class AlignedPool(Pool):
    """A pool whose texts carry the beginnings of their phonemes (`kannada_speech.utterances`)."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self.names = {"": 0}
        self.begins: list[tuple[np.ndarray, np.ndarray]] = []

    def _add(self, start: int, samples: int, text: str, voice: str) -> None:
        text, _, aligned = text.partition("\t")
        super()._add(start, samples, text, voice)
        if len(self.start) > len(self.begins):
            marks = json.loads(aligned)
            names = [self.names.setdefault(n, len(self.names) % PHONEMES) for _, n in marks]
            self.begins.append((np.array([m for m, _ in marks]), np.array(names)))

    def phonemes(
        self, rows: np.ndarray, speeds: np.ndarray, lead: np.ndarray, frames: int, stride: int
    ) -> Tensor:
        """The phoneme of every encoder frame: int64 (batch, frames), 0 outside speech."""
        out = np.zeros((len(rows), frames), np.int64)
        centres = np.arange(frames) * stride
        for row, index, speed, first in zip(out, rows, speeds, lead, strict=True):
            marks, names = self.begins[index]
            at = (centres - first) * speed
            place = np.searchsorted(marks, at, side="right") - 1
            inside = (place >= 0) & (at < self.length[index])
            row[inside] = names[place[inside]]
        return torch.from_numpy(out)


def batch_features(
    model: KannadaModel, pool: Pool, rows: np.ndarray, speeds: np.ndarray, strength: Strength | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Play the rows of the pool; (augmented) features, frames, and samples before each begins."""
    device = pool.store.device
    start = torch.tensor([pool.start[i] for i in rows], device=device)
    length = torch.tensor([pool.length[i] for i in rows], device=device)
    speed = torch.tensor(speeds, device=device, dtype=torch.float32)
    lead = torch.randint(800, 4800, (len(rows),), device=device)
    tail = torch.randint(800, 4800, (len(rows),), device=device)
    samples = (length / speed).long() + lead + tail
    wave = play(pool.store, start, length, speed, lead, int(samples.max()))
    if strength is not None:
        wave = degrade(wave, samples, strength)
    mel, frames = model.features(wave, samples)
    if strength is not None:
        mel = mask_features(mel, frames, strength)
    return mel, frames, lead


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
    pool: AlignedPool,
    out: Path,
    progress: Callable[[int], float],
    held_out: Pool | None = None,
    report_s: float = 20.0,
    begin: Path | None = None,
) -> list[dict[str, float]]:
    """Train until `progress(step)` reaches 1; leave `checkpoint.pt` under `out`.

    Args:
        config: shape of the encoder.
        recipe: how.
        pool: training speech; read again while it grows.
        out: folder of the checkpoint.
        progress: 0 to 1, from the step number, the clock or both.
        held_out: speech to report the loss on.
        report_s: seconds between lines printed.
        begin: checkpoint whose weights to begin with; None for random ones.

    Returns:
        The lines printed: step, progress, loss, held-out loss.
    """
    torch.manual_seed(recipe.seed)
    device = pool.store.device
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
    )
    stride = 160 * config.subsampling_factor
    log: list[dict[str, float]] = []
    step, at, total, seen = 0, 0.0, torch.zeros((), device=device), 0
    naming = torch.zeros((), device=device)
    began = said = time.monotonic()

    def report() -> None:
        nonlocal total, seen, said
        line = {
            "step": step,
            "progress": round(at, 3),
            "seconds": round(time.monotonic() - began, 1),
            "loss": round(float(total) / max(seen, 1), 4),
            "naming": round(float(naming), 4),
            "hours": round(sum(pool.hours().values()), 1),
        }
        if held_out is not None:
            line["held_out_loss"] = round(held_out_loss(average.module, held_out), 4)
        log.append(line)
        print(line, flush=True)
        facts = {"log": log, "recipe": repr(recipe), "torch": str(torch.__version__)}
        save(out / "checkpoint.pt", average.module, config, facts)
        total, seen, said = torch.zeros((), device=device), 0, time.monotonic()

    report()  # where it starts from
    while at < 1.0:
        pool.refresh()
        for rows, speeds in pool.batches({"kn": 1.0}, recipe.seconds_per_batch, rng):
            at = progress(step)
            if at >= 1.0:
                break
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate(at)
            model.train()
            with torch.no_grad():
                strength = recipe.at(at)
                mel, frames, lead = batch_features(model, pool, rows, speeds, strength)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                encoded, lengths = model.encoder(mel, frames)
            targets, counts = pool.targets(rows)
            loss = ctc_loss(model.ctc(encoded.float()), lengths, targets, counts)
            names = pool.phonemes(rows, speeds, lead.cpu().numpy(), encoded.shape[2], stride)
            named = namer(encoded.float().transpose(1, 2)).transpose(1, 2)
            guess = nn.functional.cross_entropy(named, names.to(device))
            optimiser.zero_grad(set_to_none=True)
            (loss + recipe.naming * guess).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            average.update_parameters(model)
            total, seen, step, naming = total + loss.detach(), seen + 1, step + 1, guess.detach()
            if time.monotonic() - said > report_s:
                report()
    report()
    return log


@torch.no_grad()
def held_out_loss(model: nn.Module, pool: Pool) -> float:
    """Mean CTC loss a token on clean speech, without augmentation."""
    model.eval()
    total, tokens = 0.0, 0
    order = np.argsort(pool.length)
    for rows in np.array_split(order, max(1, len(order) // 32)):
        mel, frames, _ = batch_features(model, pool, rows, np.ones(len(rows)), None)
        scores, lengths = model.scores(mel, frames)
        targets, counts = pool.targets(rows)
        total += float(ctc_loss(scores, lengths, targets, counts)) * int(counts.sum())
        tokens += int(counts.sum())
    return total / max(tokens, 1)
