"""Features, encoder and decoder as one step over the slot pool. Eager PyTorch, any device.

Engine thread only.
"""

from __future__ import annotations

import numpy as np
import torch

from voice_agent.engine.boosting import PhraseBoost
from voice_agent.engine.checkpoint import Checkpoint
from voice_agent.engine.decoder import BoostState, Decoder
from voice_agent.engine.emissions import Emissions
from voice_agent.engine.encoder import Encoder
from voice_agent.engine.errors import CorruptCheckpoint
from voice_agent.engine.features import LogMel
from voice_agent.engine.prompt import Prompt
from voice_agent.engine.slots import SlotPool


class EngineRunner:
    """The weights and the pool of one checkpoint on one device."""

    boosts = True

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        slots: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        threads: int | None = None,
    ) -> None:
        """Put a checkpoint on a device.

        Args:
            checkpoint: read by `voice_agent.engine.checkpoint`.
            slots: streams that the pool holds.
            device: where to compute.
            dtype: of the encoder; features and decoder stay float32.
            threads: CPU threads of one operation; None leaves torch's own choice.

        Raises:
            CorruptCheckpoint: a weight is missing or has the wrong shape.
        """
        self.device = torch.device(device)
        self.dtype = dtype
        self._threads = threads
        self.config = checkpoint.config
        weights = {
            name: tensor.to(self.device, torch.float32)
            for name, tensor in checkpoint.weights.items()
            if tensor.is_floating_point()
        }
        try:
            self.features = LogMel(self.config.preprocessor, self.device)
            self.encoder = Encoder(
                {
                    name.removeprefix("encoder."): tensor.to(dtype)
                    for name, tensor in weights.items()
                    if name.startswith("encoder.")
                },
                self.config.encoder,
            )
            self.decoder = Decoder(weights, self.config.decoder)
            self.prompt = Prompt(weights, self.config.prompt) if self.config.prompt else None
            self._prompts = [0] * slots
            self._boosts: list[BoostState | None] = [None] * slots
            self.pool = SlotPool(
                self.config,
                slots,
                freq=self.encoder.subsampling.cached_freq,
                device=self.device,
                dtype=dtype,
            )
            self._start = self._try_out()
        except KeyError as error:
            raise CorruptCheckpoint(checkpoint.name, f"the weight {error} is missing") from error
        except (RuntimeError, ValueError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise CorruptCheckpoint(
                checkpoint.name, f"its weights do not fit its config ({error})"
            ) from error

    @torch.inference_mode()
    def _try_out(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Step once over silence, so that weights of a wrong shape show now and not in a call."""
        start = self.decoder.start()
        self.pool.reset(0, start)
        slot, pos = torch.zeros(2, 1, dtype=torch.int64, device=self.device)
        right = self.config.encoder.right_contexts[0]
        frames = self.config.encoder.chunk_frames(right)
        silence = torch.zeros(1, self.features.window_samples(frames), device=self.device)
        encoded = self.encode(self.features(silence), slot, pos, right)
        self.decoder(encoded, self.pool, slot)
        return start

    @torch.inference_mode()
    def reset(
        self, slot: int, language: str | None = None, boost: PhraseBoost | None = None
    ) -> None:
        """A new segment begins in `slot`; see `voice_agent.engine.scheduler.Runner.reset`."""
        self.pool.reset(slot, self._start)
        self._boosts[slot] = BoostState(boost) if boost else None
        if self.config.prompt:
            self._prompts[slot] = self.config.prompt.index(language)

    @torch.inference_mode()
    def step(self, slots: np.ndarray, pos: np.ndarray, pcm: np.ndarray, right: int) -> Emissions:
        """Compute one chunk a lane; see `voice_agent.engine.scheduler.Runner.step`."""
        if self._threads is not None:
            torch.set_num_threads(self._threads)
            self._threads = None
        lanes = torch.tensor(np.asarray(slots), device=self.device)
        mel = self.features(torch.from_numpy(pcm).to(self.device))
        encoded = self.encode(mel, lanes, torch.tensor(np.asarray(pos), device=self.device), right)
        if self.prompt:
            prompts = torch.tensor([self._prompts[s] for s in slots], device=self.device)
            encoded = self.prompt(encoded.float(), prompts)
        said = self.decoder(encoded, self.pool, lanes, [self._boosts[slot] for slot in slots])
        return Emissions.by_lane([(each.tokens, each.frames, each.probs) for each in said])

    def encode(
        self, mel: torch.Tensor, slots: torch.Tensor, pos: torch.Tensor, right: int
    ) -> torch.Tensor:
        """Mel frames (n, 8·(right + 1), n_mels) to encoder frames (n, right + 1, d_model)."""
        return self.encoder(mel.to(self.dtype), self.pool, slots, pos, right)
