"""Streaming log-mel features, equal to NeMo's offline ones.

Mel frame m is centred on sample 160·m: its window reaches from 160·m - 200 to 160·m + 199, and
the STFT pads the segment's start with zeros. A chunk of frames is therefore a function of one
stretch of PCM (`chunks.Chunks.window`), and nothing of the past is computed again.

Formulas: nemo/collections/asr/parts/preprocessing/features.py, `FilterbankFeatures`.
"""

from __future__ import annotations

import torch

from voice_agent.engine.config import PreprocessorConfig


def mel_filterbank(config: PreprocessorConfig) -> torch.Tensor:
    """Slaney mel filters: triangles, linear below 1 kHz and logarithmic above, of equal area.

    Equal to `librosa.filters.mel(htk=False, norm="slaney")`, which NeMo calls; librosa is not
    needed for this alone.

    Returns:
        float32, shape (features, n_fft // 2 + 1).
    """
    import numpy as np

    def to_mel(hz: float) -> float:
        return hz / (200 / 3) if hz < 1000 else 15 + np.log(hz / 1000) * 27 / np.log(6.4)

    mels = np.linspace(to_mel(config.lowfreq), to_mel(config.highfreq), config.features + 2)
    edges = np.where(mels < 15, mels * (200 / 3), 1000 * np.exp((mels - 15) * np.log(6.4) / 27))
    bins = np.linspace(0, config.sample_rate / 2, config.n_fft // 2 + 1)
    rise = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    filters = np.maximum(0, np.minimum(rise, fall))
    if config.mel_norm == "slaney":
        filters *= (2.0 / (edges[2:] - edges[:-2]))[:, None]
    return torch.tensor(filters, dtype=torch.float32)


class LogMel:
    """Log-mel frames from stretches of PCM; holds constants only."""

    def __init__(self, config: PreprocessorConfig, device: torch.device | str = "cpu") -> None:
        self.config = config
        make = {"hann": torch.hann_window, "hamming": torch.hamming_window}[config.window]
        window = make(config.win_length, periodic=False, dtype=torch.float32)
        # torch.stft centres a short window in n_fft samples.
        left = (config.n_fft - config.win_length) // 2
        right = config.n_fft - config.win_length - left
        self.window = torch.nn.functional.pad(window, (left, right)).to(device)
        self.filters = mel_filterbank(config).to(device)

    def window_samples(self, frames: int) -> int:
        """Samples that `frames` frames are computed from; one at the left for pre-emphasis."""
        return (frames - 1) * self.config.hop_length + self.config.n_fft + 1

    def __call__(self, pcm: torch.Tensor) -> torch.Tensor:
        """Features of stretches of PCM.

        Args:
            pcm: float32, shape (n, window_samples(frames)).

        Returns:
            float32, shape (n, frames, features).
        """
        c = self.config
        # The segment's first sample follows a zero, so this is NeMo's x[0] at its left edge.
        x = pcm[:, 1:] - c.preemph * pcm[:, :-1]
        frames = x.unfold(1, c.n_fft, c.hop_length) * self.window
        spectrum = torch.view_as_real(torch.fft.rfft(frames))
        power = torch.sqrt(spectrum.pow(2).sum(-1)).pow(c.mag_power)
        mel = torch.matmul(power, self.filters.T)
        if c.log_zero_guard_type == "add":
            return torch.log(mel + c.log_zero_guard_value)
        return torch.log(torch.clamp(mel, min=c.log_zero_guard_value))
