"""ECAPA-TDNN in plain PyTorch: features, embedding, classifier, as SpeechBrain computes them.

    wave    [n]              float32, 16 kHz
    mel     [n_mels, time]   dB, 10 ms hop, each band's mean over the segment removed
    frames  [channels, time] three squeeze-excitation blocks, put together
    scores  [languages]      logits

Desplanques et al. 2020, arXiv 2005.07143; the language classifier is the recipe VoxLingua107 of
SpeechBrain. Modules bear the names of SpeechBrain's, so its checkpoints load by name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

N_FFT, HOP = 400, 160
RATE = 16_000
QUIETEST_DB = 80.0
"""How far below the segment's loudest band a band is told apart."""


@dataclass(frozen=True, slots=True)
class EcapaConfig:
    """`hyperparams.yaml`, under its own key names; `classes` and `hidden` are the classifier's.

    Attributes:
        n_mels: bands of the features.
        channels, kernel_sizes, dilations: of the first convolution, of the blocks, and of the
            layer that puts the blocks together.
        attention_channels, se_channels: width of the pooling's attention, of a block's gate.
        res2net_scale: groups into which a block splits its channels.
        lin_neurons: of the embedding.
        hidden: `lin_neurons` of the classifier.
        classes: its `out_neurons`.
    """

    n_mels: int
    channels: tuple[int, ...]
    kernel_sizes: tuple[int, ...]
    dilations: tuple[int, ...]
    attention_channels: int
    lin_neurons: int
    hidden: int
    classes: int
    res2net_scale: int = 8
    se_channels: int = 128


class Features(nn.Module):
    """Log-mel features: `Fbank` and `InputNormalization` by sentence, without the variance."""

    filters: Tensor
    window: Tensor

    def __init__(self, n_mels: int) -> None:
        super().__init__()
        top = 2595.0 * math.log10(1.0 + RATE / 2 / 700.0)
        hz = 700.0 * (10.0 ** (torch.linspace(0.0, top, n_mels + 2) / 2595.0) - 1.0)
        centre, band = hz[1:-1, None], hz.diff()[:-1, None]
        # Both sides of a triangle are as wide as its left one: so SpeechBrain has it.
        away = (torch.linspace(0.0, RATE / 2, N_FFT // 2 + 1) - centre) / band
        self.register_buffer("filters", (1.0 - away.abs()).clamp(min=0.0), persistent=False)
        self.register_buffer("window", torch.hamming_window(N_FFT), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        """`wave` [n] to mel [n_mels, 1 + n // 160]."""
        spectrum = torch.stft(
            wave, N_FFT, HOP, window=self.window, pad_mode="constant", return_complex=True
        )
        power = spectrum.real.square() + spectrum.imag.square()
        mel = 10.0 * torch.log10((self.filters @ power).clamp(min=1e-10))
        mel = mel.clamp(min=float(mel.max()) - QUIETEST_DB)
        return mel - mel.mean(dim=1, keepdim=True)


class Tdnn(nn.Module):
    """A convolution that keeps the length, ReLU, batch norm."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(
            inputs,
            outputs,
            kernel,
            dilation=dilation,
            padding=dilation * (kernel - 1) // 2,
            padding_mode="reflect",
        )
        self.norm = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, time] to [batch, outputs, time]."""
        return self.norm(torch.relu(self.conv(x)))


class Res2Net(nn.Module):
    """Groups of channels, each convolved with what came out for the one before it."""

    def __init__(self, channels: int, scale: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.scale, width = scale, channels // scale
        self.blocks = nn.ModuleList(Tdnn(width, width, kernel, dilation) for _ in range(scale - 1))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, time] to the same."""
        first, *groups = x.chunk(self.scale, dim=1)
        out = [first]
        for group, block in zip(groups, self.blocks, strict=True):
            out.append(block(group if len(out) == 1 else group + out[-1]))
        return torch.cat(out, dim=1)


class Gate(nn.Module):
    """Squeeze and excitation: channels weighted by what all of the segment has in them."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(channels, width, 1)
        self.conv2 = nn.Conv1d(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, time] to the same."""
        squeezed = torch.relu(self.conv1(x.mean(dim=2, keepdim=True)))
        return torch.sigmoid(self.conv2(squeezed)) * x


class Block(nn.Module):
    """SE-Res2Net block with its residual."""

    def __init__(self, config: EcapaConfig, number: int) -> None:
        super().__init__()
        inputs, channels = config.channels[number - 1], config.channels[number]
        kernel, dilation = config.kernel_sizes[number], config.dilations[number]
        self.shortcut = nn.Conv1d(inputs, channels, 1) if inputs != channels else nn.Identity()
        self.tdnn1 = Tdnn(inputs, channels)
        self.res2net_block = Res2Net(channels, config.res2net_scale, kernel, dilation)
        self.tdnn2 = Tdnn(channels, channels)
        self.se_block = Gate(channels, config.se_channels)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, inputs, time] to [batch, channels, time]."""
        inner = self.tdnn2(self.res2net_block(self.tdnn1(x)))
        return self.se_block(inner) + self.shortcut(x)


class Pooling(nn.Module):
    """Attentive statistics: mean and deviation over time, each channel by weights of its own."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.tdnn = Tdnn(3 * channels, width)
        self.conv = nn.Conv1d(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, time] to [batch, 2 * channels, 1]."""
        even = torch.full_like(x, 1.0 / x.shape[2])
        whole = torch.cat([x, *(part.expand_as(x) for part in _statistics(x, even))], dim=1)
        weights = functional.softmax(self.conv(torch.tanh(self.tdnn(whole))), dim=2)
        return torch.cat(_statistics(x, weights), dim=1)


def _statistics(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    mean = (weights * x).sum(dim=2, keepdim=True)
    variance = (weights * (x - mean).square()).sum(dim=2, keepdim=True)
    return mean, variance.clamp(min=1e-12).sqrt()


class Embedding(nn.Module):
    """`ECAPA_TDNN`, the file `embedding_model.ckpt`."""

    def __init__(self, config: EcapaConfig) -> None:
        super().__init__()
        *_, inner, last = config.channels
        blocks = range(1, len(config.channels) - 1)
        first = Tdnn(config.n_mels, config.channels[0], config.kernel_sizes[0], config.dilations[0])
        self.blocks = nn.ModuleList([first, *(Block(config, number) for number in blocks)])
        self.mfa = Tdnn(inner * len(blocks), last, config.kernel_sizes[-1], config.dilations[-1])
        self.asp = Pooling(last, config.attention_channels)
        self.asp_bn = nn.BatchNorm1d(2 * last)
        self.fc = nn.Conv1d(2 * last, config.lin_neurons, 1)

    def forward(self, mel: Tensor) -> Tensor:
        """[batch, n_mels, time] to [batch, lin_neurons]."""
        x, outputs = mel, []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        x = self.mfa(torch.cat(outputs[1:], dim=1))
        return self.fc(self.asp_bn(self.asp(x)))[:, :, 0]


class Classifier(nn.Module):
    """`Xvector.Classifier` with one hidden layer, the file `classifier.ckpt`."""

    def __init__(self, config: EcapaConfig) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(config.lin_neurons)
        hidden = {
            "linear": nn.Linear(config.lin_neurons, config.hidden),
            "norm": nn.BatchNorm1d(config.hidden),
        }
        self.DNN = nn.ModuleDict({"block_0": nn.ModuleDict(hidden)})
        self.out = nn.Linear(config.hidden, config.classes)

    def forward(self, embedding: Tensor) -> Tensor:
        """[batch, lin_neurons] to logits, [batch, classes]."""
        leak = functional.leaky_relu
        hidden = self.get_submodule("DNN.block_0.linear")(self.norm(leak(embedding)))
        return self.out(self.get_submodule("DNN.block_0.norm")(leak(hidden)))


class Ecapa(nn.Module):
    """All of it."""

    def __init__(self, config: EcapaConfig) -> None:
        super().__init__()
        self.features = Features(config.n_mels)
        self.embedding_model = Embedding(config)
        self.classifier = Classifier(config)

    def forward(self, wave: Tensor) -> Tensor:
        """`wave` [n] to logits, [classes]."""
        return self.classifier(self.embedding_model(self.features(wave)[None]))[0]
