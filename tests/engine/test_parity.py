"""Our engine beside NeMo's `conformer_stream_step`, fp32, on the CPU."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from tests.engine.reference import nemo_stream
from tests.support.checkpoints import RIGHTS, random_nemo
from tests.support.collect import Collector
from voice_agent.engine.checkpoint import read_nemo
from voice_agent.engine.chunks import Chunks
from voice_agent.engine.nemotron import NemotronRecognizer
from voice_agent.engine.recognizer import StreamOptions
from voice_agent.engine.runner import EngineRunner

LENGTHS_MS = (10, 25, 79, 80, 81, 500, 1117, 4000)


@pytest.fixture(scope="module")
def recognizer(random_checkpoint):
    recognizer = NemotronRecognizer(
        random_checkpoint, EngineRunner(random_checkpoint, slots=8), slots=8
    )
    yield recognizer
    recognizer.close()


class Tapped(EngineRunner):
    """Keeps what went through: features and encoder frames of every step."""

    def __init__(self, *args, **kwargs) -> None:
        self.mel: list[torch.Tensor] = []
        self.encoded: list[torch.Tensor] = []
        super().__init__(*args, **kwargs)
        self.mel.clear()  # of the step that tries the weights out
        self.encoded.clear()

    def encode(self, mel, slots, pos, right):
        encoded = super().encode(mel, slots, pos, right)
        self.mel.append(mel[0].clone())
        self.encoded.append(encoded[0].clone())
        return encoded


def stream_alone(
    runner: EngineRunner,
    audio: np.ndarray,
    right: int,
    slot: int = 1,
    language: str | None = None,
) -> list[int]:
    """All chunks of one segment through the runner, one after another."""
    chunks = Chunks.of(runner.config, right)
    runner.reset(slot, language)
    tokens: list[int] = []
    for chunk in range(chunks.total(len(audio))):
        start, stop = chunks.window(chunk)
        window = np.zeros((1, stop - start), dtype=np.float32)
        first, last = max(start, 0), min(stop, len(audio))
        if first < last:
            window[0, first - start : last - start] = audio[first:last]
        tokens += runner.step([slot], [chunk * chunks.frames], window, right).tokens_of(0)
    return tokens


def padded(audio: np.ndarray, chunks: Chunks) -> np.ndarray:
    out = np.zeros(chunks.padded_samples(len(audio)), dtype=np.float32)
    kept = min(len(out), len(audio))
    out[:kept] = audio[:kept]
    return out


def assert_equal_to_nemo(model, checkpoint, audio: np.ndarray, right: int) -> list[int]:
    chunks = Chunks.of(checkpoint.config, right)
    expected = nemo_stream(model, padded(audio, chunks), right)
    runner = Tapped(checkpoint, slots=3)
    tokens = stream_alone(runner, audio, right)
    before = checkpoint.config.encoder.subsampling_factor - 1  # masked frames of the first chunk
    torch.testing.assert_close(torch.cat(runner.mel)[before:], expected.mel, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cat(runner.encoded), expected.encoded, atol=1e-4, rtol=0)
    assert tokens == expected.tokens
    return tokens


@pytest.mark.parametrize("right", RIGHTS)
@pytest.mark.parametrize("length_ms", LENGTHS_MS)
def test_features_encoder_and_tokens_equal_nemo(
    random_model, random_checkpoint, noise, right, length_ms
):
    audio = noise(length_ms * 16)
    assert_equal_to_nemo(random_model[0], random_checkpoint, audio, right)


@pytest.mark.parametrize("right", RIGHTS)
def test_half_a_minute_wraps_the_ring_and_still_equals_nemo(
    random_model, random_checkpoint, noise, right
):
    tokens = assert_equal_to_nemo(random_model[0], random_checkpoint, noise(30 * 16000), right)
    assert len(set(tokens)) > 3, "a model that says one thing proves little"


@pytest.mark.parametrize(
    "config",
    [
        {"mels": 80, "use_bias": True, "xscaling": True, "conv_norm_type": "batch_norm"},
        {
            "d_model": 48,
            "n_heads": 2,
            "conv_kernel_size": 5,
            "att_context_size": [[28, 6], [28, 0]],
        },
    ],
    ids=["biases, scaling, batch norm", "other contexts and kernel"],
)
def test_every_size_is_read_from_the_checkpoint(tmp_path, noise, config):
    model, path = random_nemo(tmp_path, seed=3, **config)
    checkpoint = read_nemo(path)
    for right in checkpoint.config.encoder.right_contexts:
        assert_equal_to_nemo(model, checkpoint, noise(40000, seed=2), right)


@pytest.mark.parametrize("right", RIGHTS)
def test_any_split_of_the_pcm_gives_the_same_tokens(
    random_model, random_checkpoint, recognizer, noise, right
):
    audio = noise(45_678, seed=5)
    chunks = Chunks.of(random_checkpoint.config, right)
    expected = nemo_stream(random_model[0], padded(audio, chunks), right).tokens
    rng = np.random.default_rng(right)
    for pieces in ([len(audio)], rng.integers(1, 999, 400), [1280] * 40, [7] * 7000):
        cuts = np.cumsum(pieces)
        heard = Collector()
        stream = recognizer.open(heard, options=StreamOptions(right_context=right))
        for piece in np.split(audio, cuts[cuts < len(audio)]):
            stream.feed(piece)
        stream.finish()
        assert heard.final().tokens == tuple(expected)
        stream.close()


def test_streams_of_all_right_contexts_share_one_engine(
    random_model, random_checkpoint, recognizer, noise
):
    while recognizer.stats.open_streams:  # the engine's thread takes the slots of closed ones back
        time.sleep(0.001)
    audio = {seed: noise(20_000 + 3_000 * seed, seed=seed) for seed in range(2)}
    heard = {(seed, right): Collector() for seed in audio for right in RIGHTS}
    streams = {
        key: recognizer.open(collector, options=StreamOptions(right_context=key[1]))
        for key, collector in heard.items()
    }
    for start in range(0, 23_000, 500):
        for (seed, _), stream in streams.items():
            stream.feed(audio[seed][start : start + 500])
    for stream in streams.values():
        stream.finish()
    for (seed, right), collector in heard.items():
        chunks = Chunks.of(random_checkpoint.config, right)
        expected = nemo_stream(random_model[0], padded(audio[seed], chunks), right)
        final = collector.final()
        assert final.tokens == tuple(expected.tokens)
        partials = [p.tokens for p in collector.partials]
        assert all(final.tokens[: len(p)] == p for p in partials), "partials only grow"


def test_a_slot_is_as_new_after_reset(random_checkpoint, noise):
    runner = EngineRunner(random_checkpoint, slots=2)
    fresh = stream_alone(runner, noise(20_000), right=1, slot=0)
    stream_alone(runner, 5 * noise(50_000, seed=9), right=1, slot=1)
    assert stream_alone(runner, noise(20_000), right=1, slot=1) == fresh
    assert fresh


def test_the_second_generation_equals_nemo_under_every_prompt(tmp_path, noise):
    prompts = {"en-US": 0, "hi-IN": 3, "auto": 5}
    contexts = [[56, 13], [56, 6], [56, 3], [56, 0]]
    model, path = random_nemo(tmp_path, seed=6, prompts=prompts, att_context_size=contexts)
    checkpoint = read_nemo(path)
    assert checkpoint.config.encoder.right_contexts == (0, 3, 6, 13)
    said = set()
    for language in prompts:
        model.set_inference_prompt(language)
        for right in (0, 3):
            chunks = Chunks.of(checkpoint.config, right)
            expected = nemo_stream(model, padded(noise(40_000), chunks), right).tokens
            runner = EngineRunner(checkpoint, slots=3)
            assert stream_alone(runner, noise(40_000), right, language=language) == expected
            said.add(tuple(expected))
    assert len(said) > 3, "else the prompt does nothing"
