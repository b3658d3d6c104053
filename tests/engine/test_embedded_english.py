"""The shipped tiny-en: what it weighs, that others hear the same by it, that it hears people."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import soxr
import torch

from tests.engine.reference import nemo_stream
from tests.engine.test_parity import padded, stream_alone
from tests.support.checkpoints import RIGHTS, quiet_nemo
from tests.support.collect import Collector
from voice_agent.bench.engine_audio import samples_for, windows
from voice_agent.bench.engine_transformers import Transformers, exact
from voice_agent.bench.wer import transcribe_clip
from voice_agent.demo.clip import CLIP_RATE, known_clip
from voice_agent.demo.verdict import HEARD_BOUND, WER_BOUND, heard_share, word_error_rate
from voice_agent.engine import load_recognizer
from voice_agent.engine.checkpoint import read_nemo
from voice_agent.engine.chunks import Chunks
from voice_agent.engine.hf import read_hf
from voice_agent.engine.recognizer import StreamOptions
from voice_agent.engine.runner import EngineRunner
from voice_agent.models import HERE

MODEL = HERE / "tiny-en.nemo"


@pytest.fixture(scope="module")
def clip():
    """Human reading and its text, float32 at 16 kHz."""
    pytest.importorskip("moonshine_voice", reason="the clip needs the extra 'demo'")
    found = known_clip()
    return soxr.resample(found.pcm.astype(np.float32) / 32768, CLIP_RATE, 16_000), found.text


@pytest.fixture(scope="module")
def checkpoint():
    return read_nemo(MODEL)


def test_it_is_as_small_as_it_says(checkpoint):
    assert MODEL.stat().st_size <= 16 * 2**20
    parameters = sum(
        w.numel() for name, w in checkpoint.weights.items() if not name.startswith("preprocessor")
    )
    assert parameters <= 12e6
    assert sorted(checkpoint.config.encoder.right_contexts) == sorted(RIGHTS)


@pytest.mark.parametrize("right", RIGHTS)
def test_nemo_hears_the_same_words(checkpoint, clip, right):
    model = quiet_nemo(prompts=False).restore_from(str(MODEL), map_location="cpu").eval()
    audio = clip[0][: 6 * 16_000]
    expected = nemo_stream(model, padded(audio, Chunks.of(checkpoint.config, right)), right)
    assert stream_alone(EngineRunner(checkpoint, slots=3), audio, right) == expected.tokens
    assert len(expected.tokens) > 8


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    """The weights in transformers' own class, and the Hugging Face directory that it writes."""
    pytest.importorskip("transformers", reason="the reference needs transformers")
    folder = tmp_path_factory.mktemp("exported")
    system = Transformers(checkpoint, torch.device("cpu"), torch.float32)
    system.model.save_pretrained(folder)
    processor = {"supported_num_lookahead_tokens": checkpoint.config.encoder.right_contexts}
    (folder / "processor_config.json").write_text(json.dumps(processor))
    pieces = [surface.replace(" ", "\u2581") for surface in checkpoint.tokenizer.surfaces]
    vocabulary = {piece: token for token, piece in enumerate(pieces)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    return system, folder


@pytest.mark.parametrize("right", RIGHTS)
def test_transformers_hears_the_same_words_and_its_directory_is_the_same_model(
    checkpoint, clip, exported, right
):
    """Predictor and joint have to be of one width for that."""
    system, folder = exported
    audio, chunks = clip[0][: 4 * 16_000], Chunks.of(checkpoint.config, right)
    steps = chunks.total(len(audio))
    silence = np.zeros(samples_for(chunks, steps) - len(audio), np.float32)
    fed = windows(np.concatenate([audio, silence])[None], chunks, steps)
    (expected,) = system.stream(iter(fed), right).tokens
    for ours in (exact(checkpoint), read_hf(folder)):
        assert stream_alone(EngineRunner(ours, slots=3), audio, right) == expected
    assert len(expected) > 8


def test_it_streams_by_beam_search_unless_greedily_is_asked_for(clip):
    recognizer = load_recognizer("tiny-en", device="cpu")
    heard = {}
    for chosen in (None, "beam", "stream"):
        options = StreamOptions(right_context=0, final_pass=chosen)
        heard[chosen] = transcribe_clip(recognizer, clip[0][: 8 * 16_000], options)
    recognizer.close()
    assert recognizer.final_pass == "beam"
    assert heard[None].tokens == heard["beam"].tokens != heard["stream"].tokens != ()
    by_path = load_recognizer(str(MODEL), device="cpu")
    by_path.close()
    assert by_path.final_pass == "beam"


def test_what_it_tells_late_it_tells_where_the_audio_ends_too(checkpoint, clip):
    hasty = replace(checkpoint, config=replace(checkpoint.config, tail_frames=0))
    more = 0
    for seconds in np.arange(2.0, 6.0, 0.4):
        audio = clip[0][: round(16_000 * seconds)]
        early, late = (
            stream_alone(EngineRunner(c, slots=3), audio, 0) for c in (hasty, checkpoint)
        )
        assert late[: len(early)] == early
        more += len(late) - len(early)
    assert more > 3
    for right in RIGHTS:
        with_, without = (Chunks.of(c.config, right) for c in (checkpoint, hasty))
        assert with_.total(0) == without.total(0) == 0
        frames = (without.total(50_000) * without.frames, with_.total(50_000) * with_.frames)
        assert frames[0] <= frames[1] <= frames[0] + max(with_.tail, with_.frames)
        assert right or frames[1] == frames[0] + checkpoint.config.tail_frames


@pytest.mark.parametrize("right", [0, 13])
def test_it_hears_a_person(clip, right):
    """The bound is the demo's; what it hears of many people, its card says."""
    audio, text = clip
    recognizer = load_recognizer("tiny-en", device="cpu")
    heard = Collector()
    stream = recognizer.open(heard, options=StreamOptions(right_context=right))
    stream.feed(audio)
    stream.finish()
    final = heard.final()
    recognizer.close()
    assert word_error_rate(text, final.text) < WER_BOUND, final.text
    assert heard_share(text, final.text) >= HEARD_BOUND, final.text
