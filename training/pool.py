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
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from training.align import UNKNOWN, common
from training.mel import HOP, SAMPLE_RATE

MAX_TOKENS = 240
PHONES = (
    "pau aa ae ah ao aw ay b ch d dh eh er ey f g hh ih iy jh k l m n ng ow oy p r s sh t th uh uw "
    "v w y z zh"
).split()  # what CMU's dictionary and Flite's radio phones have in common, see training.align
NOT_TOLD = 255
_CODES = {phone: code for code, phone in enumerate(PHONES)} | {UNKNOWN: NOT_TOLD}
MARGIN_S = 1.2  # at most, of silence before and after an utterance
# Few widths, and one batch size and room for tokens for each: every shape costs a CPU's kernels a
# compilation, and a GPU a graph.
WIDTHS_S = np.array([*range(1, 9), *range(10, 24, 2)])
TOKENS_A_SECOND = 4.5  # that there is room for; denser text is put into a wider batch


class Draw(NamedTuple):
    """Utterances that make a batch together."""

    rows: np.ndarray  # [n] indices
    speeds: np.ndarray  # [n]
    seconds: int  # of audio that there is room for, silence before and after included

    @property
    def tokens(self) -> int:
        """Tokens that there is room for."""
        return 8 * math.ceil((4 + TOKENS_A_SECOND * self.seconds) / 8)


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
        samples = int(hours * 3600 * SAMPLE_RATE)
        self.store = torch.empty(samples, dtype=torch.int16, device=device)
        # The phone at every hop of the store, as an index into PHONES.
        self.phones = torch.full((samples // HOP + 1,), NOT_TOLD, dtype=torch.uint8, device=device)
        self.used = 0
        self.seen: set[str] = set()
        self.start, self.length = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.tokens: list[np.ndarray] = []
        self.by_group: dict[str, np.ndarray] = {}
        self.told = 0  # utterances whose phones are known
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
            self._add(json.loads(path.read_text()), self.used, len(audio))
            self.used += len(audio)
        return len(fresh)

    def _add(self, rows: list[dict], begin: int, samples: int) -> None:
        """Take in a shard's utterances, which lie end to end from `begin`."""
        starts, lengths, groups = [], [], []
        named = np.full(samples // HOP + 2, NOT_TOLD, np.uint8)
        at = 0
        for row in rows:
            length, tokens = row["samples"], self.encode(row["text"])
            # Too long for a batch, silent, or impossible to align with 80 ms frames: leave it out.
            most = min(MAX_TOKENS, 1.2 * length / (SAMPLE_RATE * 0.08))
            if not tokens or len(tokens) > most or length > self.longest:
                self.skipped += 1
            else:
                starts.append(begin + at)
                lengths.append(length)
                groups.append(row["voice"].split("/")[0])
                self.tokens.append(np.array(tokens, np.int64))
                if "phones" in row:
                    self.told += 1
                    codes = [_CODES[phone] for phone in row["phones"].split()]
                    ends = np.maximum.accumulate(np.clip(row["ends"], 0, length))
                    edges = (begin + at + np.r_[0, ends]) // HOP - begin // HOP
                    named[edges[0] : edges[-1]] = np.repeat(codes, np.diff(edges))
            at += length
        hops = slice(begin // HOP, begin // HOP + len(named))
        self.phones[hops] = torch.from_numpy(named)[: len(self.phones[hops])].to(self.phones.device)
        for group in set(groups):
            mine = len(self.start) + np.flatnonzero(np.array(groups) == group)
            self.by_group[group] = np.r_[self.by_group.get(group, np.zeros(0, np.int64)), mine]
        self.start = np.r_[self.start, np.array(starts, np.int64)]
        self.length = np.r_[self.length, np.array(lengths, np.int64)]

    def phones_at(self, start: Tensor, length: Tensor, at: Tensor) -> Tensor:
        """Return the phones said at samples `at` [batch, n] of utterances.

        Args:
            start: [batch] their first samples in the store.
            length: [batch] their samples.
            at: [batch, n], places in them.

        Returns:
            [batch, n] int64 indices into PHONES; -100 outside and where none is known.
        """
        inside = (at >= 0) & (at < length[:, None])
        hops = (start[:, None] + at.long().clamp(min=0).minimum(length[:, None] - 1)) // HOP
        found = self.phones[hops].long()
        return torch.where(inside & (found != NOT_TOLD), found, -100)

    def hours(self) -> dict[str, float]:
        """Return hours of audio by group of voices."""
        return {
            group: float(self.length[items].sum()) / SAMPLE_RATE / 3600
            for group, items in sorted(self.by_group.items())
        }

    def batches(
        self,
        shares: dict[str, float],
        seconds: float,
        rng: np.random.Generator,
        draw: int = 3000,
        longest_s: float = math.inf,
    ) -> list[Draw]:
        """Draw utterances by the groups' shares and cut them into batches of like length.

        Args:
            shares: of the audio, by group of voices.
            seconds: at most, of padded audio in a batch.
            rng: fixes the draw.
            draw: utterances; those that fill no batch are left out.
            longest_s: what needs more room is left out too.
        """
        groups = [g for g in self.by_group if shares.get(g, 0.0) > 0]
        # A share is of the audio, so a group of short utterances gives more of them.
        weight = np.array(
            [shares[g] / (self.length[self.by_group[g][:500]].mean() + 1) for g in groups]
        )
        counts = rng.multinomial(draw, weight / weight.sum())
        chosen = np.concatenate(
            [rng.choice(self.by_group[g], n) for g, n in zip(groups, counts, strict=True)]
        ).astype(np.int64)
        speeds = rng.uniform(0.85, 1.18, len(chosen))
        tokens = np.array([len(self.tokens[i]) for i in chosen])
        needed = np.maximum(
            self.length[chosen] / speeds / SAMPLE_RATE + MARGIN_S, (tokens - 4) / TOKENS_A_SECOND
        )
        widths = np.append(WIDTHS_S, 10**9)[np.searchsorted(WIDTHS_S, needed)]
        cut = []
        for width in np.unique(widths[widths <= min(longest_s, WIDTHS_S[-1])]):
            rows = rng.permutation(np.flatnonzero(widths == width))
            size = max(1, int(seconds // width))
            for begin in range(0, len(rows) - size + 1, size):
                batch = rows[begin : begin + size]
                cut.append(Draw(chosen[batch], speeds[batch], int(width)))
        return [cut[i] for i in rng.permutation(len(cut))]

    def targets(self, rows: np.ndarray, width: int) -> tuple[Tensor, Tensor]:
        """Return the tokens [batch, width] of the utterances, padded, and their counts."""
        chosen = [self.tokens[i] for i in rows]
        counts = np.array([len(tokens) for tokens in chosen])
        padded = np.zeros((len(chosen), width), np.int64)
        padded[np.arange(width) < counts[:, None]] = np.concatenate(chosen)
        return torch.from_numpy(padded), torch.from_numpy(counts)
