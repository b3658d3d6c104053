"""A model that an interpreter steps in a second: every size odd in some way."""

from __future__ import annotations

import torch

from voice_agent.bench.engine_random import calibrated
from voice_agent.bench.shapes import weight_sizes
from voice_agent.engine.checkpoint import Checkpoint
from voice_agent.engine.config import (
    DecoderConfig,
    EncoderConfig,
    ModelConfig,
    PreprocessorConfig,
    PromptConfig,
)


def small_config(*, rights=(0, 1), layers=1, prompt=False, **encoder) -> ModelConfig:
    """8 mels of a 64-point FFT, width 24 in two heads, 22 tokens."""
    keys = {
        "feat_in": 8, "n_layers": layers, "d_model": 24, "n_heads": 2, "ff_expansion_factor": 2,
        "subsampling_factor": 8, "subsampling_conv_channels": 8,
        "att_context_size": tuple((6, right) for right in rights), "conv_kernel_size": 5,
        "conv_norm_type": "layer_norm", "xscaling": False, "use_bias": True,
    } | encoder  # fmt: skip
    return ModelConfig(
        PreprocessorConfig(
            sample_rate=16000, window_size=0.003, window_stride=0.001, features=8, n_fft=64,
            window="hann", preemph=0.97, lowfreq=0, highfreq=8000, mag_power=2.0,
            mel_norm="slaney", log_zero_guard_type="add", log_zero_guard_value=2**-24,
        ),
        EncoderConfig(**keys),
        DecoderConfig(22, pred_hidden=20, pred_rnn_layers=2, joint_hidden=18, activation="relu",
                      max_symbols=3),
        PromptConfig(4, {"en": 1, "auto": 3}) if prompt else None,
    )  # fmt: skip


def small_checkpoint(config: ModelConfig, seed: int = 0) -> Checkpoint:
    """Random weights under NeMo's names; the joint speaks about once a frame."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, size in weight_sizes(config).items():
        fan_in = max(1, torch.Size(size[1:]).numel())
        weights[name] = torch.randn(size, generator=generator) * fan_in**-0.5
    if config.encoder.use_bias:
        width = config.encoder.d_model
        inner = width * config.encoder.ff_expansion_factor
        linears = {
            "feed_forward1.linear1": inner, "feed_forward1.linear2": width,
            "feed_forward2.linear1": inner, "feed_forward2.linear2": width,
            "self_attn.linear_q": width, "self_attn.linear_k": width, "self_attn.linear_v": width,
            "self_attn.linear_out": width, "conv.pointwise_conv1": 2 * width,
            "conv.depthwise_conv": width, "conv.pointwise_conv2": width,
        }  # fmt: skip
        for layer in range(config.encoder.n_layers):
            for name, size in linears.items():
                bias = torch.randn(size, generator=generator) * 0.1
                weights[f"encoder.layers.{layer}.{name}.bias"] = bias
    if config.prompt:
        width, prompts = config.encoder.d_model, config.prompt.num_prompts
        shapes = {"0.weight": (40, width + prompts), "0.bias": (40,), "2.weight": (width, 40),
                  "2.bias": (width,)}  # fmt: skip
        for name, size in shapes.items():
            weights[f"prompt_kernel.{name}"] = torch.randn(size, generator=generator) * 0.3
    random = Checkpoint("small", config, {}, weights, None)
    return calibrated(random, right=min(config.encoder.right_contexts), rate=1.0)[0]
