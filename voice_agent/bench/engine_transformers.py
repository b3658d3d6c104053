"""transformers beside us: `generate` over a generator of mel chunks, its own way of streaming.

One generator at a time, whose chunks may hold several lanes in step. A step is what passes between
two times that it asks for audio; features are not in it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from voice_agent.bench.engine_systems import Streamed
from voice_agent.engine.errors import EngineError
from voice_agent.engine.features import LogMel

if TYPE_CHECKING:
    from voice_agent.engine.checkpoint import Checkpoint
    from voice_agent.engine.config import ModelConfig


class Transformers:
    """See `voice_agent.bench.engine_systems.System`."""

    name = "transformers"
    includes = "encoder, decoder"
    check_lanes = 1
    """Lanes a step where it is compared in float32: of several it ends some early."""

    @staticmethod
    def need() -> None:
        """Import it.

        Raises:
            ImportError: transformers is not installed.
        """
        import transformers  # noqa: F401

    def __init__(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        """Build the model and give it the same weights.

        Raises:
            EngineError: a shape that transformers' classes do not have, or a version without them.
        """
        import transformers

        prefix = "Nemotron3_5Asr" if checkpoint.config.prompt else "NemotronAsrStreaming"
        if not hasattr(transformers, f"{prefix}ForRNNT"):
            raise EngineError(
                f"transformers {transformers.__version__} has no {prefix}ForRNNT; 5.13 has"
            )
        config = getattr(transformers, f"{prefix}Config")(**_config(checkpoint.config))
        with torch.device(device):  # its own random start costs less there
            model = getattr(transformers, f"{prefix}ForRNNT")(config)
        weights = {hf_name(k): v for k, v in checkpoint.weights.items()
                   if not k.startswith("preprocessor.")}  # fmt: skip
        missing, unexpected = model.load_state_dict(weights, strict=False)
        if missing or unexpected:
            raise EngineError(f"transformers has other weights, {[*missing, *unexpected][0]}")
        self.model = model.eval().to(device, dtype)
        # Padding of lanes that wait must not look like a token.
        self.blank = config.blank_token_id
        self.model.generation_config.pad_token_id = self.blank
        self.model.generation_config.decoder_start_token_id = self.blank
        self.config = checkpoint.config
        self.device = device
        self.features = LogMel(checkpoint.config.preprocessor, device)

    def cast(self, dtype: torch.dtype) -> None:
        """Compute in `dtype` from now on."""
        self.model.to(dtype)

    @torch.inference_mode()
    def stream(self, windows: Iterable[np.ndarray], right: int) -> Streamed:
        """See `System.stream`."""
        asked: list[float] = []
        given: list[float] = []
        options: dict[str, Any] = {}
        if self.config.prompt:
            options["prompt_ids"] = torch.tensor(
                [self.config.prompt.index(None)], device=self.device
            )
        out = self.model.generate(
            input_features=self._mel(windows, asked, given), num_lookahead_tokens=right, **options
        )
        tokens = [[t for t in lane if t != self.blank] for lane in out.sequences.tolist()]
        return Streamed([a - g for a, g in zip(asked[1:], given, strict=False)], tokens)

    def _mel(
        self, windows: Iterable[np.ndarray], asked: list[float], given: list[float]
    ) -> Iterator[torch.Tensor]:
        before = self.config.encoder.subsampling_factor - 1
        for step, window in enumerate(windows):
            self._now(asked)
            mel = self.features(torch.from_numpy(window).to(self.device))
            mel = mel[:, before if step == 0 else 0 :]
            self._now(given)
            yield mel
        self._now(asked)

    def _now(self, times: list[float]) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        times.append(time.perf_counter())


def exact(checkpoint: Checkpoint) -> Checkpoint:
    """The same weights computed as transformers does, without NeMo's zero frames."""
    config = checkpoint.config
    encoder = replace(config.encoder, zero_frames=False)
    return replace(checkpoint, config=replace(config, encoder=encoder))


_RENAMED = {
    "encoder.pre_encode.conv.0.": "encoder.subsampling.conv_in.",
    "encoder.pre_encode.conv.2.": "encoder.subsampling.layers.0.depthwise_conv.",
    "encoder.pre_encode.conv.3.": "encoder.subsampling.layers.0.pointwise_conv.",
    "encoder.pre_encode.conv.5.": "encoder.subsampling.layers.1.depthwise_conv.",
    "encoder.pre_encode.conv.6.": "encoder.subsampling.layers.1.pointwise_conv.",
    "encoder.pre_encode.out.": "encoder.subsampling.linear.",
    "self_attn.linear_q.": "self_attn.q_proj.",
    "self_attn.linear_k.": "self_attn.k_proj.",
    "self_attn.linear_v.": "self_attn.v_proj.",
    "self_attn.linear_out.": "self_attn.o_proj.",
    "self_attn.linear_pos.": "self_attn.relative_k_proj.",
    "self_attn.pos_bias_": "self_attn.bias_",
    "conv.batch_norm.": "conv.norm.",
    "joint.enc.": "encoder_projector.",
    "joint.pred.": "decoder.decoder_projector.",
    "joint.joint_net.2.": "joint.head.",
    "decoder.prediction.embed.": "decoder.embedding.",
    "decoder.prediction.dec_rnn.lstm.": "decoder.lstm.",
    "prompt_kernel.0.": "prompt_projector.linear_1.",
    "prompt_kernel.2.": "prompt_projector.linear_2.",
}


def hf_name(name: str) -> str:
    """A parameter's name in transformers' classes; the inverse of `voice_agent.engine.hf`."""
    for ours, theirs in _RENAMED.items():
        if ours in name:
            return name.replace(ours, theirs)
    return name


def _config(config: ModelConfig) -> dict[str, Any]:
    e, d = config.encoder, config.decoder
    if e.conv_norm_type != "layer_norm" or d.activation != "relu":
        raise EngineError("transformers' class has layer norm in its convolution, and relu")
    out: dict[str, Any] = {
        "vocab_size": d.vocab_size + 1, "blank_token_id": d.blank,
        "decoder_hidden_size": d.pred_hidden, "num_decoder_layers": d.pred_rnn_layers,
        "max_symbols_per_step": d.max_symbols,
        "encoder_config": {
            "hidden_size": e.d_model, "num_hidden_layers": e.n_layers,
            "num_attention_heads": e.n_heads, "num_key_value_heads": e.n_heads,
            "intermediate_size": e.d_model * e.ff_expansion_factor,
            "subsampling_conv_channels": e.subsampling_conv_channels,
            "num_mel_bins": config.preprocessor.features, "conv_kernel_size": e.conv_kernel_size,
            "attention_bias": e.use_bias, "convolution_bias": e.use_bias,
            "scale_input": e.xscaling, "sliding_window": e.max_left + 1,
        },
    }  # fmt: skip
    if d.pred_hidden != d.joint_hidden:
        raise EngineError("transformers' class has one width for prediction and joint")
    if config.prompt:
        out |= {
            "num_prompts": config.prompt.num_prompts,
            "prompt_intermediate_size": 2 * e.d_model,
            "default_prompt_id": config.prompt.index(None),
        }
    return out
