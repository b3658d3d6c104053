"""Sentences put together from the phones of people's clips."""

from __future__ import annotations

import random
from itertools import islice

import numpy as np
import pytest

from training.pool import PHONES, Pool, write_shard
from training.speech_text import Script
from training.splice import Aligned
from training.units import FADE, Units, phones_of, read_dictionary, say, spoken, write_units

CODES = {phone: code for code, phone in enumerate(PHONES)}
LENGTH = 1600  # samples of every phone


def clip(phones: str) -> Aligned:
    """A clip in which each phone is a steady value that names it, all equally often."""
    names = phones.split()
    audio = np.concatenate([np.full(LENGTH, 100 * (1 + CODES[n]), np.int16) for n in names])
    known = [(name, LENGTH * (i + 1)) for i, name in enumerate(names)]
    return Aligned(audio, [("word", 0, len(audio))], known, "reading")


def codes(phones: str) -> list[int]:
    return [CODES[phone] for phone in phones.split()]


@pytest.mark.parametrize("seed", range(5))
def test_each_phone_is_heard_where_it_is_told(seed):
    clips = [clip("pau k ae t s pau"), clip("pau t ae k s iy pau"), clip("pau s t iy k pau")]
    units = Units(clips)
    loud = {p: set() for p in PHONES}
    for code, begin, end in zip(units.codes, units.begins, units.ends, strict=True):
        if end > begin:
            loud[PHONES[code]].add(round(float(units.audio[(begin + end) // 2])))
    wanted = codes("pau s t ae k s pau k ae t s iy k pau")
    audio, said = say(units, wanted, np.random.default_rng(seed))
    assert [CODES[phone] for phone, _ in said] == wanted
    ends = [end for _, end in said]
    assert ends == sorted(ends) and ends[-1] == len(audio)
    # The first fifth of a phone is out of one clip: it is its middle where two are joined.
    for phone, begin, end in zip([p for p, _ in said], [0, *ends], ends, strict=False):
        heard = int(audio[begin + (end - begin) // 5])
        assert any(abs(heard - value) <= 1 for value in loud[phone]), phone


def test_what_a_clip_says_whole_is_said_by_it_alone():
    units = Units([clip("pau k ae t s pau"), clip("pau t ae k pau")])
    audio, said = say(units, codes("pau k ae t s pau"), np.random.default_rng(0))
    # From the middle of one silence to the middle of the other, uncut.
    assert len(audio) == 5 * LENGTH and [end for _, end in said[:2]] == [
        LENGTH // 2,
        LENGTH * 3 // 2,
    ]


def test_phones_that_nobody_says_one_after_the_other_meet_where_they_end_and_begin():
    units = Units([clip("pau k ae pau"), clip("pau t iy pau")])
    audio, said = say(units, codes("pau k iy pau"), np.random.default_rng(0))
    assert [phone for phone, _ in said] == ["pau", "k", "iy", "pau"]
    # Half a silence, the whole of both, half a silence, but for what they share at three joins.
    assert all(
        0 <= at - end <= 3 * FADE for (_, end), at in zip(said, (800, 2400, 4000), strict=False)
    )
    k, iy = audio[1600], audio[3000]
    assert k == say(units, codes("pau k ae pau"), np.random.default_rng(0))[0][1600] and iy != k


def test_a_phone_that_nobody_says_is_not_said():
    units = Units([clip("pau k ae pau")])
    assert say(units, codes("pau k iy pau"), np.random.default_rng(0)) is None


def test_no_stretch_goes_from_one_clip_into_the_next():
    units = Units([clip("pau k ae"), clip("t s pau")])
    for seed in range(20):
        place, size = units.stretch(np.array(codes("k ae t s")), 0, np.random.default_rng(seed))
        assert (place, size) == (1, 2)
    assert units.stretch(np.array(codes("ae t")), 0, np.random.default_rng(0)) is None


def test_a_word_that_the_dictionary_lacks_is_spelt():
    said = phones_of(
        "cat zzyzx", read_dictionary(), lambda word: ["z", "ih", "k"], random.Random(0)
    )
    assert [PHONES[c] for c in said if PHONES[c] != "pau"] == ["k", "ae", "t", "z", "ih", "k"]
    assert PHONES[said[0]] == PHONES[said[-1]] == "pau"


def test_a_line_with_a_word_that_nobody_can_spell_is_left_out():
    assert phones_of("cat zzyzx", read_dictionary(), lambda word: ["pau"], random.Random(0)) is None


def test_shards_are_the_same_for_a_seed_and_open_in_the_pool(tmp_path):
    import torch

    people = [clip("pau k ae t pau s iy k ae t s pau"), clip("pau s iy s iy pau k ae t pau")]
    made = []
    for name in ("first", "again"):
        rows = [
            (c.audio, "cats", "reading/somebody", c.phones, [("cats", 0, len(c.audio))])
            for c in people
        ]
        write_shard(tmp_path / name, "human", rows)
        script = Script(["cat see cat see", "see see cat"], [], 3)
        write_units(tmp_path / name, 0.005, 4, script, lambda word: ["k"])
        made.append((tmp_path / name / "units-4-0000.pcm").read_bytes())
    assert made[0] == made[1]
    pool = Pool(tmp_path / "first", lambda t: [1] * len(t.split()), 0.1, torch.device("cpu"))
    pool.refresh()
    assert len(pool.by_group["units"]) and pool.told == len(pool.start)
    for audio, text, voice, _ in islice(spoken(people, lambda: "cat see", list, 1), 3):
        assert (text, voice) == ("cat see", "units/mixed") and audio.dtype == np.int16


def test_clips_that_lack_what_every_line_needs_are_an_error():
    with pytest.raises(ValueError, match="give more clips"):
        next(spoken([clip("pau s iy pau")], lambda: "cat", list, 1))
