"""What a user is told when IndicConformer's files are missing, damaged or gated."""

from __future__ import annotations

import json
import shutil

import httpx
import pytest

from training import indic_miniature
from voice_agent.engine.errors import (
    CorruptCheckpoint,
    EngineError,
    ModelNotFound,
    UnsupportedCheckpoint,
)
from voice_agent.engine.indic.backend import OnnxBackend, providers
from voice_agent.engine.indic.layout import HUB_ID, find, read
from voice_agent.engine.indic_conformer import load_indic_conformer


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("indic")
    indic_miniature.write(indic_miniature.build(), path)
    return path


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "model")


def test_the_tables_of_22_languages_are_read(folder):
    layout = read("mini", folder)
    assert len(layout.languages) == 22
    assert layout.sos == 5632 and layout.max_symbols == 10 and layout.state_shape == (2, 24)
    assert {len(p) for p in layout.vocab.values()} == {256}
    assert layout.columns["as"].tolist() == [*range(256), 5632]
    assert layout.columns["ur"][0] == 21 * 256


def test_the_assets_folder_may_be_given_itself(folder):
    assert read("mini", folder / "assets").sos == 5632


@pytest.mark.parametrize("file", ["encoder.onnx", "preprocessor.ts", "language_masks.json"])
def test_a_missing_file_is_named_with_what_to_do(folder, file):
    (folder / "assets" / file).unlink()
    with pytest.raises(ModelNotFound, match=rf"lacks {file}.*--model"):
        read("mini", folder)


def test_ctc_does_not_need_the_transducers_files_and_rnnt_does(folder):
    (folder / "assets" / "joint_post_net_kn.onnx").unlink()
    read("mini", folder, "ctc")
    with pytest.raises(ModelNotFound, match=r"joint_post_net_kn\.onnx"):
        read("mini", folder, "rnnt")


def test_a_missing_weight_file_is_an_error_about_files(folder):
    next((folder / "assets").glob("onnx__MatMul_*")).unlink()
    with pytest.raises(CorruptCheckpoint, match="weight file beside it"):
        OnnxBackend(read("mini", folder), device="cpu")


def test_a_truncated_preprocessor_is_named(folder):
    path = folder / "assets" / "preprocessor.ts"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CorruptCheckpoint, match=r"preprocessor\.ts"):
        OnnxBackend(read("mini", folder), device="cpu")


def test_a_table_that_is_not_json_is_named(folder):
    (folder / "assets" / "vocab.json").write_text("{")
    with pytest.raises(CorruptCheckpoint, match=r"vocab\.json is not JSON"):
        read("mini", folder)


def test_tables_that_do_not_fit_each_other_are_refused(folder):
    path = folder / "assets" / "language_masks.json"
    masks = json.loads(path.read_text())
    masks["kn"][0] = True
    path.write_text(json.dumps(masks))
    with pytest.raises(UnsupportedCheckpoint, match="'kn' has 256 pieces"):
        read("mini", folder)


def test_an_unknown_path_names_the_choices():
    with pytest.raises(ModelNotFound, match=r"--model.*tiny-kn"):
        find("/no/such/folder")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ("GatedRepoError", "accept its licence at .*HF_TOKEN.*--model"),
        ("RepositoryNotFoundError", "no such repository"),
        ("LocalEntryNotFoundError", "cannot be reached.*--model"),
    ],
)
def test_the_hubs_refusals_say_what_to_do(monkeypatch, error, says):
    import huggingface_hub
    from huggingface_hub import errors

    request = httpx.Request("GET", "https://huggingface.co")

    def refuse(*args, local_files_only=False, **kwargs):
        if local_files_only:
            raise errors.LocalEntryNotFoundError("not cached")
        kind = getattr(errors, error)
        if issubclass(kind, errors.HfHubHTTPError):
            raise kind("no", response=httpx.Response(403, request=request))
        raise kind("no")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ModelNotFound, match=f"(?s){says}"):
        find(HUB_ID)


def test_an_absent_provider_says_what_to_install():
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(EngineError, match="pip install onnxruntime-gpu"):
        providers("cuda")
    with pytest.raises(EngineError, match="unknown"):
        providers("npu")


def test_an_unknown_language_or_decoding_is_refused(folder):
    with pytest.raises(ValueError, match="not 'en'"):
        load_indic_conformer(str(folder), device="cpu", language="en")
    with pytest.raises(ValueError, match="use ctc or rnnt"):
        load_indic_conformer(str(folder), decoding="beam")
