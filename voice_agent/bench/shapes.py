"""Checkpoints of the real sizes with random weights: for speed and memory, not for meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from voice_agent.engine.checkpoint import Checkpoint
from voice_agent.engine.config import ModelConfig

SHAPES: Mapping[str, Mapping[str, Any]] = {
    # Sizes of nvidia/nemotron-speech-streaming-en-0.6b.
    "nemotron-0.6b": {
        "features": 128, "n_layers": 24, "d_model": 1024, "n_heads": 8, "channels": 256,
        "contexts": [[70, 13], [70, 6], [70, 1], [70, 0]], "pred": 640, "joint": 640,
        "vocab": 1024, "bias": False,
    },
    # Sizes of nvidia/nemotron-3.5-asr-streaming: the same encoder, told the language by a prompt.
    "nemotron-3.5": {
        "features": 128, "n_layers": 24, "d_model": 1024, "n_heads": 8, "channels": 256,
        "contexts": [[56, 13], [56, 6], [56, 3], [56, 0]], "pred": 640, "joint": 640,
        "vocab": 13087, "bias": False, "prompts": 128,
    },
    # Small enough to debug a benchmark on a laptop.
    "toy": {
        "features": 80, "n_layers": 2, "d_model": 64, "n_heads": 2, "channels": 16,
        "contexts": [[70, 13], [70, 6], [70, 1], [70, 0]], "pred": 32, "joint": 32,
        "vocab": 64, "bias": False,
    },
}  # fmt: skip
EMBEDDED = "tiny-en"
"""The shape that is read off the model that ships."""
BLANK_BIAS = 2.5
"""Added to blank's logit, so that a random joint is silent in most frames, as in speech.
`voice_agent.bench.engine_random.calibrated` sets it by measuring instead."""


def model_config(shape: str) -> dict[str, Any]:
    """`model_config.yaml` of a named shape.

    Raises:
        ValueError: no such shape.
    """
    if shape == EMBEDDED:
        return _embedded_config()
    if shape not in SHAPES:
        raise ValueError(f"shape {shape!r} is unknown; known: {', '.join([*SHAPES, EMBEDDED])}")
    s = SHAPES[shape]
    prompts = s.get("prompts")
    return {
        "model_defaults": {
            "initialize_prompt_feature": prompts is not None,
            "num_prompts": prompts,
            "prompt_dictionary": {"en-US": 0, "auto": 101},
        },
        "preprocessor": {"sample_rate": 16000, "normalize": "NA", "features": s["features"]},
        "encoder": {
            "feat_in": s["features"], "n_layers": s["n_layers"], "d_model": s["d_model"],
            "n_heads": s["n_heads"], "subsampling": "dw_striding", "subsampling_factor": 8,
            "subsampling_conv_channels": s["channels"], "causal_downsampling": True,
            "att_context_style": "chunked_limited", "att_context_size": s["contexts"],
            "conv_kernel_size": 9, "conv_norm_type": "layer_norm", "conv_context_size": "causal",
            "xscaling": False, "use_bias": s["bias"],
        },
        "decoder": {
            "vocab_size": s["vocab"],
            "prednet": {"pred_hidden": s["pred"], "pred_rnn_layers": 2},
        },
        "joint": {"jointnet": {"joint_hidden": s["joint"], "activation": "relu"}},
    }  # fmt: skip


def _embedded_config() -> dict[str, Any]:
    from voice_agent.engine.checkpoint import read_nemo
    from voice_agent.models import locate

    return dict(read_nemo(locate(EMBEDDED).path).raw_config)


def random_checkpoint(shape: str, seed: int = 0) -> Checkpoint:
    """Random weights of a named shape, without a tokenizer."""
    raw = model_config(shape)
    config = ModelConfig.read(shape, raw)
    generator = torch.Generator().manual_seed(seed)

    def rand(name: str, *size: int) -> torch.Tensor:
        if ".norm_" in name or ".batch_norm." in name:
            return float(name.endswith("weight")) + 0.1 * torch.randn(size, generator=generator)
        # Large biases would make one frame like another; a small embedding, one token.
        small = 0.1 if len(size) == 1 else torch.Size(size[1:]).numel() ** -0.5
        scale = 1.0 if name.endswith("embed.weight") else small
        return torch.randn(size, generator=generator) * scale

    weights = {name: rand(name, *size) for name, size in _sizes(config).items()}
    weights["joint.joint_net.2.bias"][-1] += BLANK_BIAS
    return Checkpoint(shape, config, raw, weights, None)


def _sizes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    e, d = config.encoder, config.decoder
    width, channels = e.d_model, e.subsampling_conv_channels
    freq = config.preprocessor.features
    for _ in range(3):
        freq = freq // 2 + 1
    sizes: dict[str, tuple[int, ...]] = {
        "encoder.pre_encode.conv.0.weight": (channels, 1, 3, 3),
        "encoder.pre_encode.out.weight": (width, channels * freq),
        "encoder.pre_encode.out.bias": (width,),
    }
    for i in (2, 5):
        sizes[f"encoder.pre_encode.conv.{i}.weight"] = (channels, 1, 3, 3)
        sizes[f"encoder.pre_encode.conv.{i + 1}.weight"] = (channels, channels, 1, 1)
    sizes |= {f"encoder.pre_encode.conv.{i}.bias": (channels,) for i in (0, 2, 3, 5, 6)}
    inner = width * e.ff_expansion_factor
    biased = {
        "conv.pointwise_conv1": 2 * width, "conv.depthwise_conv": width,
        "conv.pointwise_conv2": width, "feed_forward1.linear1": inner,
        "feed_forward1.linear2": width, "feed_forward2.linear1": inner,
        "feed_forward2.linear2": width,
    } | {f"self_attn.linear_{x}": width for x in ("q", "k", "v", "out")}  # fmt: skip
    head = (e.n_heads, width // e.n_heads)
    layer: dict[str, tuple[int, ...]] = {
        "self_attn.pos_bias_u": head,
        "self_attn.pos_bias_v": head,
        "conv.pointwise_conv1.weight": (2 * width, width, 1),
        "conv.depthwise_conv.weight": (width, 1, e.conv_kernel_size),
        "conv.pointwise_conv2.weight": (width, width, 1),
    }
    norms = ("feed_forward1", "self_att", "conv", "feed_forward2", "out")
    for norm in [f"norm_{n}" for n in norms] + ["conv.batch_norm"]:
        layer |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    for ff in ("feed_forward1", "feed_forward2"):
        layer |= {f"{ff}.linear1.weight": (inner, width), f"{ff}.linear2.weight": (width, inner)}
    for name in ("q", "k", "v", "out", "pos"):
        layer[f"self_attn.linear_{name}.weight"] = (width, width)
    if e.use_bias:
        layer |= {f"{name}.bias": (size,) for name, size in biased.items()}
    for i in range(e.n_layers):
        sizes |= {f"encoder.layers.{i}.{name}": size for name, size in layer.items()}
    sizes |= {
        "decoder.prediction.embed.weight": (d.vocab_size + 1, d.pred_hidden),
        "joint.enc.weight": (d.joint_hidden, width),
        "joint.enc.bias": (d.joint_hidden,),
        "joint.pred.weight": (d.joint_hidden, d.pred_hidden),
        "joint.pred.bias": (d.joint_hidden,),
        "joint.joint_net.2.weight": (d.vocab_size + 1, d.joint_hidden),
        "joint.joint_net.2.bias": (d.vocab_size + 1,),
    }
    for i in range(d.pred_rnn_layers):
        for kind in ("ih", "hh"):
            name = f"decoder.prediction.dec_rnn.lstm.{{}}_{kind}_l{i}"
            sizes[name.format("weight")] = (4 * d.pred_hidden, d.pred_hidden)
            sizes[name.format("bias")] = (4 * d.pred_hidden,)
    if config.prompt:
        told = width + config.prompt.num_prompts
        sizes |= {"prompt_kernel.0.weight": (2 * width, told), "prompt_kernel.0.bias": (2 * width,)}
        sizes |= {"prompt_kernel.2.weight": (width, 2 * width), "prompt_kernel.2.bias": (width,)}
    return sizes
