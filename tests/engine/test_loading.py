from __future__ import annotations

import logging
import shutil

import numpy as np
import pytest

from tests.engine.reference import nemo_stream
from tests.support.checkpoints import random_nemo
from tests.support.collect import Collector
from voice_agent.engine import (
    CorruptCheckpoint,
    EngineError,
    ModelNotFound,
    StreamOptions,
    UnsupportedCheckpoint,
    load_recognizer,
    loading,
    sustain,
)
from voice_agent.engine.checkpoint import read_nemo
from voice_agent.engine.chunks import Chunks
from voice_agent.engine.indic_conformer import IndicConformerRecognizer
from voice_agent.models import HERE, locate


@pytest.fixture(params=["engine", "nemo"])
def recognizer(request, random_model):
    recognizer = load_recognizer(str(random_model[1]), device="cpu", backend=request.param)
    yield recognizer
    recognizer.close()


def test_a_large_model_on_a_cpu_says_which_right_context_it_keeps_up_with(
    random_model, monkeypatch, caplog
):
    path = str(random_model[1])
    monkeypatch.setattr(loading, "_small", lambda checkpoint: False)
    monkeypatch.setattr(sustain, "step_s", lambda runner, right, clock: 0.1)
    with caplog.at_level(logging.WARNING, logger=loading.__name__):
        chosen = load_recognizer(path, device="cpu", slots=1, weights="int8")
        named = load_recognizer(path, device="cpu", slots=1, right_context=13)
    chosen.close()
    named.close()
    assert (chosen.right_context, named.right_context) == (1, 13)
    (said,) = (r.message for r in caplog.records if r.name == loading.__name__)
    assert said == (
        "right context 1: a chunk of 80 ms took 100 ms, a chunk of 160 ms took 100 ms; "
        "name a right_context to choose another"
    )


def test_both_backends_say_the_same_words_at_every_right_context(random_model, noise):
    said = {}
    for backend in ("engine", "nemo"):
        recognizer = load_recognizer(str(random_model[1]), device="cpu", backend=backend)
        for right in recognizer.right_contexts:
            heard = Collector()
            stream = recognizer.open(heard, options=StreamOptions(right_context=right))
            for _ in range(2):  # the second segment starts from nothing again
                stream.feed(noise(30_000, seed=1))
                stream.finish()
            said[backend, right] = [heard.final().tokens, heard.final().tokens]
            stream.close()
        recognizer.close()
    for right in (0, 1, 6, 13):
        ours, theirs = said["engine", right], said["nemo", right]
        assert ours == theirs and ours[0] == ours[1] and ours[0]


def test_a_full_final_pass_is_the_widest_look_ahead_behind_the_narrow_partials(recognizer, noise):
    said = {}
    for name, options in {
        "narrow": StreamOptions(right_context=0),
        "wide": StreamOptions(right_context=13),
        "both": StreamOptions(right_context=0, final_pass="full"),
    }.items():
        heard = Collector()
        stream = recognizer.open(heard, options=options)
        for _ in range(2):  # the stream's next segment is streamed at the narrow one again
            heard.events.clear()
            stream.feed(noise(40_000, seed=7))
            heard.wait_for_partial()
            stream.finish()
            said[name] = heard.final()
            partials = heard.partials
        stream.close()
    assert said["narrow"].tokens != said["wide"].tokens, "else this proves nothing"
    assert said["both"].tokens == said["wide"].tokens
    assert all(said["narrow"].tokens[: len(p.tokens)] == p.tokens for p in partials)


def test_a_right_context_that_was_not_trained_is_refused(recognizer):
    with pytest.raises(ValueError, match="right_context 3 is not one of .*: 0, 1, 6, 13"):
        recognizer.open(print, options=StreamOptions(right_context=3))


def test_an_option_that_nobody_knows_is_refused_by_name(recognizer):
    with pytest.raises(ValueError, match="does not know the option 'mood'"):
        recognizer.open(print, options=StreamOptions(extra={"mood": "good"}))


def test_nemo_serves_what_the_engine_refuses(tmp_path, noise):
    model, path = random_nemo(tmp_path, seed=4, conv_norm_type="group_norm8")
    refusal = r"conv_norm_type = 'group_norm8' is not served.*backend='nemo'\) runs it"
    with pytest.raises(UnsupportedCheckpoint, match=refusal):
        load_recognizer(str(path), device="cpu")
    recognizer = load_recognizer(str(path), device="cpu", backend="nemo")
    heard = Collector()
    stream = recognizer.open(heard)
    stream.feed(noise(30_000))
    stream.finish()
    chunks = Chunks.of(read_nemo(path, strict=False).config, right=0)
    padded = np.pad(noise(30_000), (0, chunks.padded_samples(30_000) - 30_000))
    assert heard.final().tokens == tuple(nemo_stream(model, padded, 0).tokens)
    recognizer.close()


@pytest.mark.parametrize(
    "model, complaint",
    [
        ("tiny-fr", "not a model that is known by name"),
        ("missing.nemo", "there is no such file"),
        ("nobody/no-such-model", "Hugging Face|huggingface"),
    ],
)
def test_a_model_that_is_not_there_says_how_to_get_one(model, complaint, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFound, match=complaint):
        load_recognizer(model, device="cpu")


def test_an_embedded_model_that_was_damaged_is_named(monkeypatch, tmp_path):
    (tmp_path / "tiny-en.nemo").write_bytes(b"damaged")
    monkeypatch.setattr("voice_agent.models.HERE", tmp_path)
    with pytest.raises(CorruptCheckpoint, match="tiny-en.nemo is damaged"):
        load_recognizer("tiny-en", device="cpu")


def test_a_model_in_the_hugging_face_cache_loads_offline(monkeypatch, tmp_path, random_model):
    folder = tmp_path / "models--someone--random"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc" / "random.nemo").write_bytes(random_model[1].read_bytes())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    recognizer = load_recognizer("someone/random", device="cpu")
    assert recognizer.name == "someone/random"
    recognizer.close()


def test_a_hugging_face_directory_loads_by_its_path_and_by_its_id(tmp_path, monkeypatch):
    from tests.engine.test_hf import build

    snapshot = tmp_path / "models--someone--random" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    build("nemotron3_5_asr", snapshot)
    (tmp_path / "models--someone--random" / "refs").mkdir()
    (tmp_path / "models--someone--random" / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("someone/random", str(snapshot)):
        recognizer = load_recognizer(name, device="cpu")
        assert recognizer.right_contexts == (0, 3, 6, 13)
        recognizer.close()
    with pytest.raises(EngineError, match=r"backend 'nemo' reads \.nemo files"):
        load_recognizer(str(snapshot), device="cpu", backend="nemo")


@pytest.mark.parametrize("device", ["tpu", "cuda:0", "gpu"])
def test_a_device_that_is_not_there_is_named(device, random_model):
    import torch

    if device.startswith("cuda") and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(EngineError, match=f"'{device}'"):
        load_recognizer(str(random_model[1]), device=device)


def test_tiny_kn_is_an_indic_conformer():
    recognizer = load_recognizer("tiny-kn", device="cpu")
    assert isinstance(recognizer, IndicConformerRecognizer)
    assert recognizer.name == "tiny-kn" and recognizer.languages == ("kn",)
    recognizer.close()


def test_a_folder_in_indic_conformers_layout_is_known_by_its_files():
    recognizer = load_recognizer(str(HERE / "tiny-kn"), device="cpu")
    assert recognizer.languages == ("kn",)
    recognizer.close()


def test_a_folder_that_lacks_some_of_indic_conformers_files_says_which(tmp_path):
    (tmp_path / "language_masks.json").write_text("{}")
    with pytest.raises(ModelNotFound, match=r"lacks preprocessor\.ts, encoder\.onnx"):
        load_recognizer(str(tmp_path), device="cpu")


def test_a_nemo_file_of_ai4bharats_is_known_by_its_tokenizer(tmp_path):
    from tests.engine.test_indic_nemo_file import write
    from training.kannada_text import train_tokens
    from training.tiny_kn import all_letters

    train_tokens(all_letters() * 2, tmp_path / "tokens.model")
    path = tmp_path / "hybrid.nemo"
    write(path, (tmp_path / "tokens.model").read_bytes(), ("kn", "hi"))
    recognizer = load_recognizer(str(path), device="cpu")
    assert isinstance(recognizer, IndicConformerRecognizer)
    assert sorted(recognizer.languages) == ["hi", "kn"]
    recognizer.close()


def test_ai4bharats_gated_repository_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFound, match="hf download ai4bharat/indic-conformer-600m"):
        load_recognizer("ai4bharat/indic-conformer-600m-multilingual", device="cpu")


def test_options_that_an_indic_conformer_does_not_have_are_named():
    with pytest.raises(ValueError, match="tiny-kn hears whole segments"):
        load_recognizer("tiny-kn", device="cpu", right_context=1)
    with pytest.raises(EngineError, match="neither a backend nor a dtype"):
        load_recognizer("tiny-kn", device="cpu", backend="nemo")


def test_a_language_identifier_is_no_recogniser():
    with pytest.raises(UnsupportedCheckpoint, match="tiny-lid: it tells languages apart"):
        load_recognizer("tiny-lid", device="cpu")


@pytest.mark.parametrize("name", ["tiny-kn", "tiny-lid"])
def test_an_embedded_file_that_was_damaged_is_named(name, monkeypatch, tmp_path):
    shutil.copytree(HERE / "tiny-kn", tmp_path / "tiny-kn")
    for file in (tmp_path / "tiny-kn" / "assets" / "encoder.onnx", tmp_path / "tiny-lid.onnx"):
        file.write_bytes(b"damaged")
    monkeypatch.setattr("voice_agent.models.HERE", tmp_path)
    with pytest.raises(CorruptCheckpoint, match=rf"{name}.*\.onnx is damaged"):
        locate(name)
