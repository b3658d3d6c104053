"""Beam search: the likeliest text over all its ways, against counting every one of them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from tests.engine.fakes import windows_of
from tests.support.collect import Collector
from voice_agent.engine import beam
from voice_agent.engine.beam import BeamSearch
from voice_agent.engine.boosting import PhraseBoost
from voice_agent.engine.chunks import Chunks
from voice_agent.engine.config import DecoderConfig
from voice_agent.engine.decoder import Decoder
from voice_agent.engine.recognizer import StreamOptions
from voice_agent.engine.runner import EngineRunner

TOKENS, BLANK, FRAMES, SYMBOLS = 3, 3, 2, 2


@pytest.fixture
def decoder() -> Decoder:
    """A network of three tokens."""
    torch.manual_seed(7)
    hidden = 4
    rnn = "decoder.prediction.dec_rnn.lstm."
    shapes = {
        "decoder.prediction.embed.weight": (TOKENS + 1, hidden),
        f"{rnn}weight_ih_l0": (4 * hidden, hidden),
        f"{rnn}weight_hh_l0": (4 * hidden, hidden),
        f"{rnn}bias_ih_l0": (4 * hidden,),
        f"{rnn}bias_hh_l0": (4 * hidden,),
        "joint.pred.weight": (hidden, hidden),
        "joint.pred.bias": (hidden,),
        "joint.enc.weight": (hidden, hidden),
        "joint.enc.bias": (hidden,),
        "joint.joint_net.2.weight": (TOKENS + 1, hidden),
        "joint.joint_net.2.bias": (TOKENS + 1,),
    }
    weights = {name: 1.5 * torch.randn(shape) for name, shape in shapes.items()}
    weights["joint.joint_net.2.bias"][BLANK] -= 3.0  # it has something to say
    return Decoder(
        weights,
        DecoderConfig(
            pred_hidden=hidden,
            pred_rnn_layers=1,
            joint_hidden=hidden,
            activation="relu",
            vocab_size=TOKENS,
            max_symbols=SYMBOLS,
        ),
    )


def log_probability(decoder: Decoder, frames: torch.Tensor, text: tuple[int, ...]) -> float:
    """Sum over every way to say a text, by going through all of them."""
    h, c, pred = (tensor[None] for tensor in decoder.start)
    after = [pred]
    for token in text:
        h, c, pred = decoder.predict(decoder.embed[[token]], h, c)
        after.append(pred)
    logs = torch.stack([decoder.joint(frames + p).log_softmax(-1) for p in after])
    ways = []
    for spoken in itertools.product(range(SYMBOLS + 1), repeat=len(frames)):
        if sum(spoken) != len(text):
            continue
        said, total = 0, 0.0
        for frame, symbols in enumerate(spoken):
            for _ in range(symbols):
                total += float(logs[said, frame, text[said]])
                said += 1
            total += float(logs[said, frame, BLANK])
        ways.append(total)
    return float(torch.tensor(ways).logsumexp(0))


def test_a_wide_search_finds_the_likeliest_text_and_all_its_ways(decoder, monkeypatch):
    monkeypatch.setattr(beam, "_WORSE", 1e9)
    for seed in range(5):
        frames = 2.0 * torch.randn(FRAMES, 4, generator=torch.Generator().manual_seed(seed))
        search = BeamSearch(decoder, 1, width=10_000)
        tokens, at, probs = search.feed(frames)
        every = {
            text: log_probability(decoder, frames, text)
            for length in range(FRAMES * SYMBOLS + 1)
            for text in itertools.product(range(TOKENS), repeat=length)
        }
        assert tuple(tokens) == max(every, key=every.__getitem__)
        found = {text.tokens: text.score for text in search._texts}
        assert found.keys() == every.keys()
        for text, score in found.items():
            assert math.isclose(score, every[text], rel_tol=1e-4, abs_tol=1e-4)
        assert len(at) == len(probs) == len(tokens)
        assert list(at) == sorted(at) and all(0 <= frame < FRAMES for frame in at)
        assert all(0.0 < p <= 1.0 for p in probs)


def test_chunks_are_one_segment_and_frames_are_told_from_the_last_of_them(decoder):
    for seed in range(50):
        frames = 2.0 * torch.randn(12, 4, generator=torch.Generator().manual_seed(seed))
        tokens, at, probs = BeamSearch(decoder, 1).feed(frames)
        if len(tokens) > 1 and at[0] < 8:  # some of it is said before the last chunk
            break
    else:
        pytest.fail("none of these says enough")
    parts = BeamSearch(decoder, 3)
    assert parts.feed(frames[:4]) is None and parts.feed(frames[4:8]) is None
    again, later, same = parts.feed(frames[8:])
    assert (again, same) == (tokens, pytest.approx(probs))
    assert [frame + 8 for frame in later] == list(at)


def test_a_boost_in_a_search_leaves_blank_what_it_was(decoder):
    phrases = PhraseBoost({"b": 5.0}, (" a", " b", " c"))
    search = BeamSearch(decoder, 1, phrases)
    scores = torch.randn(TOKENS + 1).log_softmax(-1)[:TOKENS]
    more = search._boosted((), scores)
    torch.testing.assert_close(more.logsumexp(-1), scores.logsumexp(-1))
    assert more[1] > scores[1] and more[0] < scores[0]


def finals(recognizer, audio, passes, **extra):
    """A final of each kind for the same audio, all streams at once."""
    collectors, streams = [Collector() for _ in passes], []
    for collector, final_pass in zip(collectors, passes, strict=True):
        options = StreamOptions(right_context=0, final_pass=final_pass, extra=extra)
        streams.append(recognizer.open(collector, options=options))
    for stream in streams:
        stream.feed(audio)
        stream.finish()
        stream.feed(audio)  # and a second segment, which begins while the first is searched
        stream.finish()
    found = [(collector.final(), collector.final()) for collector in collectors]
    for stream in streams:
        stream.close()
    return found


def test_a_searched_final_is_the_engines_own_search_and_its_neighbours_are_not_changed(
    recognizer, random_checkpoint, noise
):
    audio = noise(16_000 * 5, seed=5)
    (stream, _), (full, _), (searched, again) = finals(
        recognizer, audio, ["stream", "full", "search"]
    )
    ((alone, _),) = finals(recognizer, audio, ["stream"])
    ((full_alone, _),) = finals(recognizer, audio, ["full"])
    assert stream.tokens == alone.tokens and full.tokens == full_alone.tokens
    assert searched.tokens == again.tokens != ()
    # The same frames, asked outside the engine's thread.
    runner = EngineRunner(random_checkpoint, slots=1)
    right = max(recognizer.right_contexts)
    chunks = Chunks.of(runner.config, right)
    windows = windows_of(audio, right, chunks)
    runner.reset(0)
    runner.search(0, len(windows))
    for number, window in enumerate(windows):
        said = runner.step([0], [number * chunks.frames], window[None], right)
        assert len(said) == 0 or number == len(windows) - 1
    assert tuple(said.tokens.tolist()) == searched.tokens
    times = [word.end_s for word in searched.words]
    assert times == sorted(times) and all(0.0 <= end <= searched.audio_s for end in times)


def test_a_searched_segment_prefers_its_phrases(recognizer, noise):
    audio = noise(16_000 * 6, seed=3)
    ((plain, _),) = finals(recognizer, audio, ["search"])
    ((boosted, _),) = finals(recognizer, audio, ["search"], phrases={"zebras": 20.0})
    assert "zebras" in boosted.text and "zebras" not in plain.text
    ((greedy, _),) = finals(recognizer, audio, ["stream"])
    assert "zebras" not in greedy.text


def test_a_pass_that_nobody_knows_is_named(recognizer):
    with pytest.raises(ValueError, match="does not know final_pass='beam'"):
        recognizer.open(print, options=StreamOptions(final_pass="beam"))
