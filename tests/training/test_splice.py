"""Forced alignment, and the new sentences that are made of aligned human words."""

from __future__ import annotations

import itertools
import json
import random

import numpy as np
import pytest

from training.align import UNKNOWN, Aligner, common
from training.pool import PHONES, Pool, write_shard
from training.splice import Aligned, read_aligned, spliced, write_spliced
from training.voices import pico

SAID = "please open the door and turn on the light"


@pytest.fixture(scope="module")
def said():
    return pico()(SAID, random.Random(1))[0]


@pytest.fixture(scope="module")
def aligner():
    return Aligner()


def test_an_alignment_names_every_word_in_order_within_the_audio(said, aligner):
    phones, words = aligner(said, SAID)
    assert [word for word, _, _ in words] == SAID.split()
    edges = [edge for _, begin, end in words for edge in (begin, end)]
    assert edges == sorted(edges) and 0 <= edges[0] and edges[-1] <= len(said)
    assert {phone for phone, _ in phones} <= set(PHONES)
    assert [p for p, _ in phones if p != "pau"][:5] == ["p", "l", "iy", "z", "ow"]


def test_a_text_that_is_not_what_was_said_or_cannot_be_spelt_is_not_aligned(said, aligner):
    assert aligner(said[: len(said) // 6], SAID * 3) is None
    assert aligner(said, "please open the zzyzx") is None


def test_a_word_that_the_dictionary_lacks_is_spelt_by_the_one_who_was_given(said):
    spelt = []

    def spell(word):
        spelt.append(word)
        return ["d", "ao", "r"]

    text = SAID.replace("door", "dohrr")
    _, words = Aligner(spell=spell)(said, text)
    assert spelt == ["dohrr"] and "dohrr" in [word for word, _, _ in words]


@pytest.mark.parametrize(
    ("phone", "name"), [("AH0", "ah"), ("ax", "ah"), ("SIL", "pau"), ("+NOISE+", "pau"), ("?", "?")]
)
def test_both_inventories_of_phones_share_one_name(phone, name):
    assert common(phone) == name


def clip(words: str, number: int) -> Aligned:
    """A clip in which every word is 0.4 s of a value that names it, with 0.1 s between words."""
    audio, at, spans, phones = [], 0, [], []
    for i, word in enumerate(words.split()):
        audio += [np.zeros(1600, np.int16), np.full(6400, 1000 * number + i + 1, np.int16)]
        spans.append((word, at + 1600, at + 8000))
        phones += [("pau", at + 1600), ("ah" if i % 2 else UNKNOWN, at + 8000)]
        at += 8000
    return Aligned(np.concatenate(audio), spans, phones, "reading")


def test_what_is_spliced_says_what_its_text_says():
    clips = [clip("one two three four", 1), clip("five six seven eight nine", 2)]
    value = {
        w: 1000 * n + i + 1 for n, c in enumerate(clips, 1) for i, (w, _, _) in enumerate(c.words)
    }
    for audio, text, voice, phones in itertools.islice(spliced(clips, seed=3), 50):
        runs = [(v, len(list(run))) for v, run in itertools.groupby(audio.tolist())]
        # Between two words the speed leaves a sample of something else.
        heard = [v for v, samples in runs if v in value.values() and samples > 2]
        # Two pieces may meet at the same word: a group then stands for both.
        wanted = [v for v, _ in itertools.groupby([value[w] for w in text.split()])]
        assert [v for v, _ in itertools.groupby(heard)] == wanted
        assert voice == "splice/mixed" and len(audio) <= 14 * 16_000
        ends = [end for _, end in phones]
        assert ends == sorted(ends) and ends[-1] <= len(audio)


def test_spliced_shards_are_the_same_for_a_seed_and_open_in_the_pool(tmp_path, said, aligner):
    import torch

    made = []
    for name in ("first", "again"):
        pool = tmp_path / name
        write_shard(pool, "human", [(said, SAID, "reading/somebody", *aligner(said, SAID))])
        assert len(read_aligned(pool)) == 1
        write_spliced(pool, hours=0.01, seed=5)
        made.append((pool / "splice-5-0000.pcm").read_bytes())
        assert json.loads((pool / "splice-5-0000.json").read_text())
    assert made[0] == made[1]
    opened = Pool(
        tmp_path / "first", lambda text: [1] * len(text.split()), 0.1, torch.device("cpu")
    )
    opened.refresh()
    assert set(opened.by_group) == {"reading", "splice"} and opened.told == len(opened.start)
