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
    with pytest.raises(ValueError, match="does not know final_pass='oracle'"):
        recognizer.open(print, options=StreamOptions(final_pass="oracle"))


def spoken(search: BeamSearch, frames: torch.Tensor, size: int) -> tuple[list, list[int]]:
    """What a search tells while frames come in chunks, and how many tokens after each chunk."""
    told, counts = [], []
    for first in range(0, len(frames), size):
        tokens, at, probs = search.feed(frames[first : first + size])
        told += [
            (t, f + first, p) for t, f, p in zip(tokens, at, probs, strict=True)
        ]  # frames from the segment's first
        counts.append(len(told))
    assert not search.ended
    return told + list(zip(*search.rest(), strict=True)), counts


@pytest.mark.parametrize("size", [1, 4])
def test_a_segment_that_is_being_spoken_is_told_bit_by_bit_and_never_taken_back(
    decoder, size, monkeypatch
):
    monkeypatch.setattr(beam, "PATIENCE", 1_000)
    monkeypatch.setattr(beam, "AGREED", 1.0)
    early = 0
    for seed in range(20):
        frames = 10.0 * torch.randn(24, 4, generator=torch.Generator().manual_seed(seed))
        whole = BeamSearch(decoder, 1, width=4).feed(frames)
        told, counts = spoken(BeamSearch(decoder, None, width=4), frames, size)
        tokens, at, probs = zip(*told, strict=True) if told else ((), (), ())
        # At the frames of the way that was the likeliest when they were told.
        assert tokens == tuple(whole[0]) and list(at) == sorted(at)
        assert all(0 <= frame < 24 for frame in at) and all(0.0 < p <= 1.0 for p in probs)
        early += counts[-1]
    assert early > 20  # of 41


def test_what_was_said_long_ago_is_not_disputed_for_ever(decoder, monkeypatch):
    monkeypatch.setattr(beam, "_WORSE", 1e9)
    longest = {}
    for patience in (3, 1_000):
        monkeypatch.setattr(beam, "PATIENCE", patience)
        search, waits = BeamSearch(decoder, None, width=40), [0]
        frames = torch.randn(60, 4, generator=torch.Generator().manual_seed(1))
        for number, frame in enumerate(frames):
            search.feed(frame[None])
            best = search._texts[0]
            waits += [number - at for at in best.frames[search._told :]]
        longest[patience] = max(waits)
    assert longest[3] <= 3 < longest[1_000]


def test_what_is_told_does_not_depend_on_how_the_frames_are_cut(decoder):
    said = 0
    for seed in range(20):
        frames = 3.0 * torch.randn(40, 4, generator=torch.Generator().manual_seed(seed))
        told = [spoken(BeamSearch(decoder, None), frames, size)[0] for size in (1, 4, 14)]
        assert [[token for token, *_ in one] for one in told[1:]] == [[t for t, *_ in told[0]]] * 2
        said += len(told[0])
    assert said > 20


def test_what_most_of_the_probability_agrees_on_waits_for_no_outsider(decoder, monkeypatch):
    monkeypatch.setattr(beam, "PATIENCE", 1_000)
    monkeypatch.setattr(beam, "_WORSE", 1e9)
    early = {}
    for share in (0.8, 1.0):
        monkeypatch.setattr(beam, "AGREED", share)
        early[share] = 0
        for seed in range(20):
            search = BeamSearch(decoder, None)
            for frame in 6.0 * torch.randn(24, 4, generator=torch.Generator().manual_seed(seed)):
                told, before = search._told, search._texts[0].tokens
                search.feed(frame[None])
                kept = [text.tokens[: search._told] for text in search._texts]
                assert set(kept) == {search._texts[0].tokens[: search._told]}
                assert search._told >= told and kept[0][:told] == before[:told]
            early[share] += search._told
    assert early[0.8] > 1.5 * early[1.0]


def test_a_streams_beam_is_the_search_of_its_own_frames_and_partials_lead_up_to_it(
    recognizer, random_checkpoint, noise, monkeypatch
):
    monkeypatch.setattr(beam, "PATIENCE", 1_000)
    monkeypatch.setattr(beam, "AGREED", 1.0)
    audio = noise(16_000 * 5, seed=5)
    collector = Collector()
    stream = recognizer.open(collector, options=StreamOptions(right_context=0, final_pass="beam"))
    stream.finish()  # nothing was said
    stream.feed(noise(16_000, seed=9))
    stream.cancel()  # and this is for nobody
    stream.finish()
    for first in range(0, len(audio), 5_000):
        stream.feed(audio[first : first + 5_000])
    stream.finish()
    stream.feed(audio)
    stream.finish()
    finals = [collector.final() for _ in range(4)]
    stream.close()
    assert [final.text for final in finals[:2]] == ["", ""]
    assert finals[2].tokens == finals[3].tokens != ()
    times = [word.end_s for word in finals[2].words]
    assert times == sorted(times) and all(0.0 <= end <= finals[2].audio_s for end in times)

    runner = EngineRunner(random_checkpoint, slots=1)
    chunks = Chunks.of(runner.config, 0)
    windows = windows_of(audio, 0, chunks)
    runner.reset(0)
    runner.search(0, len(windows))
    for number, window in enumerate(windows):
        said = runner.step([0], [number * chunks.frames], window[None], 0)
    assert tuple(said.tokens.tolist()) == finals[2].tokens


def test_partials_of_a_beam_only_grow(recognizer, noise):
    collector = Collector()
    options = StreamOptions(right_context=0, final_pass="beam")
    stream = recognizer.open(collector, options=options)
    stream.feed(noise(16_000 * 5, seed=5))
    stream.finish()
    final = collector.final()
    stream.close()
    told = [partial.tokens for partial in collector.partials]
    assert len(told) > 2
    for one, other in itertools.pairwise([*told, final.tokens]):
        assert other[: len(one)] == one and len(other) >= len(one)
