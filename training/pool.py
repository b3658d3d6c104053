"""The pool of training speech: shards on disk that synthesis appends to while training reads.

A shard is `NAME.pcm` (int16, 16 kHz, utterances end to end) and `NAME.json`, a list of
`{"samples", "text", "voice"}`, with `"phones"` and `"ends"` (in samples) where the voice told what
it said when or an aligner found it, and then `"words"` too: [word, begin, end]. The JSON is renamed
into place last, so a reader that sees it sees the whole shard.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.align import UNKNOWN, common
from training.mel import SAMPLE_RATE

MAX_TOKENS = 240
PHONES = (
    "pau aa ae ah ao aw ay b ch d dh eh er ey f g hh ih iy jh k l m n ng ow oy p r s sh t th uh uw "
    "v w y z zh"
).split()  # what CMU's dictionary and Flite's radio phones have in common, see training.align
MARGIN_S = 0.8  # at most, of silence before and after an utterance


def write_shard(folder: Path, name: str, utterances: Iterable[tuple]) -> float:
    """Write (int16 audio, text, voice[, phones with their ends[, words]]) as one shard.

    Returns:
        Its seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows, samples = [], 0
    with (folder / f"{name}.pcm").open("wb") as out:
        for audio, text, voice, *known in utterances:
            out.write(audio.astype("<i2").tobytes())
            row = {"samples": len(audio), "text": text, "voice": voice}
            if known:
                row["phones"] = " ".join(common(phone) for phone, _ in known[0])
                row["ends"] = [end for _, end in known[0]]
            if known[1:]:
                row["words"] = known[1]
            rows.append(row)
            samples += len(audio)
    part = folder / f".{name}.json.part"
    part.write_text(json.dumps(rows))
    os.replace(part, folder / f"{name}.json")
    return samples / SAMPLE_RATE


class Pool:
    """All utterances read so far, their audio in one int16 tensor on the training device."""

    def __init__(
        self,
        folder: Path,
        encode: Callable[[str], list[int]],
        hours: float,
        device: torch.device,
        longest_s: float = 18.0,
    ) -> None:
        self.folder, self.encode, self.longest = folder, encode, longest_s * SAMPLE_RATE
        self.store = torch.empty(int(hours * 3600 * SAMPLE_RATE), dtype=torch.int16, device=device)
        self.used = 0
        self.seen: set[str] = set()
        self.start: list[int] = []
        self.length: list[int] = []
        self.tokens: list[list[int]] = []
        self.by_group: dict[str, list[int]] = {}
        self.phones: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.skipped = 0

    def refresh(self, limit: int = 40) -> int:
        """Read up to `limit` new shards; return how many. A full store takes no more."""
        fresh = sorted(p for p in self.folder.glob("*.json") if p.name not in self.seen)[:limit]
        for path in fresh:
            self.seen.add(path.name)
            audio = torch.from_numpy(np.fromfile(path.with_suffix(".pcm"), dtype="<i2"))
            if self.used + len(audio) > len(self.store):
                self.skipped += 1
                continue
            self.store[self.used : self.used + len(audio)] = audio.to(self.store.device)
            at = self.used
            for row in json.loads(path.read_text()):
                self._add(at, row)
                at += row["samples"]
            self.used = at
        return len(fresh)

    def _add(self, start: int, row: dict) -> None:
        samples, tokens = row["samples"], self.encode(row["text"])
        # Too long for a batch, silent, or impossible to align with 80 ms frames: leave it out.
        frames = samples / (SAMPLE_RATE * 0.08)
        if not tokens or len(tokens) > min(MAX_TOKENS, 1.2 * frames) or samples > self.longest:
            self.skipped += 1
            return
        self.by_group.setdefault(row["voice"].split("/")[0], []).append(len(self.start))
        if "phones" in row:
            named = np.array(
                [-100 if p == UNKNOWN else PHONES.index(p) for p in row["phones"].split()]
            )
            self.phones[len(self.start)] = (named, np.array(row["ends"]))
        self.start.append(start)
        self.length.append(samples)
        self.tokens.append(tokens)

    def hours(self) -> dict[str, float]:
        """Return hours of audio by group of voices."""
        return {
            group: sum(self.length[i] for i in items) / SAMPLE_RATE / 3600
            for group, items in sorted(self.by_group.items())
        }

    def batches(
        self,
        shares: dict[str, float],
        seconds: float,
        rng: np.random.Generator,
        draw: int = 3000,
        longest_s: float = math.inf,
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Draw utterances by the groups' shares and cut them into batches of like length.

        Args:
            shares: of the audio, by group of voices.
            seconds: at most, of padded audio in a batch.
            rng: fixes the draw.
            draw: utterances; those that fill no batch are left out.
            longest_s: longer ones are left out too.

        Returns:
            A list of (indices, speeds); with `MARGIN_S` of silence, no utterance of a batch is
            longer than the batch's whole number of seconds, and all are longer than one less.
        """
        groups = [g for g in self.by_group if shares.get(g, 0.0) > 0]
        # A share is of the audio, so a group of short utterances gives more of them.
        weight = np.array(
            [
                shares[g] / (np.mean([self.length[i] for i in self.by_group[g][:500]]) + 1)
                for g in groups
            ]
        )
        counts = rng.multinomial(draw, weight / weight.sum())
        chosen = np.concatenate(
            [rng.choice(self.by_group[g], n) for g, n in zip(groups, counts, strict=True)]
        ).astype(np.int64)
        speeds = rng.uniform(0.87, 1.15, len(chosen))
        length = np.array([self.length[i] for i in chosen]) / speeds / SAMPLE_RATE
        # Whole seconds and one batch size for each: a CPU's kernels are compiled for every shape
        # that they meet, which takes longer than a step.
        widths = np.ceil(length + MARGIN_S).astype(int)
        cut = []
        for width in np.unique(widths[widths <= longest_s]):
            rows = rng.permutation(np.flatnonzero(widths == width))
            size = max(1, int(seconds // width))
            for begin in range(0, len(rows) - size + 1, size):
                batch = rows[begin : begin + size]
                cut.append((chosen[batch], speeds[batch]))
        return [cut[i] for i in rng.permutation(len(cut))]

    def targets(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the padded tokens [batch, most] of the utterances and their counts."""
        chosen = [self.tokens[i] for i in rows]
        counts = torch.tensor([len(t) for t in chosen])
        width = -(-int(counts.max()) // 8) * 8  # few shapes, as in `batches`
        padded = torch.zeros(len(chosen), width, dtype=torch.int64)
        for row, tokens in enumerate(chosen):
            padded[row, : len(tokens)] = torch.tensor(tokens)
        return padded, counts
