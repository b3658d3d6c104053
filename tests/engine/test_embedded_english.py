"""The shipped tiny-en: what it weighs, that NeMo opens it, and that it hears people."""

from __future__ import annotations

import numpy as np
import pytest
import soxr

from tests.engine.reference import nemo_stream
from tests.engine.test_parity import padded, stream_alone
from tests.support.checkpoints import RIGHTS, quiet_nemo
from tests.support.collect import Collector
from voice_agent.demo.clip import CLIP_RATE, known_clip
from voice_agent.demo.verdict import HEARD_BOUND, WER_BOUND, heard_share, word_error_rate
from voice_agent.engine import load_recognizer
from voice_agent.engine.checkpoint import read_nemo
from voice_agent.engine.chunks import Chunks
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
