"""The recipe of tiny-lid: crops, noise, the loss over groups of languages, phonemes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training import aligned, lid_data, lid_train, phones, tiny_lid
from training.augment import Strength
from training.lid_net import CLASSES, LidNet

torch.set_num_threads(1)


def spoken(voice, samples=24_000, marks=None, text=""):
    ramp = (np.arange(samples) % 20_000).astype(np.int16)
    return ramp, text, voice, marks


@pytest.fixture
def store(tmp_path):
    rows = {
        "en-human": [spoken("en/human/a", text="ˈabad")],
        "en-espeak": [spoken("en/espeak/b", marks=[(0, "m"), (8000, "ˈaː")])],
        "kn-espeak": [spoken("kn/espeak/c", marks=[(0, "s")])],
        "hi-espeak": [spoken("hi/espeak/d", marks=[(0, "s")])],
        "ta-espeak": [spoken("ta/espeak/e", 9000, [(0, "s")])],
    }
    for name, utterances in rows.items():
        aligned.write(tmp_path, name, utterances)
    aligned.write(tmp_path, "noise", tiny_lid.made_noise(3, 0))
    made = lid_data.Languages(tmp_path, 0.02, torch.device("cpu"))
    made.refresh(100)
    return made


def test_languages_are_drawn_by_their_shares_and_people_only_for_english(store):
    rows, classes = store.draw(4000, np.random.default_rng(0))
    share = np.bincount(classes, minlength=len(CLASSES)) / 4000
    assert share[0] == pytest.approx(0.31, abs=0.03)
    assert share[1] == pytest.approx(0.31, abs=0.03)
    assert share[CLASSES.index("hi")] == pytest.approx(share[CLASSES.index("ta")], abs=0.03)
    human = store.human[rows]
    assert human.any() and set(classes[human]) == {0}


def crops(pcm, start, length, n, seed):
    start, length = torch.tensor(start), torch.tensor(length)
    return lid_data.crops(pcm, start, length, n, np.random.default_rng(seed))


def test_crops_read_their_own_utterance_at_the_drawn_speed():
    pcm = torch.cat([torch.full((20_000,), 1000), torch.full((20_000,), 9000)]).to(torch.int16)
    wave, at = crops(pcm, [0, 20_000], [20_000, 20_000], 8000, 1)
    assert torch.allclose(wave[0], torch.tensor(1000 / 32768))
    assert torch.allclose(wave[1], torch.tensor(9000 / 32768))
    assert (at >= 0).all() and (at < 20_000).all()
    speed = (at[:, -1] - at[:, 0]) / 7999
    assert (speed > 0.84).all() and (speed < 1.19).all()


def test_a_short_utterance_is_heard_whole_with_silence_around_it():
    pcm = torch.full((4000,), 8000, dtype=torch.int16)
    wave, _ = crops(pcm, [0], [4000], 16_000, 2)
    heard = int((wave[0] > 0.1).sum())
    assert 4000 / 1.2 < heard < 4000 / 0.84


def test_frames_are_labelled_with_the_phone_that_is_said_then(store):
    index = store.voice.index("en/espeak/b")
    store.groups = {("en", "espeak"): np.array([index])}
    batch = lid_data.batch_of(store, 8, 1.0, np.random.default_rng(3), Strength())
    m, a = phones.code("m"), phones.code("aː")
    assert batch.phones.shape == (8, -(-batch.mel.shape[2] // 2))
    assert set(batch.phones.flatten().tolist()) <= {0, m, a}
    # m comes first, and once the long vowel has begun it stays.
    for row in batch.phones.tolist():
        said = [p for p in row if p]
        assert said == sorted(said, key=(m, a).index)


def test_people_have_no_labels_until_the_network_has_aligned_them(store):
    index = store.voice.index("en/human/a")
    begin = int(store.start[index]) // aligned.HOP
    hops = slice(begin, begin + 150)
    assert (store.labels[hops] == phones.UNKNOWN).all()
    net = LidNet(width=16).eval()
    bank = lid_train.listen(net, store, np.random.default_rng(0), relabel=True)
    assert len(bank.heard) == 1
    said = [int(c) for c in store.labels[hops].unique_consecutive() if c]
    assert said == phones.codes("ˈabad")


def test_a_saved_network_opens_as_it_was(tmp_path):
    recipe = lid_train.Recipe(width=16, free=4, share=0.5)
    net = LidNet(width=16, free=4, share=0.5).eval()
    lid_train.save(tmp_path / "lid.pt", net, recipe, {"steps": 3})
    opened, facts = lid_train.load(tmp_path / "lid.pt")
    features = torch.randn(2, 64, 98)
    assert facts == {"steps": 3}
    torch.testing.assert_close(opened(features), net(features))


def test_a_leaning_copy_moves_the_odds_by_as_much_and_leaves_the_network_alone():
    torch.manual_seed(0)
    net, heat = LidNet(width=16).eval(), 1.5
    features = torch.randn(3, 64, 98)
    lean = {"en": 0.2, "kn": 0.5, "other": -0.4}
    moved = tiny_lid.leaning(net, heat, lean)
    shift = (moved(features) - net(features)) / heat
    want = torch.tensor([0.2, 0.5] + [-0.4] * (len(CLASSES) - 2))
    torch.testing.assert_close(shift, want.expand(3, -1), atol=1e-5, rtol=0)


def test_the_ear_feels_only_a_share_of_what_the_language_teaches():
    pulls = {}
    for share in (1.0, 0.0):
        torch.manual_seed(0)
        net = LidNet(width=16, share=share).eval()
        net(torch.randn(2, 64, 98)).square().sum().backward()
        pulls[share] = float(net.names.weight.grad.abs().sum())
    assert pulls[1.0] > 0 and pulls[0.0] == 0


def test_noise_is_of_many_kinds_and_none_is_empty():
    made = tiny_lid.made_noise(60, 1)
    assert sum(len(a) for a, *_ in made) >= 60 * 16_000
    assert all(np.abs(a).max() > 1000 for a, *_ in made)
    again = tiny_lid.made_noise(60, 1)
    assert all((a[0] == b[0]).all() for a, b in zip(made, again, strict=True))


def test_mistaking_one_other_language_for_another_costs_little():
    hindi = torch.tensor([CLASSES.index("hi")])
    right, near, wrong = (torch.full((1, len(CLASSES)), -4.0) for _ in range(3))
    right[0, CLASSES.index("hi")] = near[0, CLASSES.index("mr")] = wrong[0, 1] = 4.0
    costs = [float(lid_train.loss_of(x, hindi)) for x in (right, near, wrong)]
    assert costs[0] < costs[1] < 0.5 * costs[2]


def test_the_judge_pulls_the_other_way():
    x = torch.ones(3, requires_grad=True)
    lid_train._Reverse.apply(x).sum().backward()
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


def test_smoke_the_loss_falls_and_the_export_opens(capsys):
    pytest.importorskip("espeakng_loader")
    tiny_lid.smoke()
    assert "the export opens" in capsys.readouterr().out
