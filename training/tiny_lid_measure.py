"""Accuracy of an identifier after so much speech, on held-out voices and on people.

Every clip is heard from several starting points, 1.5 s apart, in pieces that hold 0.5, 1 and 2 s
of speech by the engine's own count. What is printed is what the model cards quote.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from voice_agent.engine.lid.base import LanguageIdentifier, speech_seconds
from voice_agent.engine.lid.tiny import TinyIdentifier

SPEECH_S = (0.5, 1.0, 2.0)


def clip_scores(identifier: LanguageIdentifier, pcm: np.ndarray) -> dict[str, float]:
    """Posteriors of one clip, rounded."""
    return {k: round(v, 3) for k, v in identifier.identify(pcm).posteriors.items()}


def pieces(pcm: np.ndarray, speech_s: float) -> Iterator[np.ndarray]:
    """Yield excerpts that hold so much speech, starting every 1.5 s."""
    for start in range(0, max(1, len(pcm) - int(speech_s * 16_000) + 1), 24_000):
        rest = pcm[start:]
        for n in range(int(speech_s * 16_000), len(rest) + 1600, 1600):
            excerpt = rest[:n]
            if speech_seconds(excerpt) >= speech_s - 0.02:
                yield excerpt
                break


def held_out_clips(folder: Path, each: int = 40) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield (set, language, audio) of the held-out eSpeak NG voices, `each` of every shard."""
    from training.lid_data import Languages

    store = Languages(folder, 2.0, torch.device("cpu"))
    store.refresh(1000)
    for (language, _), rows in sorted(store.groups.items()):
        for index in rows[:each]:
            begin = int(store.start[index])
            clip = store.pcm[begin : begin + int(store.length[index])].numpy()
            yield "eSpeak, unheard voices", language, clip.astype(np.float32) / 32768.0


def people_clips(manifest: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield (set, language, audio) of the dev clips; synthetic ones are called so."""
    import soundfile

    for line in manifest.read_text().splitlines():
        row = json.loads(line)
        audio, _ = soundfile.read(manifest.parent / row["audio"], dtype="float32")
        kind = "neural TTS" if "synthetic" in row["source"] else "people"
        yield kind, row["lang"], audio


def measure(path: Path, held_out: Path, human: Path, seed: int) -> None:
    """Print accuracy by set, language and seconds of speech, and the time that a second takes."""
    identifier = TinyIdentifier(path)
    clips = list(held_out_clips(held_out))
    if human.exists():
        clips += people_clips(human)
    else:
        print(f"no human speech: {human} is absent")
    rows: dict[tuple[str, str, float], list[bool]] = {}
    english_called: dict[float, list[bool]] = {}
    for kind, language, audio in clips:
        want = language if language in ("en", "kn") else "other"
        for seconds in SPEECH_S:
            for excerpt in pieces(audio, seconds):
                got = identifier.identify(excerpt)
                rows.setdefault((kind, want, seconds), []).append(got.best == want)
                if want == "en":
                    english_called.setdefault(seconds, []).append(got.posteriors["kn"] > 0.8)
    print("| speech | language | " + " | ".join(f"{s} s" for s in SPEECH_S) + " |")
    print("|---|---|" + "---|" * len(SPEECH_S))
    for kind, want in sorted({(k, w) for k, w, _ in rows}):
        cells = []
        for seconds in SPEECH_S:
            right = rows.get((kind, want, seconds), [])
            cells.append(f"{100 * np.mean(right):.1f} % of {len(right)}" if right else "–")
        print(f"| {kind} | {want} | " + " | ".join(cells) + " |")
    wrong = ", ".join(
        f"{100 * np.mean(v):.2f} % after {s} s" for s, v in sorted(english_called.items())
    )
    print(f"English called Kannada with a posterior above 0.8: {wrong}")
    _cost(identifier, seed)


def _cost(identifier: LanguageIdentifier, seed: int) -> None:
    audio = np.random.default_rng(seed).standard_normal(16_000).astype(np.float32) * 0.1
    times = []
    for _ in range(200):
        began = time.process_time()
        identifier.identify(audio)
        times.append(1000 * (time.process_time() - began))
    middle, high = np.percentile(times, (50, 95))
    print(f"CPU time of 1 s of audio: median {middle:.2f} ms, p95 {high:.2f} ms")
