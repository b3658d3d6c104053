"""Trains the network of `tiny-lid`, by wall time, on a CPU or a GPU.

Two tasks at once: the phone of every frame, and the language of the excerpt from its phones. eSpeak
NG tells when its phones begin; the other voices' are aligned by the network itself, again and
again. A second head that tries to tell people's English from synthetic English is trained against.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from training import phones
from training.aligned import HOP
from training.augment import Strength
from training.lid_data import Languages, batch_of
from training.lid_net import NAMED, STRIDE, LidNet, log_mel_batch
from training.lid_voices import Bank, align
from voice_agent.engine.lid.features import WINDOW

LONGEST_S = 25.0  # of an utterance that is aligned
LENGTHS_S = (0.5, 0.5, 0.75, 1.0, 1.0, 1.5, 2.0, 3.0)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train; `voices` is the share of excerpts that people's voices say."""

    batch: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    free: int = 0
    share: float = 0.2
    width: int = 160
    naming: float = 1.0
    judge: float = 0.2
    voices: float = 0.35
    ema_decay: float = 0.998
    strength: Strength = Strength(noise=0.7, babble=0.15, snr_db=(3.0, 30.0), time_masks=1)
    alignments: tuple[float, ...] = (0.12, 0.3, 0.55)
    begin_voices: float = 0.3
    seed: int = 0


def loss_of(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy of English, Kannada, other; and, less, of the language among the others."""
    named = len(NAMED)
    chance = torch.log_softmax(logits, dim=1)
    grouped = torch.cat([chance[:, :named], chance[:, named:].logsumexp(1, keepdim=True)], dim=1)
    coarse = nn.functional.nll_loss(grouped, classes.clamp(max=named))
    return coarse + 0.25 * nn.functional.cross_entropy(logits, classes, label_smoothing=0.05)


class _Reverse(torch.autograd.Function):
    """Nothing forwards; the gradient's opposite backwards (Ganin and Lempitsky 2015)."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return -gradient


@torch.no_grad()
def listen(
    net: LidNet, store: Languages, rng: np.random.Generator, relabel: bool, clips: int = 300
) -> Bank:
    """Align what has no labels of its own, if asked to; and collect how people sound."""
    bank = Bank()
    people = store.groups.get(("en", "human"), np.zeros(0, np.int64))
    keep = set(rng.permutation(people)[:clips].tolist())
    unlabelled = [
        int(index)
        for (_, source), rows in store.groups.items()
        if source not in ("espeak", "made")
        for index in rows
        if (relabel or index in keep) and store.length[index] < LONGEST_S * 16_000
    ]
    unlabelled.sort(key=lambda index: store.length[index])
    for begin in range(0, len(unlabelled), 48):
        rows = unlabelled[begin : begin + 48]
        waves = [
            store.pcm[store.start[i] : store.start[i] + store.length[i]].float() / 32768.0
            for i in rows
        ]
        mels = [log_mel_batch(wave[None])[0] for wave in waves]
        widest = max(mel.shape[1] for mel in mels)
        mel = torch.stack([nn.functional.pad(m, (0, widest - m.shape[1])) for m in mels])
        heard = net.hear(mel)
        for index, ours, features in zip(rows, heard, mels, strict=True):
            if index in keep:
                bank.add(ours, features)
        if relabel:
            frames = torch.tensor([-(-m.shape[1] // 2) for m in mels], device=store.device)
            scores = torch.log_softmax(net.names(heard).float().transpose(1, 2), dim=2)
            paths = align(scores, frames, [phones.codes(store.text[i]) for i in rows])
            paths = paths.masked_fill(paths < 0, phones.UNKNOWN).to(torch.uint8)
            for index, path, count in zip(rows, paths, frames.tolist(), strict=True):
                hops = -(-int(store.length[index]) // HOP)
                first = int(store.start[index]) // HOP
                # A hop takes the label of the frame whose middle is nearest.
                middle = torch.arange(hops, device=store.device) * HOP + HOP // 2
                near = ((middle - WINDOW // 2) / STRIDE).round().long().clamp(0, count - 1)
                store.labels[first : first + hops] = path[near]
    return bank


@torch.no_grad()
def accuracy(net: LidNet, store: Languages, seed: int = 1) -> dict[str, float]:
    """Share of clean crops called right, by what they are and their seconds."""
    net.eval()
    rng = np.random.default_rng(seed)
    clean = Strength(0.2, 0.0, 0.1, 0.3, 0.0, 0.0, time_masks=0, frequency_masks=0)
    found: dict[str, float] = {}
    for seconds in (0.5, 1.0, 2.0):
        torch.manual_seed(seed)
        batch = batch_of(store, 600, seconds, rng, clean)
        right = net(batch.mel).argmax(1).clamp(max=2) == batch.classes.clamp(max=2)
        for number, name in enumerate(("en", "kn", "other")):
            mine = batch.classes.clamp(max=2) == number
            found[f"{name} {seconds}"] = round(float(right[mine].float().mean()), 3)
    return found


def save(path: Path, net: LidNet, recipe: Recipe, facts: dict[str, object]) -> None:
    """Write the network and what is known of the run."""
    part = path.with_suffix(".part")
    shape = {"width": recipe.width, "free": recipe.free, "share": recipe.share}
    weights = {k: v.cpu() for k, v in net.state_dict().items()}
    torch.save({"shape": shape, "weights": weights, "facts": facts}, part)
    part.replace(path)


def load(path: Path) -> tuple[LidNet, dict[str, object]]:
    """Read what `save` wrote; the network is in evaluation mode."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    net = LidNet(**state["shape"])
    net.load_state_dict(state["weights"])
    return net.eval(), state["facts"]


def train(
    recipe: Recipe,
    store: Languages,
    progress: Callable[[int], float],
    out: Path | None = None,
    held_out: Languages | None = None,
    report_s: float = 15.0,
) -> tuple[LidNet, list[dict[str, object]]]:
    """Train until `progress(step)` reaches 1; the averaged network and the lines printed."""
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    device = store.device
    net = LidNet(width=recipe.width, free=recipe.free, share=recipe.share).to(device)
    judge = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1)).to(device)
    average = torch.optim.swa_utils.AveragedModel(
        net,
        multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.ema_decay),
        use_buffers=True,
    )
    parameters = [*net.parameters(), *judge.parameters()]
    optimiser = torch.optim.AdamW(
        parameters,
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        fused=device.type == "cuda",
    )
    log: list[dict[str, object]] = []
    step, at, seen = 0, 0.0, 0
    sums = torch.zeros(5, device=device)
    began = said = time.monotonic()
    alignments, listened, bank, ear = list(recipe.alignments), -1.0, None, None

    def report() -> None:
        nonlocal seen, said
        mean = [round(v, 4) for v in (sums / max(seen, 1)).tolist()]
        line: dict[str, object] = {
            "step": step,
            "progress": round(at, 3),
            "seconds": round(time.monotonic() - began, 1),
            **dict(zip(("loss", "naming", "named", "right", "judge"), mean, strict=True)),
            "hours": round(store.hours(), 2),
        }
        if held_out is not None and len(held_out):
            line["held_out"] = accuracy(average.module, held_out)
        log.append(line)
        print(line, flush=True)
        if out is not None:
            facts = {"log": log[-40:], "minutes": store.minutes(), "recipe": repr(recipe)}
            save(out, average.module, recipe, facts)
        sums.zero_()
        seen, said = 0, time.monotonic()

    while at < 1.0:
        at = progress(step)
        for group in optimiser.param_groups:
            warm = min(1.0, at / 0.04 + 0.01)
            group["lr"] = recipe.learning_rate * warm * (1.02 - min(at, 1.0))
        relabel = bool(alignments) and at >= alignments[0]
        if relabel or (at >= recipe.begin_voices and at - listened > 0.08):
            ear = copy.deepcopy(average.module).eval()
            bank = listen(ear, store, rng, relabel)
            listened = at
            if relabel:
                alignments.pop(0)
        speaking = None
        if bank is not None and ear is not None and bank.heard and at >= recipe.begin_voices:
            speaking = functools.partial(bank.speak, ear, rng=rng)
        net.train()
        with torch.no_grad():
            batch = batch_of(
                store,
                recipe.batch,
                float(rng.choice(LENGTHS_S)),
                rng,
                recipe.strength,
                speaking,
                recipe.voices,
            )
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            heard = net.hear(batch.mel)
            names = net.names(heard)
            embedding = net.embedding(heard, names.float())
            logits = net.out(net.dropout(embedding))
            guess = judge(_Reverse.apply(embedding)).squeeze(1).float()
        names, logits = names.float(), logits.float()
        loss = loss_of(logits, batch.classes)
        labelled = (batch.phones != phones.UNKNOWN).sum().clamp(min=1)
        naming = labelled.reciprocal() * nn.functional.cross_entropy(
            names, batch.phones, ignore_index=phones.UNKNOWN, reduction="sum"
        )
        # Only English has people of its own; elsewhere the judge would judge the language.
        english = (batch.classes == 0).float()
        fooled = nn.functional.binary_cross_entropy_with_logits(
            guess, batch.human.float(), weight=english, reduction="sum"
        ) / english.sum().clamp(min=1)
        optimiser.zero_grad(set_to_none=True)
        total = loss + recipe.naming * (1 - 0.5 * at) * naming
        (total + recipe.judge * min(1.0, 4 * at) * fooled).backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimiser.step()
        average.update_parameters(net)
        step, seen = step + 1, seen + 1
        with torch.no_grad():
            right = logits.argmax(1).clamp(max=2) == batch.classes.clamp(max=2)
            speech = (batch.phones != phones.UNKNOWN) & (batch.phones != 0)
            named = ((names.argmax(1) == batch.phones) & speech).sum() / speech.sum().clamp(min=1)
            sums += torch.stack([loss, naming, named, right.float().mean(), fooled]).detach()
        if time.monotonic() - said > report_s:
            report()
        if step % 20 == 0:
            store.refresh()
            if held_out is not None:
                held_out.refresh()
    if seen:
        report()
    return average.module.eval(), log
