"""Phrases that a caller expects: followed by letters, preferred among tokens, never over blank."""

from __future__ import annotations

import time

import numpy as np
import pytest
import soxr
import torch

from tests.support.collect import Collector
from voice_agent.engine import load_recognizer
from voice_agent.engine.boosting import DEFAULT_BOOST, START, PhraseBoost, Vocabulary
from voice_agent.engine.decoder import BoostState, _boosted
from voice_agent.engine.recognizer import StreamOptions

SURFACES = ("<unk>", " n", " ne", "e", "mo", "m", "o", "tron", " t", "ron", " a", "z", " N")
UNK, N, NE, E, MO, M, O, TRON, T, RON, A, Z, CAPITAL = range(len(SURFACES))  # noqa: E741


@pytest.mark.parametrize("spelling", [(NE, MO, TRON), (N, E, M, O, TRON)])
def test_a_phrase_is_followed_whatever_tokens_spell_it(spelling):
    boost = PhraseBoost({"nemotron": 4.0}, SURFACES)
    state = START
    for at, token in enumerate(spelling):
        assert boost.bonus(state)[token] == (4.0 if at else 2.0)
        state = boost.after(state, token)
    assert state == START, "the phrase is over"


def test_a_token_that_does_not_go_on_drops_the_phrase_and_may_begin_another():
    boost = PhraseBoost({"nemotron": 4.0, "az": 2.0}, SURFACES)
    state = boost.after(boost.after(START, NE), A)
    assert boost.bonus(state)[Z] == 2.0
    assert MO not in boost.bonus(state)


def test_a_dead_end_gets_no_bonus():
    """After " ne" + "m" only "o" leads on; " t" spells nothing of the phrase at all."""
    boost = PhraseBoost({"nemotron": None}, SURFACES)
    state = boost.after(boost.after(START, NE), M)
    assert boost.bonus(state) == {O: DEFAULT_BOOST, N: 1.5, NE: 1.5, CAPITAL: 1.5}
    assert T not in boost.bonus(START)


def test_capitals_are_followed_too():
    boost = PhraseBoost({"Nemotron": 4.0}, SURFACES)
    assert {N, NE, CAPITAL} <= boost.bonus(START).keys()


@pytest.mark.parametrize(
    "phrases, complaint",
    [
        ({" ": 1.0}, "empty"),
        ({"quiz": 1.0}, "'quiz' has letters that the model cannot write"),
        ({"az": 21.0}, "the boost of 'az' is 21; give 0 to 20"),
        ({"az": -1.0}, "the boost of 'az' is -1"),
        ({"a" * 201: 1.0}, "longer than 200"),
        ({f"{'a' * (i % 90)} {i}": 1.0 for i in range(501)}, "501 phrases to boost; at most 500"),
        ({"a" * 150 + f" {i}": 1.0 for i in range(70)}, r"\d+ letters of phrases .* at most 10000"),
    ],
)
def test_what_cannot_be_boosted_is_named(phrases, complaint):
    with pytest.raises(ValueError, match=complaint):
        PhraseBoost(phrases, SURFACES)


def test_a_vocabulary_serves_many_lists():
    vocabulary = Vocabulary(SURFACES)
    for phrases in ({"nemotron": 4.0}, {"az": 2.0, "nemo": None}):
        one, other = PhraseBoost(phrases, vocabulary), PhraseBoost(phrases, SURFACES)
        state, same = START, START
        for token in (NE, M, O, TRON, A, NE, MO, Z):
            assert one.bonus(state) == other.bonus(same)
            state, same = one.after(state, token), other.after(same, token)
            assert state == same


def test_only_lanes_with_phrases_change_and_blank_is_not_theirs_to_beat():
    boost = PhraseBoost({"az": 10.0}, SURFACES)
    logits = torch.zeros(2, len(SURFACES) + 1)
    logits[:, T], logits[:, -1] = 1.0, 0.5
    best = _boosted(logits, torch.tensor([T, T]), [BoostState(boost), None])
    assert best.tolist() == [A, T]


def hear(recognizer, audio, phrases):
    """The finals of the same audio, a stream for each dict of phrases, all at once."""
    collectors, streams = [], []
    for wanted in phrases:
        collectors.append(Collector())
        options = StreamOptions(extra={"phrases": wanted} if wanted else {})
        streams.append(recognizer.open(collectors[-1], options=options))
    for stream in streams:
        stream.feed(audio)
        stream.finish()
    finals = [collector.final() for collector in collectors]
    for stream in streams:
        stream.close()
    while recognizer.stats.open_streams:  # the engine's thread takes the slots back
        time.sleep(0.01)
    return finals


def test_a_boost_is_heard_and_neighbours_hear_what_they_heard(recognizer, noise):
    audio = noise(16_000 * 6, seed=3)
    (alone,) = hear(recognizer, audio, [None])
    boosted, beside, nothing = hear(recognizer, audio, [{"zebras": 20.0}, None, {"zebras": 0.0}])
    assert beside.tokens == alone.tokens == nothing.tokens
    assert "zebras" in boosted.text and "zebras" not in alone.text


def test_a_slot_forgets_the_phrases_of_its_last_stream(recognizer, noise):
    audio = noise(16_000 * 3, seed=4)
    (before,) = hear(recognizer, audio, [None])
    hear(recognizer, audio, [{"zebras": 20.0}] * 4)  # every slot
    after = hear(recognizer, audio, [None] * 4)
    assert all(final.tokens == before.tokens for final in after)


RARE = {"wisdom": 1, "epoch": 2, "incredulity": 1}  # how often each is said


@pytest.fixture(scope="module")
def dickens():
    """A person reading, at 16 kHz: seconds without the rare words, and seconds with them."""
    pytest.importorskip("moonshine_voice", reason="the clip needs the extra 'demo'")
    from voice_agent.demo.clip import CLIP_RATE, known_clip

    clip = known_clip()
    assert all(word in clip.text for word in RARE)
    audio = soxr.resample(clip.pcm.astype(np.float32) / 32768, CLIP_RATE, 16_000)
    pause, end = round(4.2 * 16_000), round(12.4 * 16_000)  # no word is cut in two
    return audio[:pause], audio[pause:end]


@pytest.mark.parametrize("boost, least", [(None, 1), (5.0, 2)], ids=["default", "strong"])
def test_rare_words_that_are_missed_are_caught_and_common_text_stays(dickens, boost, least):
    """The shipped model, which misses more of them the more hiss there is; not all are caught."""
    recognizer = load_recognizer("tiny-en", device="cpu", slots=4)
    common, rare = dickens
    hiss = np.random.default_rng(0).standard_normal(len(rare)).astype(np.float32)
    boosts, missed, caught = dict.fromkeys(RARE, boost), [], []
    for level in (0.0, 0.005, 0.015):
        without, boosted = hear(recognizer, rare + level * hiss, [None, boosts])
        for word, times in RARE.items():
            heard, then = (final.text.split().count(word) for final in (without, boosted))
            missed += [(level, word)] * (heard < times)
            caught += [(level, word)] * (heard < then <= times)
    assert len(caught) >= least and set(caught) <= set(missed), (missed, caught)
    before, after = hear(recognizer, common, [None, boosts])
    recognizer.close()
    if boost is None:  # a strong one may mishear other words for its own
        assert before.text and before.tokens == after.tokens


def test_streams_with_the_same_list_share_what_it_compiles_to(recognizer):
    phrases = {"zebras": 3.0, "quick zebras": None}
    streams = [
        recognizer.open(Collector(), options=StreamOptions(extra={"phrases": dict(phrases)}))
        for _ in range(2)
    ]
    assert streams[0]._boost is streams[1]._boost
    for stream in streams:
        stream.close()


def test_an_option_that_is_not_known_is_named(recognizer):
    with pytest.raises(ValueError, match="does not know the option 'phrase'"):
        recognizer.open(Collector(), options=StreamOptions(extra={"phrase": {}}))
