"""Writes a `.nemo` file: a gzip'd tar of the config, the weights and the tokenizer.

Matrices are stored in float16, in whole steps of each one's own size: that compresses to about 1.4
bytes a weight. NeMo's `restore_from` widens them again.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import yaml
from torch import Tensor

from training.fastconformer import FastConformerRNNT, ModelShape
from training.mel import LogMel

STEPS = 96.0  # of a matrix in its root mean square: 16 MiB hold no finer ones


def model_config(
    shape: ModelShape, vocabulary: list[str], ours: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return `model_config.yaml` as a dictionary, under NeMo's own keys.

    Args:
        shape: of the model.
        vocabulary: its pieces.
        ours: keys of `voice_agent.engine.config.ModelConfig` that NeMo does not know.
    """
    data = {"manifest_filepath": None, "sample_rate": 16000, "batch_size": 1, "shuffle": False}
    return {
        "target": "nemo.collections.asr.models.rnnt_bpe_models.EncDecRNNTBPEModel",
        "sample_rate": 16000,
        "compute_eval_loss": False,
        "log_prediction": False,
        "skip_nan_grad": False,
        "rnnt_reduction": "mean_volume",
        "model_defaults": {
            "enc_hidden": shape.d_model,
            "pred_hidden": shape.pred_hidden,
            "joint_hidden": shape.joint_hidden,
            **(ours or {}),
        },
        "train_ds": data,
        "validation_ds": data,
        "tokenizer": {
            "dir": None,
            "type": "bpe",
            "model_path": "nemo:tokenizer.model",
            "vocab_path": "nemo:vocab.txt",
            "spe_tokenizer_vocab": "nemo:tokenizer.vocab",
        },
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000,
            "normalize": "NA",
            "window_size": 0.025,
            "window_stride": 0.01,
            "window": "hann",
            "features": shape.feat_in,
            "n_fft": 512,
            "log": True,
            "frame_splicing": 1,
            "dither": 0.0,
            "pad_to": 0,
            "pad_value": 0.0,
        },
        "spec_augment": {
            "_target_": "nemo.collections.asr.modules.SpectrogramAugmentation",
            "freq_masks": 2,
            "time_masks": 5,
            "freq_width": 20,
            "time_width": 0.05,
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConformerEncoder",
            "feat_in": shape.feat_in,
            "feat_out": -1,
            "n_layers": shape.n_layers,
            "d_model": shape.d_model,
            "use_bias": True,
            "subsampling": "dw_striding",
            "subsampling_factor": 8,
            "subsampling_conv_channels": shape.subsampling_conv_channels,
            "causal_downsampling": True,
            "reduction": None,
            "reduction_position": None,
            "reduction_factor": 1,
            "ff_expansion_factor": shape.ff_expansion_factor,
            "self_attention_model": "rel_pos",
            "n_heads": shape.n_heads,
            "att_context_size": [list(pair) for pair in shape.att_context_size],
            "att_context_style": "chunked_limited",
            "att_context_probs": None,
            "xscaling": False,
            "untie_biases": True,
            "pos_emb_max_len": 5000,
            "conv_kernel_size": shape.conv_kernel_size,
            "conv_norm_type": "layer_norm",
            "conv_context_size": "causal",
            "dropout": shape.dropout,
            "dropout_pre_encoder": shape.dropout,
            "dropout_emb": 0.0,
            "dropout_att": shape.dropout,
            "stochastic_depth_drop_prob": 0.0,
            "stochastic_depth_mode": "linear",
            "stochastic_depth_start_layer": 1,
        },
        "decoder": {
            "_target_": "nemo.collections.asr.modules.RNNTDecoder",
            "normalization_mode": None,
            "random_state_sampling": False,
            "blank_as_pad": True,
            "prednet": {
                "pred_hidden": shape.pred_hidden,
                "pred_rnn_layers": 1,
                "t_max": None,
                "dropout": 0.0,
            },
            "vocab_size": shape.vocab_size,
        },
        "joint": {
            "_target_": "nemo.collections.asr.modules.RNNTJoint",
            "log_softmax": None,
            "preserve_memory": False,
            "fuse_loss_wer": False,
            "fused_batch_size": -1,
            "jointnet": {
                "joint_hidden": shape.joint_hidden,
                "activation": "relu",
                "dropout": shape.dropout,
                "encoder_hidden": shape.d_model,
                "pred_hidden": shape.pred_hidden,
            },
            "num_classes": shape.vocab_size,
            "vocabulary": vocabulary,
        },
        "decoding": {
            "strategy": "greedy_batch",
            "greedy": {"max_symbols": 10, "use_cuda_graph_decoder": False},
            "beam": {"beam_size": 2, "return_best_hypothesis": False},
        },
        "loss": {"loss_name": "default", "warprnnt_numba_kwargs": {"fastemit_lambda": 0.0}},
        "optim": {"name": "adamw", "lr": 0.001},
        "labels": vocabulary,
    }


def rounded(tensor: Tensor, steps: float = STEPS) -> Tensor:
    """Round to whole steps, a power of two of which `steps` make the root mean square; float16.

    The error is then alike for large and small weights, which for a product of matrices is less
    than what rounding mantissas leaves in as many bytes.

    Args:
        tensor: any shape.
        steps: how many, to within a factor of 1.42.
    """
    tensor = tensor.detach().cpu().float()
    size = tensor.square().mean().sqrt().clamp(min=1e-3)
    step = torch.exp2(torch.round(torch.log2(size / steps)))
    return (torch.round(tensor / step) * step).to(torch.float16)


def weights_for_nemo(model: FastConformerRNNT) -> dict[str, Tensor]:
    """Return the state dict NeMo expects: ours, and the preprocessor's two buffers (float32)."""
    mel = LogMel(model.shape.feat_in)
    state = {
        # Vectors (norms, biases) are few: they are kept whole.
        name: rounded(tensor) if tensor.dim() > 1 else tensor.detach().cpu().float()
        for name, tensor in model.state_dict().items()
    }
    state["preprocessor.featurizer.window"] = mel.window
    state["preprocessor.featurizer.fb"] = mel.banks.clone()
    return state


def write_nemo(
    path: Path,
    model: FastConformerRNNT,
    tokenizer_model: bytes,
    ours: Mapping[str, Any] | None = None,
) -> None:
    """Write the model to `path`; the same inputs give the same bytes. `ours`: `model_config`."""
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=tokenizer_model)
    pieces = [tokenizer.id_to_piece(i) for i in range(tokenizer.vocab_size())]
    weights = io.BytesIO()
    torch.save(weights_for_nemo(model), weights)
    scores = "".join(f"{p}\t{tokenizer.get_score(i):g}\n" for i, p in enumerate(pieces))
    # NeMo's vocab.txt: WordPiece spelling, special pieces left out.
    plain = [p for i, p in enumerate(pieces) if not tokenizer.is_control(i)]
    words = "".join((p[1:] if p.startswith("▁") else f"##{p}") + "\n" for p in plain)
    about = model_config(model.shape, pieces, ours)
    config = yaml.safe_dump(about, allow_unicode=True, sort_keys=False)
    members = {
        "model_config.yaml": config.encode(),
        "model_weights.ckpt": weights.getvalue(),
        "tokenizer.model": tokenizer_model,
        "tokenizer.vocab": scores.encode(),
        "vocab.txt": words.encode(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=9) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o644
            tar.addfile(info, io.BytesIO(content))


def _member(path: Path, wanted: str) -> bytes:
    """Return a file out of a `.nemo` file, whatever stands before its name there."""
    with tarfile.open(path) as tar:
        name = next(n for n in tar.getnames() if n.endswith(wanted))
        file = tar.extractfile(name)
        assert file is not None, f"{name} is no file"
        return file.read()


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the model's weights of a `.nemo` file that `write_nemo` wrote, as float32."""
    packed = io.BytesIO(_member(path, "model_weights.ckpt"))
    weights = torch.load(packed, map_location="cpu", weights_only=True)
    return {n: t.float() for n, t in weights.items() if not n.startswith("preprocessor.")}


def read_tokenizer(path: Path) -> sentencepiece.SentencePieceProcessor:
    """Return the sentencepiece model of a `.nemo` file."""
    return sentencepiece.SentencePieceProcessor(model_proto=_member(path, "tokenizer.model"))
