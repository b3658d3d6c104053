"""New sentences out of the human clips: stretches of words of different people, joined.

There is little human speech with a transcript. Its sentences are few enough to be learnt by heart,
which teaches a recogniser nothing; the same words in ever new company have to be listened to. Each
stretch is played at a speed of its own, which moves pitch and formants too: another speaker.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.mel import SAMPLE_RATE
from training.pool import write_shard

FADE = SAMPLE_RATE // 250  # 4 ms
PAUSE_S = 0.06  # from which a gap between two words counts as a pause
SPEEDS = (0.85, 1.2)


@dataclass(frozen=True, slots=True)
class Aligned:
    """A clip whose words and phones have times, in samples."""

    audio: np.ndarray
    words: list[tuple[str, int, int]]  # (word, begin, end)
    phones: list[tuple[str, int]]  # (phone, end)
    group: str

    def cuts(self) -> list[int]:
        """Where the clip may be cut: before each word, in the middle of the gap, and at its end."""
        at = [max(0, self.words[0][1] - SAMPLE_RATE // 20)]
        at += [(a[2] + b[1]) // 2 for a, b in zip(self.words, self.words[1:], strict=False)]
        return [*at, min(len(self.audio), self.words[-1][2] + SAMPLE_RATE // 20)]

    def pauses(self) -> list[float]:
        """How readily to cut at each place: five times as often where there is a pause."""
        gaps = [b[1] - a[2] for a, b in zip(self.words, self.words[1:], strict=False)]
        return [5.0, *(5.0 if gap > PAUSE_S * SAMPLE_RATE else 1.0 for gap in gaps), 5.0]


def _piece(clip: Aligned, r: random.Random) -> tuple[np.ndarray, list[str], list[tuple[str, int]]]:
    cuts, readily = clip.cuts(), clip.pauses()
    count = len(clip.words)
    first = r.choices(range(count), readily[:-1])[0]
    most = min(count - first, r.choice([2, 3, 5, 8, 12]))
    ends = range(first + 1, first + most + 1)
    last = r.choices(list(ends), [readily[e] * (e - first) for e in ends])[0]
    begin, end = cuts[first], cuts[last]
    speed = r.uniform(*SPEEDS)
    at = np.arange(0.0, end - begin - 1, speed)
    audio = np.interp(at, np.arange(end - begin), clip.audio[begin:end]).astype(np.float32)
    fade = min(FADE, len(audio) // 2)
    if fade:
        ramp = np.linspace(0.0, 1.0, fade, dtype=np.float32)
        audio[:fade] *= ramp
        audio[-fade:] *= ramp[::-1]
    kept = []
    for phone, ends_at in clip.phones:
        if ends_at > begin:
            kept.append((phone, min(len(audio), round((ends_at - begin) / speed))))
        if ends_at >= end:
            break
    return audio.astype(np.int16), [w for w, _, _ in clip.words[first:last]], kept


def spliced(clips: list[Aligned], seed: int) -> Iterator[tuple]:
    """Yield (audio, text, voice, phones) for ever; 2 to 14 s long.

    Args:
        clips: drawn from by the square root of their length.
        seed: fixes every draw.
    """
    r = random.Random(seed)
    weights = [len(c.words) ** 0.5 for c in clips]
    while True:
        goal = r.uniform(2.0, 13.0) * SAMPLE_RATE
        parts, words, phones, length = [], [], [], 0
        while length < goal:
            audio, said, spoken = _piece(r.choices(clips, weights)[0], r)
            if len(audio) < FADE or length + len(audio) > 14 * SAMPLE_RATE:
                break
            gap = int(r.choice([0.0, 0.0, r.uniform(0.0, 0.3)]) * SAMPLE_RATE)
            phones += [(p, e + length) for p, e in spoken] + [("pau", length + len(audio) + gap)]
            parts += [audio, np.zeros(gap, np.int16)]
            words += said
            length += len(audio) + gap
        if words:
            yield np.concatenate(parts), " ".join(words), "splice/mixed", phones


def read_aligned(pool: Path) -> list[Aligned]:
    """Read back the shards `human*`, whose rows carry words with their times."""
    clips = []
    for path in sorted(pool.glob("human*.json")):
        audio, at = np.fromfile(path.with_suffix(".pcm"), dtype="<i2"), 0
        for row in json.loads(path.read_text()):
            if row.get("words"):
                phones = list(zip(row["phones"].split(), row["ends"], strict=True))
                words = [(w, b, e) for w, b, e in row["words"]]
                group = row["voice"].split("/")[0]
                clips.append(Aligned(audio[at : at + row["samples"]], words, phones, group))
            at += row["samples"]
    return clips


def drawn_clips(pool: Path, seed: int, narrow: float = 0.35) -> list[Aligned]:
    """Read the aligned human clips, but of what is no broad reading only a share.

    Args:
        pool: where the shards `human*` lie.
        seed: fixes which.
        narrow: share kept of orders, digits and the one reader with an accent.
    """
    r = random.Random(seed)
    return [c for c in read_aligned(pool) if c.group == "reading" or r.random() < narrow]


def write_hours(source: Iterator[tuple], pool: Path, name: str, hours: float) -> None:
    """Write so many hours of an endless source as shards `NAME-0000` and so on."""
    made, shard = 0.0, 0
    while made < 3600 * hours:
        rows, seconds = [], 0.0
        while seconds < min(600.0, 3600 * hours):
            rows.append(next(source))
            seconds += len(rows[-1][0]) / SAMPLE_RATE
        made += write_shard(pool, f"{name}-{shard:04d}", rows)
        shard += 1


def write_spliced(pool: Path, hours: float, seed: int) -> None:
    """Write shards of spliced speech beside the aligned human ones; `seed` fixes them."""
    write_hours(spliced(drawn_clips(pool, seed), seed), pool, f"splice-{seed}", hours)


def main() -> None:
    """Read the command line and write shards of spliced speech."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", type=Path, required=True, help="with the shards `human*`")
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    write_spliced(args.pool, args.hours, args.seed)


if __name__ == "__main__":
    main()
