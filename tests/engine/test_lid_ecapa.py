"""ECAPA, read from SpeechBrain's files without SpeechBrain: its layout, its answers, its errors.

What SpeechBrain says of a miniature was recorded (`ecapa_speechbrain.py`); where it is installed,
it is asked again.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest

from tests.engine.ecapa_speechbrain import LABELS, RECORDED, clips, write
from voice_agent.engine.errors import CorruptCheckpoint, ModelNotFound, UnsupportedCheckpoint
from voice_agent.engine.lid import LanguageIdentifier, load_language_identifier

CODES = ("en", "hi", "kn", "ta")


@pytest.fixture(scope="module")
def recorded():
    return json.loads(RECORDED.read_text())


@pytest.fixture
def folder(recorded, tmp_path):
    write(tmp_path, recorded["shapes"])
    return tmp_path


def load(folder):
    return load_language_identifier("ecapa", model=str(folder), device="cpu")


def test_it_gives_speechbrains_answers(recorded, folder):
    identifier = load(folder)
    assert isinstance(identifier, LanguageIdentifier)
    assert recorded["labels"] == list(LABELS)
    assert identifier.languages == CODES
    for clip, want in zip(clips(), recorded["posteriors"], strict=True):
        got = identifier.identify(clip).posteriors
        assert list(got.values()) == pytest.approx(want, abs=1e-4)


def test_speechbrain_still_answers_as_it_did(recorded):
    if importlib.util.find_spec("speechbrain") is None:
        pytest.skip("SpeechBrain is not installed; what it answered is recorded")
    command = [sys.executable, "-m", "tests.engine.ecapa_speechbrain"]
    now = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    assert now["shapes"] == recorded["shapes"]
    assert np.ravel(now["posteriors"]) == pytest.approx(np.ravel(recorded["posteriors"]), abs=1e-4)


def test_less_than_a_quarter_second_tells_nothing(folder):
    posteriors = load(folder).identify(np.zeros(3_999, np.float32)).posteriors
    assert posteriors == dict.fromkeys(CODES, 0.25)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("std_norm: False", "std_norm: True", "mean_var_norm.std_norm = True is not served"),
        ("    norm_type: sentence\n", "", "mean_var_norm.norm_type = None is not served"),
        ("deltas: False", "deltas: True", "compute_features.deltas = True is not served"),
        ("lin_blocks: 1", "lin_blocks: 2", "classifier.lin_blocks = 2 is not served"),
        ("out_n_neurons: 4", "out_n_neurons: 5", "4 labels for 5 outputs"),
    ],
)
def test_another_network_is_named(folder, old, new, says):
    file = folder / "hyperparams.yaml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(UnsupportedCheckpoint, match=says):
        load(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hyperparams.yaml", "n_mels: [60"),
        ("hyperparams.yaml", "n_mels: 60"),
        ("hyperparams.yaml", "x: !!python/object/apply:os.system [exit]"),
        ("label_encoder.txt", "en => 0"),
        ("classifier.ckpt", "these are no weights"),
    ],
)
def test_a_damaged_file_is_named(folder, name, text):
    (folder / name).write_text(text)
    with pytest.raises(CorruptCheckpoint, match=name):
        load(folder)


def test_weights_of_another_size_are_named(folder):
    file = folder / "hyperparams.yaml"
    file.write_text(file.read_text().replace("attention_channels: 8", "attention_channels: 4"))
    with pytest.raises(CorruptCheckpoint, match=r"embedding_model\.ckpt does not load"):
        load(folder)


def test_what_is_missing_is_named(folder):
    (folder / "classifier.ckpt").unlink()
    with pytest.raises(ModelNotFound, match=r"has no classifier\.ckpt"):
        load(folder)
    with pytest.raises(ModelNotFound, match="no such directory, and not a Hugging Face id"):
        load(folder / "absent")


def test_a_hub_that_cannot_be_reached_says_what_to_do(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*_, **__):
        raise LocalEntryNotFoundError("the network is unreachable")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(ModelNotFound, match="run `hf download speechbrain/lang-id-voxlingua107"):
        load_language_identifier("ecapa", device="cpu")
