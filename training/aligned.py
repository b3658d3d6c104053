"""Aligned speech: shards of utterances whose phones are known every 10 ms, and the store of them.

A shard is one `NAME.npz`, renamed into place when it is whole:

    pcm     [n] int16, 16 kHz; every utterance fills whole hops of 160
    labels  [n / 160] uint8, the phone of each hop as an index into `names`
    about   JSON: {"names": [...], "rows": [{"samples", "text", "voice"}, …]}

Name 0 is "" (nothing is said). The names of unlabelled utterances are UNKNOWN throughout.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

HOP = 160
UNKNOWN = "?"

Mark = tuple[int, str]  # sample at which a phone begins, and its name
Spoken = tuple[np.ndarray, str, str, list[Mark] | None]  # audio, text, voice, phones if known


def write(folder: Path, name: str, utterances: Iterable[Spoken]) -> float:
    """Write one shard; return its seconds."""
    names = {"": 0, UNKNOWN: 1}
    audio, labels, rows = [], [], []
    for pcm, text, voice, marks in utterances:
        hops = -(-len(pcm) // HOP)
        audio.append(np.pad(pcm, (0, hops * HOP - len(pcm))))
        if marks is None:
            labels.append(np.ones(hops, np.uint8))
        else:
            at = np.array([0, *(m for m, _ in marks)])
            said = np.array([0, *(names.setdefault(n, len(names)) for _, n in marks)])
            place = np.searchsorted(at, np.arange(hops) * HOP + HOP // 2, side="right") - 1
            labels.append(said[place].astype(np.uint8))
        rows.append({"samples": len(pcm), "text": text, "voice": voice})
    folder.mkdir(parents=True, exist_ok=True)
    about = json.dumps({"names": list(names), "rows": rows}).encode()
    part = folder / f".{name}.part.npz"
    np.savez(
        part,
        pcm=np.concatenate(audio).astype("<i2") if audio else np.zeros(0, "<i2"),
        labels=np.concatenate(labels) if labels else np.zeros(0, np.uint8),
        about=np.frombuffer(about, np.uint8),
    )
    os.replace(part, folder / f"{name}.npz")
    return sum(row["samples"] for row in rows) / 16_000


class Store:
    """All utterances read so far: audio and labels in one tensor each, on the training device."""

    def __init__(
        self, folder: Path, hours: float, device: torch.device, code: Callable[[str], int]
    ) -> None:
        """Make room for so many hours; `code` numbers the names of phones, 0 to 255."""
        self.folder, self.code = folder, code
        hops = int(hours * 360_000)
        self.pcm = torch.zeros(hops * HOP, dtype=torch.int16, device=device)
        self.labels = torch.zeros(hops, dtype=torch.uint8, device=device)
        self.used = 0
        self.seen: set[str] = set()
        self.start = np.zeros(0, np.int64)
        self.length = np.zeros(0, np.int64)
        self.text: list[str] = []
        self.voice: list[str] = []

    @property
    def device(self) -> torch.device:
        """Where the audio lies."""
        return self.pcm.device

    def __len__(self) -> int:
        return len(self.start)

    def hours(self) -> float:
        """Hours of speech read so far."""
        return float(self.length.sum()) / 16_000 / 3600

    def refresh(self, limit: int = 1) -> int:
        """Read up to `limit` new shards; return how many. A full store takes no more."""
        fresh = sorted(p for p in self.folder.glob("[!.]*.npz") if p.name not in self.seen)
        for path in fresh[:limit]:
            self.seen.add(path.name)
            with np.load(path) as shard:
                pcm, labels, about = shard["pcm"], shard["labels"], shard["about"]
            if self.used + len(pcm) > len(self.pcm):
                continue
            known = json.loads(about.tobytes())
            table = np.array([self.code(n) for n in known["names"]], np.uint8)
            end = self.used + len(pcm)
            self.pcm[self.used : end] = torch.from_numpy(pcm).to(self.device)
            hops = torch.from_numpy(table[labels]).to(self.device)
            self.labels[self.used // HOP : end // HOP] = hops
            length = np.array([row["samples"] for row in known["rows"]], np.int64)
            ends = self.used + np.cumsum(-(-length // HOP) * HOP)
            self.start = np.concatenate([self.start, ends - -(-length // HOP) * HOP])
            self.length = np.concatenate([self.length, length])
            self.text += [row["text"] for row in known["rows"]]
            self.voice += [row["voice"] for row in known["rows"]]
            self.used = end
        return len(fresh[:limit])

    def labels_at(self, start: Tensor, length: Tensor, at: Tensor) -> Tensor:
        """Return the labels (batch, n) at samples `at` (batch, n) of utterances; 0 outside them."""
        inside = (at >= 0) & (at < length[:, None])
        hop = (start[:, None] + at.clamp(min=0).minimum(length[:, None] - 1)) // HOP
        return torch.where(inside, self.labels[hop].long(), 0)
