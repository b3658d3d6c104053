"""What `tiny-lid` is trained on: utterances by language and source, drawn, cut and degraded.

Everything is played at another speed, in another room, line and noise, with another vocal tract,
and, once the ear is good enough, in other people's voices (`training.lid_voices`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training import phones
from training.aligned import Store
from training.augment import Strength, degrade, mask_features
from training.lid_net import CLASSES, STRIDE, log_mel_batch
from voice_agent.engine.lid.features import WINDOW

SHARES = {"en": 0.31, "kn": 0.31, "noise": 0.06}  # of a batch; the rest is the other languages'
SOURCES = {"human": 0.3, "espeak": 0.45, "joe": 0.2, "kokoro": 0.2, "made": 1.0}


class Languages(Store):
    """Utterances by (language, source); an utterance's text is its phones in IPA."""

    def __init__(self, folder: Path, hours: float, device: torch.device) -> None:
        super().__init__(folder, hours, device, lambda n: phones.code(n) if n else 0)
        self.groups: dict[tuple[str, str], np.ndarray] = {}
        self.human = np.zeros(0, bool)

    def refresh(self, limit: int = 1) -> int:
        """Read new shards."""
        before = len(self)
        read = super().refresh(limit)
        for index in range(before, len(self)):
            language, source = self.voice[index].split("/")[:2]
            rows = self.groups.setdefault((language, source), np.zeros(0, np.int64))
            self.groups[(language, source)] = np.append(rows, index)
        fresh = [v.split("/")[1] == "human" for v in self.voice[before:]]
        self.human = np.append(self.human, np.array(fresh, bool))
        return read

    def minutes(self) -> dict[str, float]:
        """Minutes of audio by language and source."""
        return {
            "/".join(key): round(float(self.length[rows].sum()) / 960_000, 1)
            for key, rows in sorted(self.groups.items())
        }

    def draw(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw utterances by the shares of languages and sources; indices and classes."""
        present = {language for language, _ in self.groups}
        others = [c for c in CLASSES if c in present and c not in SHARES]
        rest = 1.0 - sum(SHARES.values())
        keys, weights = list(self.groups), []
        for language, source in keys:
            share = SHARES.get(language, rest / max(len(others), 1))
            beside = sum(SOURCES[s] for name, s in keys if name == language)
            weights.append(share * SOURCES[source] / beside)
        p = np.array(weights) / sum(weights)
        rows, classes = [], []
        for (language, source), n in zip(keys, rng.multinomial(count, p), strict=True):
            rows.append(rng.choice(self.groups[(language, source)], n))
            classes.append(np.full(n, CLASSES.index(language)))
        order = rng.permutation(count)
        return np.concatenate(rows)[order], np.concatenate(classes)[order]


def crops(
    pcm: Tensor, start: Tensor, length: Tensor, n: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Cut n samples out of each utterance, at a random place and speed (linear interpolation).

    Args:
        pcm: int16, all audio end to end.
        start: first sample of each utterance, (batch,).
        length: samples of each, (batch,).
        n: samples to cut; a shorter utterance has silence around it.
        rng: draws place and speed.

    Returns:
        [batch, n] float32 in -1 to 1; and where in its utterance each sample lies, [batch, n].
    """
    rows, device = len(start), pcm.device
    speed = torch.from_numpy(rng.uniform(0.85, 1.18, rows)).to(device)
    place = torch.from_numpy(rng.random(rows)).to(device)
    spare = length - n * speed
    place = torch.where(spare > 0, place * spare, place * spare / 2)
    at = place[:, None] + torch.arange(n, device=device) * speed[:, None]
    whole = at.floor().long()
    part = (at - whole).float()
    last = length[:, None] - 2
    inside = (whole >= 0) & (whole <= last)
    index = start[:, None] + whole.clamp(min=0).minimum(last)
    wave = torch.lerp(pcm[index].float(), pcm[index + 1].float(), part)
    return wave * inside / 32768.0, whole


def warped(mel: Tensor, rng: np.random.Generator) -> Tensor:
    """Another vocal tract and another liveliness: bands moved by up to a tenth and scaled."""
    batch, bands, frames = mel.shape
    factor = torch.from_numpy(rng.uniform(0.9, 1.1, batch)).to(mel.device, torch.float32)
    at = (torch.arange(bands, device=mel.device) * factor[:, None]).clamp(max=bands - 1.001)
    low = at.floor().long()
    part = (at - low)[:, :, None]
    low = low[:, :, None].expand(-1, -1, frames)
    mel = torch.lerp(mel.gather(1, low), mel.gather(1, low + 1), part)
    # Each band swings as much as it does in another excerpt (MixStyle, arXiv 2104.02008).
    swing = mel.std(dim=2, keepdim=True).clamp(min=1e-3)
    other = swing[torch.from_numpy(rng.permutation(batch)).to(mel.device)]
    share = torch.from_numpy(rng.beta(0.3, 0.3, (batch, 1, 1))).to(mel.device, torch.float32)
    share = share * torch.from_numpy(rng.random((batch, 1, 1)) < 0.5).to(mel.device)
    return mel * (share * other + (1 - share) * swing) / swing


@dataclass(frozen=True, slots=True)
class Batch:
    """Features, classes, phones of frames (UNKNOWN where none is known), whether people speak."""

    mel: Tensor
    classes: Tensor
    phones: Tensor
    human: Tensor


def batch_of(
    store: Languages,
    count: int,
    seconds: float,
    rng: np.random.Generator,
    strength: Strength,
    bank: Callable[[Tensor], Tensor] | None = None,
    voices: float = 0.0,
) -> Batch:
    """Draw crops of one length; `bank` says a share `voices` of them in people's voices."""
    rows, classes = store.draw(count, rng)
    device = store.device
    start = torch.from_numpy(store.start[rows]).to(device)
    length = torch.from_numpy(store.length[rows]).to(device)
    wave, at = crops(store.pcm, start, length, int(seconds * 16_000), rng)
    wave = degrade(wave, torch.full((count,), wave.shape[1], device=device), strength)
    mel = log_mel_batch(wave)
    human = torch.from_numpy(store.human[rows]).to(device)
    noise = torch.from_numpy(classes == CLASSES.index("noise")).to(device)
    if bank is not None:
        chosen = torch.from_numpy(rng.random(count) < voices).to(device) & ~noise
        if chosen.any():
            mel[chosen] = bank(mel[chosen])
            human = human | chosen
    mel = warped(mel, rng)
    mel = mask_features(mel, torch.full((count,), mel.shape[2], device=device), strength)
    frames = -(-mel.shape[2] // 2)
    centres = torch.arange(frames, device=device) * STRIDE + WINDOW // 2
    centres = centres.clamp(max=at.shape[1] - 1)
    said = store.labels_at(start, length, at[:, centres])
    return Batch(mel, torch.from_numpy(classes).to(device), said, human)
