"""AI4Bharat's `.nemo` hybrids, on files of that form with random weights.

That our encoder computes what NeMo's does is `test_indic_parity`'s matter.
"""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
import torch
import yaml

from training.tiny_kn import all_letters
from voice_agent.engine.errors import CorruptCheckpoint, ModelNotFound, UnsupportedCheckpoint
from voice_agent.engine.indic.backend import Backend
from voice_agent.engine.indic.conformer import Conformer, ConformerConfig, CtcHead
from voice_agent.engine.indic.decode import ctc_tokens
from voice_agent.engine.indic.features import LogMel
from voice_agent.engine.indic.nemo_file import NemoBackend
from voice_agent.engine.indic_conformer import load_indic_conformer

ENCODER = {
    "_target_": "nemo.collections.asr.modules.ConformerEncoder",
    "feat_in": 80,
    "n_layers": 2,
    "d_model": 32,
    "n_heads": 4,
    "subsampling": "striding",
    "subsampling_factor": 4,
    "subsampling_conv_channels": 16,
    "conv_kernel_size": 31,
    "conv_norm_type": "batch_norm",
    "self_attention_model": "rel_pos",
    "att_context_size": [-1, -1],
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from training.kannada_text import train_tokens

    path = tmp_path_factory.mktemp("tokens") / "tokens.model"
    train_tokens(all_letters() * 2, path)
    return path.read_bytes()


def write(path, tokenizer, languages, *, columns=None, encoder=ENCODER, preprocessor=None):
    """Write a file as the fork does; returns the modules."""
    torch.manual_seed(3)
    net = Conformer(ConformerConfig.from_nemo(encoder)).eval()
    head = CtcHead(32, columns or 256 * len(languages) + 1).eval()
    torch.nn.init.normal_(head.decoder_layers[0].weight, std=0.6)
    weights = {f"encoder.{k}": v for k, v in net.state_dict().items()}
    weights |= {f"ctc_decoder.{k}": v for k, v in head.state_dict().items()}
    weights["joint.enc.weight"] = torch.zeros(2, 2)
    parts = {
        code: {"type": "bpe", "model_path": f"nemo:{code}_tokenizer.model"} for code in languages
    }
    config = {
        "target": "nemo.collections.asr.models.EncDecHybridRNNTCTCBPEModel",
        "preprocessor": preprocessor or {"features": 80, "normalize": "per_feature"},
        "encoder": encoder,
        "tokenizer": {"type": "multilingual", **parts},
        "aux_ctc": {"decoder": {"multisoftmax": True}},
    }
    stored = io.BytesIO()
    torch.save(weights, stored)
    members = {f"{code}_tokenizer.model": tokenizer for code in languages}
    members |= {"model_config.yaml": yaml.safe_dump(config).encode()}
    members |= {"model_weights.ckpt": stored.getvalue()}
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return net, head


def clip(samples=40_000):
    swell = np.sin(np.arange(samples) / 3000) ** 2
    noise = np.random.default_rng(0).standard_normal(samples)
    return (0.2 * swell * noise).astype(np.float32)


@pytest.mark.parametrize("languages", [("kn",), ("hi", "kn", "ta")], ids=["one", "three"])
@torch.inference_mode()
def test_a_file_hears_what_its_modules_hear(tmp_path, tokenizer, languages):
    path = tmp_path / "model.nemo"
    net, head = write(path, tokenizer, languages)
    backend: Backend = NemoBackend(path, name="model", device="cpu")
    assert tuple(backend.pieces) == languages
    assert backend.frame_s == pytest.approx(0.04)
    audio = clip()
    mel, frames = LogMel()(torch.from_numpy(audio)[None], torch.tensor([len(audio)]))
    scores = head(net(mel, frames)[0])[0].numpy()
    start = 256 * languages.index("kn")
    own = np.concatenate([scores[:, start : start + 256], scores[:, -1:]], axis=1)
    want = [t.number for t in ctc_tokens(own, 256)]
    together = backend.tokens([clip(20_000), audio], ["kn", "kn"])
    assert want and [t.number for t in together[1]] == want


def test_the_recognizer_opens_it_by_path(tmp_path, tokenizer):
    path = tmp_path / "model.nemo"
    write(path, tokenizer, ("kn",))
    recognizer = load_indic_conformer(str(path), device="cpu")
    assert recognizer.languages == ("kn",)
    recognizer.close()
    with pytest.raises(ValueError, match="CTC head alone"):
        load_indic_conformer(str(path), decoding="rnnt")


def test_columns_that_do_not_fit_the_pieces_are_refused(tmp_path, tokenizer):
    path = tmp_path / "model.nemo"
    write(path, tokenizer, ("kn",), columns=300)
    with pytest.raises(UnsupportedCheckpoint, match="300 columns for 256 pieces"):
        NemoBackend(path, name="model", device="cpu")


def test_what_the_encoder_does_not_do_is_named(tmp_path, tokenizer):
    path = tmp_path / "model.nemo"
    write(path, tokenizer, ("kn",))
    with pytest.raises(UnsupportedCheckpoint, match="att_context_size"):
        ConformerConfig.from_nemo({**ENCODER, "att_context_size": [70, 13]})
    write(path, tokenizer, ("kn",), preprocessor={"features": 128})
    with pytest.raises(UnsupportedCheckpoint, match="features 128"):
        NemoBackend(path, name="model", device="cpu")


def test_a_damaged_or_absent_file_is_named(tmp_path, tokenizer):
    path = tmp_path / "model.nemo"
    with pytest.raises(ModelNotFound, match="no such file"):
        NemoBackend(path, name="model", device="cpu")
    write(path, tokenizer, ("kn",))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(CorruptCheckpoint):
        NemoBackend(path, name="model", device="cpu")
