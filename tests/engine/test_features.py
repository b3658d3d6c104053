from __future__ import annotations

import pytest
import torch

from voice_agent.engine.config import PreprocessorConfig
from voice_agent.engine.features import mel_filterbank


@pytest.mark.parametrize("mels, low, high", [(128, 0, None), (80, 0, None), (64, 125, 7500)])
def test_mel_filters_equal_librosas(mels, low, high):
    librosa = pytest.importorskip("librosa", reason="comes with the extra 'nemo'")
    config = PreprocessorConfig.read(
        "test", {"features": mels, "lowfreq": low, "highfreq": high, "n_fft": 512}
    )
    expected = librosa.filters.mel(
        sr=16000, n_fft=512, n_mels=mels, fmin=low, fmax=high or 8000, norm="slaney"
    )
    torch.testing.assert_close(mel_filterbank(config), torch.tensor(expected), atol=1e-7, rtol=1e-5)
