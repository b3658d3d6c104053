from __future__ import annotations

import io
import tarfile

import pytest
import torch
import yaml

from voice_agent.engine import CorruptCheckpoint, ModelNotFound, UnsupportedCheckpoint
from voice_agent.engine.checkpoint import CONFIG_NAME, WEIGHTS_NAME, read_nemo
from voice_agent.engine.runner import EngineRunner


@pytest.fixture
def rewrite(random_model, tmp_path):
    """Copy the random checkpoint with members replaced, added (bytes) or removed (None)."""

    def build(changes: dict[str, bytes | None], mode: str = "w") -> object:
        path = tmp_path / "changed.nemo"
        with tarfile.open(random_model[1]) as source, tarfile.open(path, mode) as target:
            members = {m.name.removeprefix("./"): m for m in source.getmembers() if m.isfile()}
            content = {n: source.extractfile(m).read() for n, m in members.items()} | changes
            for name, data in content.items():
                if data is not None:
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    target.addfile(info, io.BytesIO(data))
        return path

    return build


@pytest.fixture
def config(random_model):
    with tarfile.open(random_model[1]) as tar:
        name = next(m for m in tar.getnames() if m.endswith(CONFIG_NAME))
        return yaml.safe_load(tar.extractfile(name).read())


def test_a_gzipped_checkpoint_reads_like_a_plain_one(rewrite, random_checkpoint):
    checkpoint = read_nemo(rewrite({}, "w:gz"))
    assert checkpoint.config == random_checkpoint.config
    assert checkpoint.weights.keys() == random_checkpoint.weights.keys()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModelNotFound, match=r"nowhere\.nemo: there is no such file"):
        read_nemo(tmp_path / "nowhere.nemo")


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    path = tmp_path / "text.nemo"
    path.write_text("not a tar at all")
    with pytest.raises(CorruptCheckpoint, match="not a readable .nemo"):
        read_nemo(path)


def test_a_truncated_file_is_refused(random_model, tmp_path):
    path = tmp_path / "short.nemo"
    path.write_bytes(random_model[1].read_bytes()[:200_000])
    with pytest.raises(CorruptCheckpoint):
        read_nemo(path)


@pytest.mark.parametrize("member", [CONFIG_NAME, WEIGHTS_NAME])
def test_a_missing_member_is_named(rewrite, member):
    with pytest.raises(CorruptCheckpoint, match=f"{member} is missing"):
        read_nemo(rewrite({member: None}))


def test_a_pickle_that_would_run_code_is_refused(rewrite, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "boom"), "w"))

    data = io.BytesIO()
    torch.save({"x": Bomb()}, data)
    with pytest.raises(CorruptCheckpoint, match="something other than tensors"):
        read_nemo(rewrite({WEIGHTS_NAME: data.getvalue()}))
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("name", ["../outside", "/etc/absolute"])
def test_a_member_outside_the_archive_is_refused(rewrite, name):
    with pytest.raises(CorruptCheckpoint, match="points outside"):
        read_nemo(rewrite({name: b""}))


@pytest.mark.parametrize(
    "section, key, value, complaint",
    [
        ("encoder", "att_context_style", "regular", "encoder.att_context_style = 'regular'"),
        ("encoder", "new_trick", 7, "unknown key encoder.new_trick = 7"),
        ("encoder", "att_context_size", [[-1, -1]], "unlimited context"),
        ("preprocessor", "normalize", "per_feature", "preprocessor.normalize = 'per_feature'"),
        ("joint", "num_extra_outputs", 5, "joint.num_extra_outputs = 5"),
        ("tokenizer", "type", "agg", "tokenizer.type = 'agg'"),
        ("model_defaults", "final_pass", "oracle", "model_defaults.final_pass is 'oracle'"),
    ],
)
def test_a_shape_that_we_do_not_serve_is_named(rewrite, config, section, key, value, complaint):
    config.setdefault(section, {})[key] = value
    with pytest.raises(UnsupportedCheckpoint) as caught:
        read_nemo(rewrite({CONFIG_NAME: yaml.safe_dump(config).encode()}))
    assert complaint in str(caught.value)


def test_weights_that_do_not_fit_the_config_are_refused(rewrite, config):
    config["encoder"]["n_heads"] = 8
    checkpoint = read_nemo(rewrite({CONFIG_NAME: yaml.safe_dump(config).encode()}))
    with pytest.raises(CorruptCheckpoint, match="do not fit its config"):
        EngineRunner(checkpoint, slots=1)


def test_a_missing_weight_is_named(rewrite, random_checkpoint):
    weights = dict(random_checkpoint.weights)
    del weights["encoder.layers.1.norm_out.weight"]
    data = io.BytesIO()
    torch.save(weights, data)
    checkpoint = read_nemo(rewrite({WEIGHTS_NAME: data.getvalue()}))
    with pytest.raises(CorruptCheckpoint, match="norm_out.weight"):
        EngineRunner(checkpoint, slots=1)
