"""The recipe of tiny-lid: crops, noise, the loss over groups of languages, phonemes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training import tiny_lid
from training.lid_net import CLASSES, LidNet
from training.pool import write_shard


@pytest.fixture
def store(tmp_path):
    ramp = (np.arange(24_000) % 20_000).astype(np.int16)
    rows = {
        "en-human": [(ramp, "", "en/human/a")],
        "en-espeak": [(ramp, "", "en/espeak/b")],
        "kn-espeak": [(ramp, "", "kn/espeak/c")],
        "hi-espeak": [(ramp, "", "hi/espeak/d")],
        "ta-espeak": [(ramp[:9000], "", "ta/espeak/e")],
    }
    for name, utterances in rows.items():
        write_shard(tmp_path, name, utterances)
    write_shard(tmp_path, "noise", tiny_lid.made_noise(3, 0))
    return tiny_lid.Store(tmp_path)


def test_languages_are_drawn_by_their_shares_and_people_only_for_english(store):
    rows, classes = store.draw(4000, np.random.default_rng(0))
    share = np.bincount(classes, minlength=len(CLASSES)) / 4000
    assert share[0] == pytest.approx(0.31, abs=0.03)
    assert share[1] == pytest.approx(0.31, abs=0.03)
    assert share[CLASSES.index("hi")] == pytest.approx(share[CLASSES.index("ta")], abs=0.03)
    human = np.array([store.human[i] for i in rows])
    assert human.any() and set(classes[human]) == {0}


def test_crops_read_their_own_utterance_at_the_drawn_speed():
    pcm = torch.cat([torch.full((20_000,), 1000), torch.full((20_000,), 9000)]).to(torch.int16)
    start, length = np.array([0, 20_000]), np.array([20_000, 20_000])
    wave = tiny_lid.crops(pcm, start, length, 8000, np.random.default_rng(1))
    assert torch.allclose(wave[0], torch.tensor(1000 / 32768))
    assert torch.allclose(wave[1], torch.tensor(9000 / 32768))


def test_a_short_utterance_is_heard_whole_with_silence_around_it():
    pcm = torch.full((4000,), 8000, dtype=torch.int16)
    wave = tiny_lid.crops(pcm, np.array([0]), np.array([4000]), 16_000, np.random.default_rng(2))
    heard = int((wave[0] > 0.1).sum())
    assert 4000 / 1.2 < heard < 4000 / 0.84


def test_noise_is_of_many_kinds_and_none_is_empty():
    made = tiny_lid.made_noise(60, 1)
    assert sum(len(a) for a, _, _ in made) >= 60 * 16_000
    assert all(np.abs(a).max() > 1000 for a, _, _ in made)
    again = tiny_lid.made_noise(60, 1)
    assert all((a[0] == b[0]).all() for a, b in zip(made, again, strict=True))


def test_mistaking_one_other_language_for_another_costs_little():
    hindi = torch.tensor([CLASSES.index("hi")])
    right, near, wrong = (torch.full((1, len(CLASSES)), -4.0) for _ in range(3))
    right[0, CLASSES.index("hi")] = near[0, CLASSES.index("mr")] = wrong[0, 1] = 4.0
    costs = [float(tiny_lid.loss_of(x, hindi)) for x in (right, near, wrong)]
    assert costs[0] < costs[1] < 0.5 * costs[2]


def test_the_judge_pulls_the_other_way():
    x = torch.ones(3, requires_grad=True)
    tiny_lid._Reverse.apply(x).sum().backward()
    assert x.grad.tolist() == [-1.0, -1.0, -1.0]


def test_the_network_takes_half_a_second_and_four():
    net = LidNet(width=16).eval()
    for frames in (48, 398):
        assert net(torch.randn(2, 64, frames)).shape == (2, len(CLASSES))


def test_an_american_voice_is_given_the_phonemes_that_it_knows():
    pytest.importorskip("espeakng_loader")
    from training.lid_speech import foreign_phonemes
    from training.voices import Espeak

    known = set("ptkbdɡmnlɹɾsʃvhjwɑɛɔɪʊəiuaoeːˈˌ ")
    spoken = foreign_phonemes(Espeak(), "ಹಳ್ಳಿ ಮಣ್ಣು ಟಪಾಲು", "kn", known)
    assert spoken and set(spoken) <= known
    assert "l" in spoken and "n" in spoken and "t" in spoken
