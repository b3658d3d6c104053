"""Word error rate of a model on a manifest of human speech, by right context."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np
import soundfile
import torch

from training.fastconformer import FastConformerRNNT
from training.mel import HOP, SAMPLE_RATE, LogMel
from training.student import Student
from training.teacher import WhisperEar


def plain(text: str) -> str:
    """Lower-case letters, digits' words and apostrophes only, single spaces."""
    return " ".join(re.sub(r"[^a-z' ]+", " ", text.lower()).split())


@dataclass(frozen=True, slots=True)
class Clip:
    """One utterance with its transcript."""

    audio: np.ndarray  # float32, 16 kHz
    text: str
    source: str


def read_manifest(path: Path, language: str = "en") -> list[Clip]:
    """Read the clips of one language that have a transcript."""
    clips = []
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if row["lang"] != language or not row.get("text"):
            continue
        audio, rate = soundfile.read(path.parent / row["audio"], dtype="float32")
        if rate != SAMPLE_RATE:
            raise ValueError(f"{row['audio']} has {rate} samples a second, expected {SAMPLE_RATE}")
        clips.append(Clip(audio, plain(row["text"]), row["audio"].split("_")[0].split(".")[0]))
    return clips


class Evaluator:
    """Keeps the features of the clips on the device; decodes them greedily."""

    def __init__(self, clips: list[Clip], decode: object, device: torch.device) -> None:
        self.clips, self.decode = clips, decode
        # A little silence after the last word, as the engine's flush gives it.
        tail = int(0.3 * SAMPLE_RATE)
        samples = torch.tensor([len(c.audio) + tail for c in clips])
        wave = torch.zeros(len(clips), int(samples.max()))
        for row, clip in enumerate(clips):
            wave[row, : len(clip.audio)] = torch.from_numpy(clip.audio)
        self.wave, self.samples = wave.to(device), samples.to(device)
        self.mel, self.frames = LogMel(80, device)(self.wave, self.samples)

    def transcripts(self, model: FastConformerRNNT, right: int) -> list[str]:
        """Return what the model hears in each clip."""
        model.eval()
        return [self.decode(t) for t in model.greedy(self.mel, self.frames, right)]  # type: ignore[operator]

    def by_ear(
        self, student: Student, ear: WhisperEar, longest_s: float = 22.0
    ) -> dict[str, float]:
        """Return WER in percent, by source too, with the teacher in the encoder's place.

        That is as far as a student can come which hears all that its teacher hears.

        Args:
            student: whose ears, joint and predictor.
            ear: the teacher; Whisper has places for 30 s.
            longest_s: clips that are longer, the silence after them counted, are left out.
        """
        short = (self.samples <= longest_s * SAMPLE_RATE).nonzero()[:, 0]
        samples = self.samples[short]
        student.eval()
        with torch.inference_mode():
            heard = student.place(ear(self.wave[short, : int(samples.max())]))[:, :, -1]
            frames = student.ears(heard, heard.shape[1])
            lengths = (samples // (8 * HOP)).clamp(max=heard.shape[1])
            tokens = student.model.decode(frames, lengths)
        student.train()
        heard_by = {int(i): self.decode(t) for i, t in zip(short, tokens, strict=True)}
        result = {}
        for name, sources in (("all", {clip.source for clip in self.clips}), ("ls", {"ls"})):
            rows = [i for i in heard_by if self.clips[i].source in sources]
            if rows:
                rate = jiwer.wer([self.clips[i].text for i in rows], [heard_by[i] for i in rows])
                result[f"by ear, {name} ({len(rows)})"] = round(100 * rate, 2)
        return result

    def rates(
        self, model: FastConformerRNNT, rights: tuple[int, ...] = (0, 13), by_source: bool = True
    ) -> dict[str, float]:
        """Return WER in percent by right context, and by source at right context 0."""
        result = {}
        for right in rights:
            heard = self.transcripts(model, right)
            said = [c.text for c in self.clips]
            result[f"right {right}"] = round(100 * jiwer.wer(said, heard), 2)
            if right == 0 and by_source:
                for source in sorted({c.source for c in self.clips}):
                    rows = [i for i, c in enumerate(self.clips) if c.source == source]
                    rate = jiwer.wer([said[i] for i in rows], [heard[i] for i in rows])
                    result[f"{source} ({len(rows)})"] = round(100 * rate, 1)
        return result


def bootstrap(
    said: list[str], heard: list[str], draws: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Return WER in percent with its 95 % interval over resampled utterances."""
    errors, words = [], []
    for s, h in zip(said, heard, strict=True):
        out = jiwer.process_words(s, h)
        errors.append(out.substitutions + out.deletions + out.insertions)
        words.append(len(s.split()))
    e, w = np.array(errors), np.array(words)
    rows = np.random.default_rng(seed).integers(0, len(e), (draws, len(e)))
    rates = 100 * e[rows].sum(1) / w[rows].sum(1)
    low, high = np.percentile(rates, [2.5, 97.5])
    return 100 * e.sum() / w.sum(), float(low), float(high)
