"""NeMo beside us: eager `conformer_stream_step` in a batch, with NeMo's own batched decoding.

Its model is built from the same config and the same weights, so that its tokens can be compared.
Its time leaves features out (NeMo computes them from whole recordings): that favours NeMo.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from voice_agent.bench.engine_systems import Streamed
from voice_agent.engine.errors import EngineError
from voice_agent.engine.features import LogMel

if TYPE_CHECKING:
    from voice_agent.engine.checkpoint import Checkpoint


class Nemo:
    """See `voice_agent.bench.engine_systems.System`."""

    name = "nemo"
    includes = "encoder, decoder"
    check_lanes = 8
    """Lanes a step where it is compared in float32: its own batching changes no token."""

    @staticmethod
    def need() -> None:
        """Import what it takes, some 20 s.

        Raises:
            ImportError: NeMo or something that it needs is not installed.
        """
        import nemo.collections.asr.models  # noqa: F401

    def __init__(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        """Build it.

        Raises:
            EngineError: a checkpoint with a prompt, which needs NeMo's class with a tokenizer.
        """
        if checkpoint.config.prompt:
            raise EngineError("NeMo's class with prompts is not set up from random weights here")
        from nemo.collections.asr.models import EncDecRNNTModel
        from nemo.utils import logging as nemo_logging
        from omegaconf import OmegaConf

        nemo_logging.setLevel(nemo_logging.ERROR)
        model = EncDecRNNTModel(OmegaConf.create(_config(checkpoint)))
        missing, unexpected = model.load_state_dict(dict(checkpoint.weights), strict=False)
        wrong = [k for k in [*missing, *unexpected] if not k.startswith("preprocessor.")]
        if wrong:
            raise EngineError(f"NeMo's model has other weights, {wrong[0]} for one")
        self.model = model.eval().to(device)
        self.config = checkpoint.config
        self.device = device
        self.features = LogMel(checkpoint.config.preprocessor, device)
        self.cast(dtype)

    def cast(self, dtype: torch.dtype) -> None:
        """Compute in `dtype` from now on, decoding too, as where the whole model is cast."""
        self.dtype = dtype
        for part in (self.model.encoder, self.model.decoder, self.model.joint):
            part.to(dtype)

    @torch.inference_mode()
    def stream(self, windows: Iterable[np.ndarray], right: int) -> Streamed:
        """See `System.stream`."""
        encoder = self.model.encoder
        encoder.set_default_att_context_size([self.config.encoder.left(right), right])
        cached = encoder.streaming_cfg.pre_encode_cache_size[1]
        before = self.config.encoder.subsampling_factor - 1
        out = Streamed([], [])
        caches: Any = None
        hypotheses: Any = None
        tail = torch.empty(0)
        for step, window in enumerate(windows):
            mel = self.features(torch.from_numpy(window).to(self.device)).transpose(1, 2)
            mel = mel.to(self.dtype)
            if step == 0:
                caches = encoder.get_initial_cache_state(
                    batch_size=len(window), dtype=self.dtype, device=self.device
                )
                tail = mel.new_zeros(*mel.shape[:2], cached)
                mel = mel[:, :, before:]
            chunk = torch.cat([tail, mel], -1) if step else mel
            tail = torch.cat([tail, mel], -1)[:, :, -cached:]
            lengths = torch.full((len(window),), chunk.shape[-1], device=self.device)
            _synchronise(self.device)
            began = time.perf_counter()
            _, _, *caches, hypotheses = self.model.conformer_stream_step(
                processed_signal=chunk,
                processed_signal_length=lengths,
                cache_last_channel=caches[0],
                cache_last_time=caches[1],
                cache_last_channel_len=caches[2],
                keep_all_outputs=True,
                previous_hypotheses=hypotheses,
                drop_extra_pre_encoded=(
                    encoder.streaming_cfg.drop_extra_pre_encoded if step else 0
                ),
            )
            _synchronise(self.device)
            out.step_s.append(time.perf_counter() - began)
        out.tokens = [[int(t) for t in h.y_sequence] for h in hypotheses or ()]
        return out


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    """The checkpoint's own config, completed to what NeMo's character model asks for.

    The character model takes a list of labels where the others need a tokenizer's files; its
    network and its decoding are the same.
    """
    raw = copy.deepcopy(dict(checkpoint.raw_config))
    asr = "nemo.collections.asr.modules."
    labels = [f"w{i}" for i in range(checkpoint.config.decoder.vocab_size)]
    hidden = checkpoint.config.decoder.joint_hidden
    decoder = checkpoint.config.decoder
    encoder = {k: v for k, v in raw["encoder"].items() if k != "zero_frames"}
    return {
        "sample_rate": 16000,
        "labels": labels,
        "preprocessor": {
            **raw["preprocessor"],
            "_target_": f"{asr}AudioToMelSpectrogramPreprocessor", "dither": 0.0, "pad_to": 0,
        },
        "model_defaults": {
            "enc_hidden": checkpoint.config.encoder.d_model,
            "pred_hidden": decoder.pred_hidden, "joint_hidden": hidden,
        },
        "encoder": {
            "feat_out": -1, "self_attention_model": "rel_pos", "pos_emb_max_len": 5000,
            "ff_expansion_factor": 4, **encoder, "_target_": f"{asr}ConformerEncoder",
        },
        "decoder": {
            "_target_": f"{asr}RNNTDecoder", "normalization_mode": None,
            "random_state_sampling": False, "blank_as_pad": True,
            "prednet": {
                "pred_hidden": decoder.pred_hidden, "pred_rnn_layers": decoder.pred_rnn_layers,
                "t_max": None, "dropout": 0.0,
            },
        },
        "joint": {
            "_target_": f"{asr}RNNTJoint", "log_softmax": None, "preserve_memory": False,
            "fuse_loss_wer": False,
            # A dropout layer, even one that drops nothing, gives the last layer its usual name.
            "jointnet": {"joint_hidden": hidden, "activation": decoder.activation, "dropout": 0.2},
        },
        "decoding": {
            "strategy": "greedy_batch", "greedy": {"max_symbols": decoder.max_symbols}
        },
        "loss": {"loss_name": "default", "warprnnt_numba_kwargs": {"fastemit_lambda": 0.0}},
    }  # fmt: skip
