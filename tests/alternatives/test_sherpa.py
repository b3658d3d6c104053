"""sherpa-onnx on this project's own tiny-en, exported as sherpa-onnx's script exports Nemotron."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.support.collect import Collector
from voice_agent.alternatives import Choice, load
from voice_agent.bench.corpus import Clip
from voice_agent.engine.errors import ModelNotFound

RIGHT = 0


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """Encoder, decoder and joiner of tiny-en with the metadata that sherpa-onnx reads."""
    pytest.importorskip("sherpa_onnx")
    onnx = pytest.importorskip("onnx")
    models = pytest.importorskip(
        "nemo.collections.asr.models", reason="the export needs the extra 'nemo'"
    )
    from voice_agent.models import locate

    folder = tmp_path_factory.mktemp("export")
    path = str(locate("tiny-en").path)
    model = models.EncDecRNNTBPEModel.restore_from(path, map_location="cpu")
    model.eval()
    encoder = model.encoder
    encoder.set_default_att_context_size([70, RIGHT])
    model.set_export_config({"cache_support": True})
    before = Path.cwd()
    os.chdir(folder)  # NeMo's exporter leaves files beside itself
    try:
        encoder.export("encoder.onnx")
        model.decoder.export("decoder.onnx")
        model.joint.export("joiner.onnx")
    finally:
        os.chdir(before)
    vocabulary = model.joint.vocabulary
    lines = [f"{piece} {i}" for i, piece in enumerate([*vocabulary, "<blk>"])]
    (folder / "tokens.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    streaming = encoder.streaming_cfg
    graph = onnx.load(folder / "encoder.onnx")
    meta = {
        "vocab_size": model.decoder.vocab_size,
        "window_size": streaming.chunk_size[1] + streaming.pre_encode_cache_size[1],
        "chunk_size_ms": 80 * (RIGHT + 1), "chunk_shift": streaming.chunk_size[1],
        "normalize_type": "", "cache_last_channel_dim1": len(encoder.layers),
        "cache_last_channel_dim2": streaming.last_channel_cache_size,
        "cache_last_channel_dim3": encoder.d_model, "cache_last_time_dim1": len(encoder.layers),
        "cache_last_time_dim2": encoder.d_model,
        "cache_last_time_dim3": encoder.conv_context_size[0],
        "pred_rnn_layers": model.decoder.pred_rnn_layers,
        "pred_hidden": model.decoder.pred_hidden, "subsampling_factor": 8,
        "feat_dim": model.cfg.preprocessor.features,
        "model_type": "EncDecHybridRNNTCTCBPEModel", "version": "1", "model_author": "NeMo",
    }  # fmt: skip
    for key, value in meta.items():
        graph.metadata_props.add(key=key, value=str(value))
    onnx.save(graph, folder / "encoder.onnx")
    return folder


@pytest.fixture(scope="module")
def reader() -> np.ndarray:
    """Four seconds of a man reading: float32, 16 kHz. Of noise a trained model writes nothing."""
    wheel = pytest.importorskip("moonshine_voice", reason="its clip needs the extra 'demo'")
    file = Path(wheel.__path__[0]) / "assets" / "two_cities.wav"
    return Clip(file.name, file, "", "en", from_s=0.7, to_s=4.9).pcm()


def test_it_streams_partials_that_the_final_goes_on_from(exported, reader):
    recognizer = load("sherpa-onnx", Choice(model=str(exported), device="cpu"))
    got, came = Collector(), threading.Event()

    def heard(event):
        got(event)
        came.set()

    stream = recognizer.open(heard)
    stream.feed(reader)
    assert came.wait(30)
    stream.finish()
    final = got.final()
    assert len(final.text) >= len(got.partials[0].text) > 0
    assert final.text.startswith(got.partials[0].text)
    stream.feed(reader[:100])  # far less than a chunk
    stream.finish()
    assert got.final().audio_s == pytest.approx(100 / 16_000)
    recognizer.close()


def test_a_folder_that_lacks_a_file_is_refused_by_the_files_name(exported, tmp_path):
    for name in ("encoder.onnx", "decoder.onnx", "joiner.onnx"):
        (tmp_path / name).symlink_to(exported / name)
    with pytest.raises(ModelNotFound, match=r"tokens\.txt"):
        load("sherpa-onnx", Choice(model=str(tmp_path)))
