"""Each system that computes in this process: the library's own loading and decoding.

Weights are tiny and random (`checkpoints.py`), except Whisper tiny.en for faster-whisper and this
project's tiny-en for sherpa-onnx, which are real.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tests.alternatives import checkpoints
from tests.support.collect import Collector
from voice_agent.alternatives import Choice, load
from voice_agent.engine.errors import CorruptCheckpoint, EngineError
from voice_agent.engine.recognizer import StreamOptions

KN, EN = StreamOptions(language="kn"), StreamOptions(language="en")


def kannada_mms(folder):
    return checkpoints.wav2vec2(folder, languages=("kan", "eng"))


def second_generation(folder):
    return checkpoints.nemotron(folder, multilingual=True)


CASES = {
    "openai-whisper": ("whisper", checkpoints.openai_whisper, EN),
    "insanely-fast-whisper": ("transformers", checkpoints.whisper, KN),
    "indic-whisper": ("transformers", checkpoints.whisper, KN),
    "mms": ("transformers", kannada_mms, KN),
    "vakyansh": ("transformers", checkpoints.wav2vec2, StreamOptions()),
    "seamless-m4t": ("transformers", checkpoints.seamless, KN),
    "whisper.cpp": ("pywhispercpp", checkpoints.ggml_whisper, EN),
    "voxtral": ("mistral_common", checkpoints.voxtral, EN),
    "nemotron-transformers": ("transformers", checkpoints.nemotron, EN),
    "nemotron-transformers 3.5": ("transformers", second_generation, StreamOptions()),
}


@pytest.fixture(scope="module", params=CASES)
def loaded(request, tmp_path_factory):
    """A system's recogniser and a stream's options for it."""
    package, build, options = CASES[request.param]
    pytest.importorskip(package)
    if build is checkpoints.ggml_whisper:
        pytest.importorskip("whisper", reason="the ggml file is made from OpenAI's classes")
    import torch

    torch.set_num_threads(1)
    model = build(tmp_path_factory.mktemp("weights"))
    recognizer = load(request.param.split()[0], Choice(model=str(model), device="cpu"))
    yield recognizer, options
    recognizer.close()


def say(recognizer, pcm, options, *, piece=4_000):
    got = Collector()
    stream = recognizer.open(got, options=options)
    for start in range(0, pcm.size, piece):
        stream.feed(pcm[start : start + piece])
    stream.finish()
    final = got.final()
    stream.close()
    return final, got


def test_it_loads_and_decodes(loaded, noise):
    recognizer, options = loaded
    final, _ = say(recognizer, noise, options)
    assert final.text  # random weights babble on noise; saying nothing means that nothing ran
    assert final.audio_s == pytest.approx(2.0)
    assert final.language == options.language or options.language is None


def test_the_same_audio_gives_the_same_words_however_it_is_cut(loaded, noise):
    recognizer, options = loaded
    once, _ = say(recognizer, noise, options, piece=noise.size)
    pieces, _ = say(recognizer, noise, options, piece=1_777)
    assert pieces.text == once.text


@pytest.mark.parametrize("samples", [1, 400, 3_000])
def test_a_segment_of_any_length_has_its_final(loaded, noise, samples):
    recognizer, options = loaded
    final, _ = say(recognizer, noise[:samples], options)
    assert final.audio_s == pytest.approx(samples / 16_000)


def test_a_cancelled_segment_leaves_the_next_one_untouched(loaded, noise):
    recognizer, options = loaded
    alone, _ = say(recognizer, noise[:16_000], options)
    got = Collector()
    stream = recognizer.open(got, options=options)
    stream.feed(noise[::-1].copy())
    stream.cancel()
    stream.feed(noise[:16_000])
    stream.finish()
    assert got.final().text == alone.text
    assert len(got.finals) == 1
    stream.close()


def test_a_language_that_it_cannot_write_is_refused(loaded):
    recognizer, _ = loaded
    if not recognizer.languages:
        pytest.skip("its checkpoint does not say what it writes")
    with pytest.raises(ValueError, match="xx"):
        recognizer.open(Collector(), options=StreamOptions(language="xx"))


def test_mms_hears_with_the_adapter_of_the_language(tmp_path, noise):
    pytest.importorskip("transformers")
    model = str(kannada_mms(tmp_path))
    heard = {}
    for language in (None, "kn", "kan", "en"):
        recognizer = load("mms", Choice(model=model, device="cpu", language=language))
        final, _ = say(recognizer, noise, StreamOptions())
        heard[language] = (recognizer.name, recognizer.languages, final.text)
        recognizer.close()
    assert heard[None] == heard["kn"]  # Kannada, where nobody says
    assert [name for name, _, _ in heard.values()] == ["mms kan", "mms kan", "mms kan", "mms eng"]
    assert heard["kan"][2] == heard["kn"][2] != heard["en"][2]
    with pytest.raises(CorruptCheckpoint, match="tam"):
        load("mms", Choice(model=model, device="cpu", language="ta"))


def test_insanely_fast_whisper_attends_by_sdpa_and_hears_more_than_a_window(
    tmp_path, noise, monkeypatch
):
    transformers = pytest.importorskip("transformers")
    built, build = [], transformers.pipeline
    monkeypatch.setattr(
        transformers, "pipeline", lambda *a, **k: built.append(build(*a, **k)) or built[-1]
    )
    model = str(checkpoints.whisper(tmp_path))
    recognizer = load("insanely-fast-whisper", Choice(model=model, device="cpu"))
    long = np.tile(noise, 16)  # 32 s
    final, _ = say(recognizer, long, KN, piece=long.size)
    recognizer.close()
    assert built[0].model.config._attn_implementation == "sdpa"
    assert final.text
    assert final.audio_s == pytest.approx(32.0)


def test_openai_whisper_needs_no_torchaudio(tmp_path, noise, monkeypatch):
    pytest.importorskip("whisper")
    monkeypatch.setitem(sys.modules, "torchaudio", None)  # as Python does for "not installed"
    model = str(checkpoints.openai_whisper(tmp_path))
    recognizer = load("openai-whisper", Choice(model=model))  # the device is found by itself
    final, _ = say(recognizer, noise, EN)
    recognizer.close()
    assert final.text


@pytest.mark.parametrize("right", [0, 13])
def test_nemotron_in_transformers_streams_at_the_look_ahead_that_is_chosen(right, tmp_path, noise):
    pytest.importorskip("transformers")
    model = checkpoints.nemotron(tmp_path)
    recognizer = load("nemotron-transformers", Choice(model=str(model), device="cpu"))
    options = StreamOptions(language="en", right_context=right)
    final, got = say(recognizer, noise, options)
    recognizer.close()
    assert final.text.startswith(got.partials[0].text)
    assert len(got.partials) > 1


def test_nemotron_in_transformers_hears_what_one_pass_over_the_file_hears(tmp_path, noise):
    """Our chunking of the audio loses nothing: transformers' own offline pass agrees."""
    transformers = pytest.importorskip("transformers")
    import torch

    model = checkpoints.nemotron(tmp_path)
    processor = transformers.AutoProcessor.from_pretrained(model)
    processor.set_num_lookahead_tokens(0)
    offline = transformers.NemotronAsrStreamingForRNNT.from_pretrained(model).eval()
    inputs = processor(noise, sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        out = offline.generate(**inputs)
    whole = processor.decode(out.sequences[0], skip_special_tokens=True).strip()

    recognizer = load("nemotron-transformers", Choice(model=str(model), device="cpu"))
    final, _ = say(recognizer, noise, StreamOptions(right_context=0))
    recognizer.close()
    assert whole
    assert final.text.startswith(whole)  # and then what the flushed silence adds


# Real weights


@pytest.fixture(scope="module")
def faster_whisper(tiny_whisper):
    pytest.importorskip("faster_whisper")
    recognizer = load("faster-whisper", Choice(model=str(tiny_whisper), device="cpu"))
    yield recognizer
    recognizer.close()


def test_faster_whisper_hears_a_reader(faster_whisper, speech):
    pcm, words = speech
    final, got = say(faster_whisper, pcm, EN)
    heard = "".join(c for c in final.text.lower() if c.isalpha() or c == " ").split()
    wrong = sum(a != b for a, b in zip(heard, words.split(), strict=False))
    assert abs(len(heard) - len(words.split())) + wrong <= 2, final.text
    assert all(final.text.lower().startswith(p.text.lower()[:5]) for p in got.partials)
    assert faster_whisper.languages == ("en",)


def test_faster_whisper_says_nothing_where_nothing_is_said(faster_whisper):
    final, _ = say(faster_whisper, np.zeros(16_000, np.float32), EN)
    assert len(final.text.split()) <= 2  # Whisper makes words up on silence, few of them


def test_asking_faster_whisper_for_cuda_names_the_wheel_that_lacks_it(tiny_whisper):
    ctranslate2 = pytest.importorskip("ctranslate2")
    if ctranslate2.get_cuda_device_count():
        pytest.skip("this machine's CTranslate2 has CUDA")
    with pytest.raises(EngineError, match="aarch64.*-DWITH_CUDA=ON"):
        load("faster-whisper", Choice(model=str(tiny_whisper), device="cuda"))


def test_the_aarch64_wheel_without_cuda_is_told_when_the_gpu_would_have_been_taken(
    tiny_whisper, monkeypatch
):
    ctranslate2 = pytest.importorskip("ctranslate2")
    from loguru import logger

    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: 0)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    said = []
    sink = logger.add(lambda message: said.append(str(message)), level="WARNING")
    try:
        load("faster-whisper", Choice(model=str(tiny_whisper))).close()
    finally:
        logger.remove(sink)
    assert any("aarch64" in line for line in said)


@pytest.mark.parametrize(
    ("name", "package"), [("whisper.cpp", "pywhispercpp"), ("sherpa-onnx", "sherpa_onnx")]
)
def test_a_build_for_cpus_does_not_pretend_to_use_a_gpu(name, package, tmp_path):
    library = pytest.importorskip(package)
    if "+cuda" in getattr(library, "__version__", ""):
        pytest.skip("this build has CUDA")
    (tmp_path / "ggml.bin").touch()
    model = str(tmp_path / "ggml.bin" if name == "whisper.cpp" else tmp_path)
    with pytest.raises(EngineError, match="build for CPUs"):
        load(name, Choice(model=model, device="cuda"))


@pytest.mark.parametrize("cut", ["garbage", "truncated"])
def test_a_ggml_file_that_cannot_be_read_is_refused_before_it_crashes(cut, tmp_path):
    pytest.importorskip("pywhispercpp")
    pytest.importorskip("whisper")
    file = checkpoints.ggml_whisper(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if cut == "truncated" else b"RIFF" + whole[4:])
    with pytest.raises(CorruptCheckpoint):
        load("whisper.cpp", Choice(model=str(file), device="cpu"))
