"""A language model beside the search: against the formula, and from the file to the words."""

from __future__ import annotations

import gzip
import itertools
import math

import pytest
import torch

from tests.engine.test_beam import (
    BLANK,
    FRAMES,
    SYMBOLS,
    TOKENS,
    decoder,  # noqa: F401  a fixture
    finals,
    log_probability,
)
from tests.support.arpa import ARPA, Naive, words
from training.nemo_file import read_tokenizer
from training.ngram import counted, estimate, write_arpa
from voice_agent.engine import beam
from voice_agent.engine.beam import BeamSearch
from voice_agent.engine.boosting import PhraseBoost
from voice_agent.engine.errors import EngineError, LanguageModelError, ModelNotFound
from voice_agent.engine.fusion import Fusion, Weights
from voice_agent.engine.loading import load_recognizer
from voice_agent.engine.ngram import NGram
from voice_agent.engine.text import Tokenizer


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text(ARPA, encoding="utf-8")
    return path


def added(decoder, naive: Naive, text: tuple[int, ...], weights: Weights) -> float:  # noqa: F811
    """What a text gets, token by token."""
    h, c, pred = (tensor[None] for tensor in decoder.start)
    total = 0.0
    for at, token in enumerate(text):
        internal = decoder.joint(pred)[0, :BLANK].log_softmax(-1)[token]
        lm = math.log(10) * naive.log10(("<s>", *words(text[:at])), *words((token,)))
        total += weights.lm * lm - weights.internal * float(internal) + weights.bonus
        h, c, pred = decoder.predict(decoder.embed[[token]], h, c)
    return total


def test_a_wide_search_adds_to_every_text_what_the_formula_gives(decoder, small, monkeypatch):  # noqa: F811
    monkeypatch.setattr(beam, "_WORSE", 1e9)
    naive, plain_best = Naive(small), []
    for seed, weights in enumerate([Weights(), Weights(1.5, 0.0, 0.0), Weights(0.0, 0.7, 1.5)]):
        frames = 2.0 * torch.randn(FRAMES, 4, generator=torch.Generator().manual_seed(seed))
        search = BeamSearch(decoder, 1, width=10_000, fusion=Fusion(NGram(small, TOKENS), weights))
        tokens, _, probs = search.feed(frames)
        every = {
            text: log_probability(decoder, frames, text) + added(decoder, naive, text, weights)
            for length in range(FRAMES * SYMBOLS + 1)
            for text in itertools.product(range(TOKENS), repeat=length)
        }
        assert tuple(tokens) == max(every, key=every.__getitem__)
        found = {text.tokens: text.score for text in search._texts}
        assert found == pytest.approx(every, rel=1e-4, abs=1e-4)
        assert all(0.0 < p <= 1.0 for p in probs)  # still the recogniser's own
        plain_best.append(BeamSearch(decoder, 1, width=10_000).feed(frames)[0] == tokens)
    assert not all(plain_best)


def test_no_weight_is_no_language_model(decoder, small):  # noqa: F811
    nothing = Fusion(NGram(small, TOKENS), Weights(0.0, 0.0, 0.0))
    for seed in range(20):
        frames = 2.0 * torch.randn(12, 4, generator=torch.Generator().manual_seed(seed))
        assert BeamSearch(decoder, 1, fusion=nothing).feed(frames) == BeamSearch(decoder, 1).feed(
            frames
        )


def test_a_language_tag_keeps_its_probability(decoder, small):  # noqa: F811
    tokenizer = Tokenizer((" a", " b", " <en-US>"), tags=True)
    fusion = Fusion(NGram(small, TOKENS), spared=tokenizer.tag_tokens())
    added = fusion.bonus(decoder, decoder.start[2][None], [fusion.lm.start])
    assert (added[0] == 0).tolist() == [False, False, True]


def test_a_boost_chooses_among_what_the_language_model_leaves(decoder, small):  # noqa: F811
    """With both, the mass of a text's next tokens is what it is with the language model alone."""
    fusion, phrases = Fusion(NGram(small, TOKENS)), PhraseBoost({"b": 5.0}, (" a", " b", " c"))
    search = BeamSearch(decoder, 1, phrases, fusion=fusion)
    plain = torch.randn(TOKENS + 1).log_softmax(-1)[:TOKENS]
    fused = plain + search._state[3][0]
    more = search._boosted((), fused)
    torch.testing.assert_close(more.logsumexp(-1), fused.logsumexp(-1))
    assert more[1] > fused[1] and more[0] < fused[0]


@pytest.fixture(scope="module")
def boxes(random_model, tmp_path_factory):
    """A model of one sentence, over and over, in the random checkpoint's tokens."""
    tokenizer = read_tokenizer(random_model[1])
    orders = counted(tokenizer.encode(["pack my box"] * 50), tokenizer.vocab_size(), 4)
    estimate(orders, tokenizer.vocab_size())
    path = tmp_path_factory.mktemp("lm") / "boxes.arpa.gz"
    write_arpa(path, orders, tokenizer.vocab_size())
    return path


def test_searched_finals_alone_hear_of_the_language_model(random_model, boxes, noise):
    audio, passes = noise(16_000 * 6, seed=3), ["stream", "full", "search"]
    plain = load_recognizer(str(random_model[1]), device="cpu", slots=4)
    fused = load_recognizer(
        str(random_model[1]), device="cpu", slots=4,
        language_model=boxes, fusion=Weights(lm=3.0, internal=0.3, bonus=3.0),
    )  # fmt: skip
    without, got = (finals(each, audio, passes) for each in (plain, fused))
    plain.close(), fused.close()
    assert [s.tokens for s, _ in got[:2]] == [s.tokens for s, _ in without[:2]]
    assert "pack my box" in got[2][0].text and "box" not in without[2][0].text
    assert got[2][0].tokens == got[2][1].tokens


def test_phrases_are_preferred_beside_a_language_model(random_model, boxes, noise):
    fused = load_recognizer(str(random_model[1]), device="cpu", slots=4, language_model=boxes)
    audio = noise(16_000 * 6, seed=3)
    ((plain, _),) = finals(fused, audio, ["search"])
    ((boosted, _),) = finals(fused, audio, ["search"], phrases={"zebras": 20.0})
    fused.close()
    assert "zebras" in boosted.text and "zebras" not in plain.text


def test_nemo_reads_the_same_file_and_finds_the_same_probabilities(random_model, boxes, tmp_path):
    from nemo.collections.asr.parts.submodules.ngram_lm import NGramGPULanguageModel

    tokenizer, plain = read_tokenizer(random_model[1]), tmp_path / "boxes.arpa"
    plain.write_bytes(gzip.decompress(boxes.read_bytes()))
    theirs = NGramGPULanguageModel.from_arpa(plain, vocab_size=64, use_triton=False)
    ours = NGram(boxes, 64)
    state, states = ours.start, theirs.get_init_states(1, bos=True)
    for token in tokenizer.encode("pack my wizards a box pack my box with zebras"):
        scores, following = theirs.advance(states)
        torch.testing.assert_close(
            torch.from_numpy(ours.scores(state)), scores[0].detach(), rtol=1e-5, atol=1e-5
        )
        state, states = ours.after(state, token), following[:, token]


def test_a_language_model_that_cannot_stand_beside_a_recogniser_is_refused(
    random_model, boxes, tmp_path
):
    model = str(random_model[1])
    with pytest.raises(ModelNotFound, match=r"none\.arpa: there is no such language model"):
        load_recognizer(model, device="cpu", language_model=tmp_path / "none.arpa")
    with pytest.raises(EngineError, match="language_model needs the engine"):
        load_recognizer(model, device="cpu", backend="nemo", language_model=boxes)
    with pytest.raises(EngineError, match="tiny-kn is an IndicConformer.* nor a language_model"):
        load_recognizer("tiny-kn", device="cpu", language_model=boxes)
    other = tmp_path / "other.arpa"
    other.write_text(ARPA.replace("-0.9\tf", f"-0.9\t{chr(100 + 64)}"), encoding="utf-8")
    with pytest.raises(LanguageModelError, match=r"the token 64 .* vocabulary ends at 63"):
        load_recognizer(model, device="cpu", language_model=other)
    # Lines of as many tokens, but of another tokenizer's.
    tokenizer, path = read_tokenizer(random_model[1]), tmp_path / "moved.arpa"
    lines = [[(t + 30) % 64 for t in line] for line in tokenizer.encode(["pack my box", "quartz"])]
    orders = counted(lines, 64, 3)
    estimate(orders, 64)
    write_arpa(path, orders, 64)
    with pytest.raises(LanguageModelError, match=r"moved\.arpa: is .* other tokens than .*nemo's"):
        load_recognizer(model, device="cpu", language_model=path)
