"""sherpa-onnx on this project's own tiny-en, exported as sherpa-onnx's script exports Nemotron."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from tests.support.collect import Collector
from voice_agent.alternatives import Choice, load
from voice_agent.bench.corpus import Clip
from voice_agent.engine.errors import ModelNotFound


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """Encoder, decoder and joiner of tiny-en with the metadata that sherpa-onnx reads."""
    pytest.importorskip("sherpa_onnx")
    pytest.importorskip("onnx")
    models = pytest.importorskip(
        "nemo.collections.asr.models", reason="the export needs the extra 'nemo'"
    )
    from voice_agent.bench.engine_sherpa import export
    from voice_agent.models import locate

    folder = tmp_path_factory.mktemp("export")
    path = str(locate("tiny-en").path)
    model = models.EncDecRNNTBPEModel.restore_from(path, map_location="cpu")
    export(model.eval(), folder, left=70, right=0)
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
