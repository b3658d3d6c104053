"""Random checkpoints in the real `.nemo` format, made by NeMo itself.

They hear nothing, but every number that our engine computes on them has a reference. The joint's
blank bias is set so that about a third of the frames emit, as speech does.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import pytest

RIGHTS = (0, 1, 6, 13)
LEFT = 70


def train_tokenizer(folder: Path, size: int = 64) -> Path:
    """A sentencepiece BPE model of `size` pieces, from a few sentences."""
    import sentencepiece

    text = folder / "text.txt"
    text.write_text(
        "\n".join(
            f"{a} {b} {c}"
            for a in ("the quick brown fox", "pack my box", "how vexingly", "sphinx of black")
            for b in ("jumps over the lazy dog", "with five dozen liquor jugs", "quartz judge my")
            for c in ("and daft zebras jump", "while the wizards hex", "for a bright vow")
        )
    )
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "tokenizer"), vocab_size=size,
        model_type="bpe", unk_id=0, bos_id=-1, eos_id=-1, minloglevel=2,
    )  # fmt: skip
    (folder / "vocab.txt").write_text("")
    return folder / "tokenizer.model"


def nemo_config(folder: Path, *, mels: int = 128, **encoder: object) -> dict:
    """The real checkpoint's keys, at a size that a laptop steps in milliseconds."""
    train_tokenizer(folder)
    encoder_config = {
        "_target_": "nemo.collections.asr.modules.ConformerEncoder",
        "feat_in": mels, "feat_out": -1, "n_layers": 3, "d_model": 64, "n_heads": 4,
        "use_bias": False, "subsampling": "dw_striding", "subsampling_factor": 8,
        "subsampling_conv_channels": 32, "causal_downsampling": True,
        "ff_expansion_factor": 4, "self_attention_model": "rel_pos",
        "att_context_size": [[LEFT, right] for right in (13, 6, 1, 0)],
        "att_context_style": "chunked_limited", "xscaling": False, "untie_biases": True,
        "pos_emb_max_len": 5000, "conv_kernel_size": 9, "conv_norm_type": "layer_norm",
        "conv_context_size": "causal", "dropout": 0.1, "dropout_pre_encoder": 0.1,
        "dropout_emb": 0.0, "dropout_att": 0.1, "reduction": None,
        "stochastic_depth_drop_prob": 0.0,
    } | encoder  # fmt: skip
    width = encoder_config["d_model"]
    return {
        "sample_rate": 16000,
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": 16000, "normalize": "NA", "window_size": 0.025,
            "window_stride": 0.01, "window": "hann", "features": mels, "n_fft": 512,
            "log": True, "frame_splicing": 1, "dither": 1e-5, "pad_to": 0,
        },
        "tokenizer": {"dir": str(folder), "type": "bpe"},
        "model_defaults": {"enc_hidden": width, "pred_hidden": 48, "joint_hidden": 48},
        "encoder": encoder_config,
        "decoder": {
            "_target_": "nemo.collections.asr.modules.RNNTDecoder",
            "normalization_mode": None, "random_state_sampling": False, "blank_as_pad": True,
            "prednet": {"pred_hidden": 48, "pred_rnn_layers": 2, "t_max": None, "dropout": 0.2},
        },
        "joint": {
            "_target_": "nemo.collections.asr.modules.RNNTJoint",
            "log_softmax": None, "preserve_memory": False, "fuse_loss_wer": False,
            "jointnet": {"joint_hidden": 48, "activation": "relu", "dropout": 0.2},
        },
        "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 10}},
        "loss": {"loss_name": "default", "warprnnt_numba_kwargs": {"fastemit_lambda": 0.0}},
    }  # fmt: skip


def quiet_nemo(prompts: bool):
    """Import NeMo without its warnings; returns the RNNT-BPE model class, with prompts or not."""
    pytest.importorskip("nemo.collections.asr", reason="the reference needs the extra 'nemo'")
    from nemo.collections.asr.models import EncDecRNNTBPEModel
    from nemo.collections.asr.models.rnnt_bpe_models_prompt import EncDecRNNTBPEModelWithPrompt
    from nemo.utils import logging as nemo_logging

    nemo_logging.setLevel(logging.ERROR)
    return EncDecRNNTBPEModelWithPrompt if prompts else EncDecRNNTBPEModel


def random_nemo(
    folder: Path, *, seed: int = 0, prompts: dict[str, int] | None = None, **config: object
):
    """Build a random model with NeMo and save it.

    Args:
        folder: where the file goes.
        seed: of the weights.
        prompts: index by language, for a model of the second generation.
        config: keys of `encoder`, and `mels`.

    Returns:
        The NeMo model in eval mode, and the path of its `.nemo` file.
    """
    import torch
    from omegaconf import OmegaConf

    model_class = quiet_nemo(prompts is not None)
    torch.manual_seed(seed)
    raw = nemo_config(folder, **config)
    if prompts is not None:
        raw["model_defaults"] |= {
            "initialize_prompt_feature": True, "num_prompts": 8, "prompt_dictionary": prompts
        }  # fmt: skip
    model = model_class(OmegaConf.create(raw))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Biases and the position biases start at zero: give them something to get wrong.
            if parameter.dim() == 1 or "pos_bias" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.eval()
    _liven(model)
    path = folder / "random.nemo"
    model.save_to(str(path))
    return model, path


def _liven(model) -> None:
    """Make the joint depend on what is heard and on what was said.

    A random encoder's frames are nearly one constant vector, so a random joint would repeat one
    token for ever. Centre and scale both of its inputs as they come.
    """
    import torch

    seconds = torch.arange(16000 * 8) / 16000
    audio = torch.randn(1, len(seconds)) * 0.2 * torch.sin(5 * seconds) ** 2
    with torch.no_grad():
        mel, length = model.preprocessor(input_signal=audio, length=torch.tensor([audio.shape[1]]))
        encoded, _ = model.encoder(audio_signal=mel, length=length)
        if hasattr(model, "prompt_kernel"):
            prompt = torch.zeros(8, encoded.shape[-1])
            prompt[5] = 1
            encoded = model.prompt_kernel(torch.cat([encoded[0], prompt]).T).T[None]
        tokens = torch.randint(0, model.decoder.vocab_size, (1, 400))
        predicted, _, _ = model.decoder(targets=tokens, target_length=torch.tensor([400]))
        for layer, frames in ((model.joint.enc, encoded), (model.joint.pred, predicted)):
            out = layer(frames[0].T)
            layer.weight.div_(out.std(0)[:, None])
            layer.bias.sub_(out.mean(0)).div_(out.std(0))
        logits = model.joint.joint(encoded.transpose(1, 2), predicted.transpose(1, 2))[0]
        margin = logits[..., :-1].amax(-1) - logits[..., -1]
        model.joint.joint_net[-1].bias[-1] += margin.quantile(0.7)


if __name__ == "__main__":
    print(random_nemo(Path(tempfile.mkdtemp()))[1])
