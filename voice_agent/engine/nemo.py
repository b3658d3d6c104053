"""The reference as a backend: NeMo's own network and decoding behind our scheduler.

For comparison, and for checkpoints whose mathematics our engine does not know. One lane after
another, with NeMo's caches copied at every step: correct, and slow. Features are ours (equal to
NeMo's within 1e-5, which the tests show), because NeMo computes them from whole recordings.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from voice_agent.engine.config import ModelConfig
from voice_agent.engine.emissions import Emissions, Said
from voice_agent.engine.errors import EngineError
from voice_agent.engine.features import LogMel


@dataclass(slots=True)
class _Lane:
    """What NeMo carries from one step of a stream to the next."""

    caches: Any
    mel: torch.Tensor  # (1, n_mels, frames): the pre-encode cache
    hypotheses: Any = None
    told: int = 0


class NemoRunner:
    """See `voice_agent.engine.scheduler.Runner`.

    Tokens are placed at the end of their chunk, and their posterior is given as 1: NeMo's greedy
    decoding reports neither within a chunk.
    """

    boosts = False

    def __init__(self, path: Path, config: ModelConfig, *, device: torch.device) -> None:
        """Restore the checkpoint with NeMo; takes some 20 s for the import alone.

        Raises:
            EngineError: NeMo is not installed.
        """
        try:
            from nemo.collections.asr.models import ASRModel
        except ImportError as error:
            raise EngineError(
                "backend='nemo' needs NeMo: pip install 'voice-agent[nemo]'"
            ) from error
        self.model = ASRModel.restore_from(str(path), map_location=device).eval()
        self.config = config
        self.device = device
        self.features = LogMel(config.preprocessor, device)
        self._lanes: dict[int, _Lane] = {}
        self._languages: dict[int, str] = {}
        self._right: int | None = None

    def reset(self, slot: int, language: str | None = None, boost: Any = None) -> None:
        """A new segment begins in `slot`; a boost is never given, since `boosts` is False."""
        self._lanes.pop(slot, None)
        self._languages[slot] = language or "auto"

    @torch.inference_mode()
    def step(self, slots: np.ndarray, pos: np.ndarray, pcm: np.ndarray, right: int) -> Emissions:
        """Compute one chunk a lane; see `voice_agent.engine.scheduler.Runner.step`."""
        if right != self._right:
            left = self.config.encoder.left(right)
            self.model.encoder.set_default_att_context_size([left, right])
            self._right = right
        mel = self.features(torch.from_numpy(pcm).to(self.device)).transpose(1, 2)
        return Emissions.by_lane(
            [
                self._step(int(slot), first == 0, lane[None], right)
                for slot, first, lane in zip(slots, pos, mel, strict=True)
            ]
        )

    def _step(self, slot: int, first: bool, mel: torch.Tensor, right: int) -> Said:
        encoder = self.model.encoder
        cached = encoder.streaming_cfg.pre_encode_cache_size[1]
        if first:
            caches = encoder.get_initial_cache_state(batch_size=1, device=self.device)
            self._lanes[slot] = _Lane(caches, mel.new_zeros(1, mel.shape[1], cached))
            mel = mel[:, :, self.config.encoder.subsampling_factor - 1 :]
        lane = self._lanes[slot]
        if self.config.prompt:
            self.model.set_inference_prompt(self._languages[slot])
        chunk = mel if first else torch.cat([lane.mel, mel], dim=-1)
        lane.mel = torch.cat([lane.mel, mel], dim=-1)[:, :, -cached:]
        _, _, *lane.caches, lane.hypotheses = self.model.conformer_stream_step(
            processed_signal=chunk,
            processed_signal_length=torch.tensor([chunk.shape[-1]], device=self.device),
            cache_last_channel=lane.caches[0],
            cache_last_time=lane.caches[1],
            cache_last_channel_len=lane.caches[2],
            keep_all_outputs=True,
            previous_hypotheses=lane.hypotheses,
            drop_extra_pre_encoded=0 if first else encoder.streaming_cfg.drop_extra_pre_encoded,
        )
        tokens = [int(t) for t in lane.hypotheses[0].y_sequence][lane.told :]
        lane.told += len(tokens)
        return tokens, [right] * len(tokens), [1.0] * len(tokens)
