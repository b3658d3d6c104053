"""Read a Hugging Face directory of the same family.

`config.json` (`model_type` nemotron_asr_streaming or nemotron3_5_asr), `processor_config.json`,
`model.safetensors` (or shards and their index) and `tokenizer.json`, as transformers writes them.
Keys and parameter names are mapped to NeMo's, so that there is one internal model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voice_agent.engine.checkpoint import Checkpoint
from voice_agent.engine.config import ModelConfig
from voice_agent.engine.errors import CorruptCheckpoint, ModelNotFound, UnsupportedCheckpoint
from voice_agent.engine.text import Tokenizer

if TYPE_CHECKING:
    import torch

CONFIG_NAME = "config.json"
MODEL_TYPES = ("nemotron_asr_streaming", "nemotron3_5_asr")

_RENAMED = [
    (re.compile(pattern), new)
    for pattern, new in (
        (r"^encoder\.subsampling\.conv_in\.", "encoder.pre_encode.conv.0."),
        (r"^encoder\.subsampling\.layers\.0\.depthwise_conv\.", "encoder.pre_encode.conv.2."),
        (r"^encoder\.subsampling\.layers\.0\.pointwise_conv\.", "encoder.pre_encode.conv.3."),
        (r"^encoder\.subsampling\.layers\.1\.depthwise_conv\.", "encoder.pre_encode.conv.5."),
        (r"^encoder\.subsampling\.layers\.1\.pointwise_conv\.", "encoder.pre_encode.conv.6."),
        (r"^encoder\.subsampling\.linear\.", "encoder.pre_encode.out."),
        (r"\.self_attn\.([qkv])_proj\.", r".self_attn.linear_\1."),
        (r"\.self_attn\.o_proj\.", ".self_attn.linear_out."),
        (r"\.self_attn\.relative_k_proj\.", ".self_attn.linear_pos."),
        (r"\.self_attn\.bias_([uv])$", r".self_attn.pos_bias_\1"),
        (r"\.conv\.norm\.", ".conv.batch_norm."),
        (r"^encoder_projector\.", "joint.enc."),
        (r"^decoder\.embedding\.", "decoder.prediction.embed."),
        (r"^decoder\.lstm\.", "decoder.prediction.dec_rnn.lstm."),
        (r"^decoder\.decoder_projector\.", "joint.pred."),
        (r"^joint\.head\.", "joint.joint_net.2."),
        (r"^prompt_projector\.linear_1\.", "prompt_kernel.0."),
        (r"^prompt_projector\.linear_2\.", "prompt_kernel.2."),
    )
]


def read_hf(folder: Path, name: str | None = None) -> Checkpoint:
    """Read a directory.

    Args:
        folder: what `save_pretrained` wrote or `hf download` brought.
        name: how to call it in messages; its path where None.

    Raises:
        ModelNotFound: a file is missing.
        CorruptCheckpoint: a file is damaged.
        UnsupportedCheckpoint: another model type, or a shape that the engine does not serve.
    """
    name = name or str(folder)
    config = _json(folder, CONFIG_NAME, name)
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        raise UnsupportedCheckpoint(
            name, f"model_type = {kind!r} is not served (known: {', '.join(MODEL_TYPES)})"
        )
    raw = nemo_keys(name, config, _json(folder, "processor_config.json", name))
    model_config = ModelConfig.read(name, raw)
    try:
        tokenizer = Tokenizer.from_json(
            _json(folder, "tokenizer.json", name), tags=model_config.prompt is not None
        )
    except (KeyError, TypeError) as error:
        raise CorruptCheckpoint(name, f"tokenizer.json has no vocabulary ({error!r})") from error
    return Checkpoint(name, model_config, raw, _weights(folder, name), tokenizer)


def nemo_keys(name: str, config: Mapping[str, Any], processor: Mapping[str, Any]) -> dict[str, Any]:
    """`config.json` and `processor_config.json` under the keys of `model_config.yaml`.

    Keys that decide nothing at inference are dropped; one that we have never seen is passed on,
    so that `ModelConfig.read` refuses it by name.
    """
    encoder = dict(config["encoder_config"])
    features = dict(processor.get("feature_extractor") or {})
    rate = features.get("sampling_rate", 16000)
    if features.get("mel_filters_dtype", "float32") != "float32":
        raise UnsupportedCheckpoint(
            name, f"feature_extractor.mel_filters_dtype = {features['mel_filters_dtype']!r}"
        )
    left = encoder.pop("sliding_window") - 1
    lookaheads = processor.get("supported_num_lookahead_tokens") or [
        encoder["default_num_lookahead_tokens"]
    ]
    hidden, inner = encoder.pop("hidden_size"), encoder.pop("intermediate_size")
    mels = encoder.pop("num_mel_bins")
    biases = {encoder.pop("attention_bias"), encoder.pop("convolution_bias")}
    if len(biases) > 1:
        raise UnsupportedCheckpoint(name, "attention_bias and convolution_bias differ")
    for key, wanted in (
        ("hidden_act", "silu"),
        ("subsampling_conv_kernel_size", 3),
        ("subsampling_conv_stride", 2),
    ):
        if encoder.pop(key, wanted) != wanted:
            raise UnsupportedCheckpoint(name, f"encoder_config.{key} is not {wanted!r}")
    for key in (
        "activation_dropout", "attention_dropout", "dropout", "dropout_positions", "layerdrop",
        "initializer_range", "max_position_embeddings", "model_type", "num_key_value_heads",
        "default_num_lookahead_tokens", "architectures", "dtype", "transformers_version",
    ):  # fmt: skip
        encoder.pop(key, None)
    raw: dict[str, Any] = {
        "preprocessor": {
            "sample_rate": rate,
            "features": mels,
            "n_fft": features.get("n_fft", 512),
            "window_size": features.get("win_length", 400) / rate,
            "window_stride": features.get("hop_length", 160) / rate,
            "preemph": features.get("preemphasis", 0.97),
        },
        "encoder": {
            "feat_in": mels, "d_model": hidden, "ff_expansion_factor": inner // hidden,
            "n_layers": encoder.pop("num_hidden_layers"),
            "n_heads": encoder.pop("num_attention_heads"),
            "conv_kernel_size": encoder.pop("conv_kernel_size"),
            "subsampling_factor": encoder.pop("subsampling_factor"),
            "subsampling_conv_channels": encoder.pop("subsampling_conv_channels"),
            "xscaling": encoder.pop("scale_input"), "use_bias": biases.pop(),
            "att_context_size": [[left, right] for right in lookaheads],
            "att_context_style": "chunked_limited", "subsampling": "dw_striding",
            "causal_downsampling": True, "conv_norm_type": "layer_norm",
            "conv_context_size": "causal", "zero_frames": False,
            **encoder,
        },
        "decoder": {
            "vocab_size": config["vocab_size"] - 1,
            "prednet": {
                "pred_hidden": config["decoder_hidden_size"],
                "pred_rnn_layers": config["num_decoder_layers"],
            },
        },
        "joint": {
            "jointnet": {
                "joint_hidden": config["decoder_hidden_size"], "activation": config["hidden_act"]
            }
        },
        "decoding": {"greedy": {"max_symbols": config["max_symbols_per_step"]}},
    }  # fmt: skip
    if config["blank_token_id"] != config["vocab_size"] - 1:
        raise UnsupportedCheckpoint(name, "blank_token_id is not the last token")
    if "num_prompts" in config:
        raw["model_defaults"] = {
            "initialize_prompt_feature": True,
            "num_prompts": config["num_prompts"],
            "prompt_dictionary": processor.get("prompt_dictionary")
            or {"auto": config["default_prompt_id"]},
        }
    return raw


def _json(folder: Path, file: str, name: str) -> dict[str, Any]:
    try:
        content = json.loads((folder / file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelNotFound(name, f"{folder / file} is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CorruptCheckpoint(name, f"{file} is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise CorruptCheckpoint(name, f"{file} is not an object")
    return content


def _weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    index = folder / "model.safetensors.index.json"
    files = ["model.safetensors"]
    if index.is_file():
        files = sorted(set(_json(folder, index.name, name)["weight_map"].values()))
    weights: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            weights |= load_file(folder / Path(file).name)
        except FileNotFoundError:
            raise ModelNotFound(name, f"{folder / file} is missing") from None
        except SafetensorError as error:
            raise CorruptCheckpoint(name, f"{file} is damaged ({error})") from error
    return {_rename(key): tensor for key, tensor in weights.items()}


def _rename(key: str) -> str:
    for pattern, new in _RENAMED:
        key = pattern.sub(new, key)
    return key
