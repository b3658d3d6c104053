"""Alignment of known texts, other people's voices, and the inventory of phones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training import phones
from training.lid_net import LidNet
from training.lid_voices import Bank, align

torch.set_num_threads(1)


def scores_of(rows: list[list[int]]) -> torch.Tensor:
    frames = max(len(row) for row in rows)
    scores = torch.full((len(rows), frames, 10), 0.1)
    for b, row in enumerate(rows):
        for t, phone in enumerate(row):
            scores[b, t, phone] = 5.0
    return torch.log_softmax(scores, dim=2)


def test_phones_are_found_where_they_are_said_and_pauses_may_lie_between():
    said = [[0, 0, 3, 3, 3, 5, 5, 0, 7, 7, 7, 7, 0], [2, 2, 4, 4, 4, 4, 6, 6, 6]]
    found = align(scores_of(said), torch.tensor([13, 9]), [[3, 5, 7], [2, 4, 6]])
    assert found[0].tolist() == said[0]
    assert found[1, :9].tolist() == said[1]


def test_the_order_of_the_text_wins_over_what_a_frame_sounds_like():
    found = align(scores_of([[3, 3, 7, 5, 5, 7]]), torch.tensor([6]), [[3, 5, 7]])
    assert found.tolist() == [[3, 3, 3, 5, 5, 7]] or found.tolist() == [[3, 3, 5, 5, 5, 7]]


def test_a_text_that_does_not_fit_gives_no_labels():
    found = align(scores_of([[3, 5], [3, 5]]), torch.tensor([2, 2]), [[3, 5, 7], [3, 5]])
    assert found.tolist() == [[-1, -1], [3, 5]]


def test_speech_goes_into_the_voices_of_the_bank_and_stays_in_time():
    torch.manual_seed(0)
    net, bank = LidNet(width=16).eval(), Bank()
    clip = torch.randn(64, 200)
    clip -= clip.mean(dim=1, keepdim=True)
    with torch.inference_mode():
        bank.add(net.hear(clip[None])[0], clip)
    # Said with one's own frames, an utterance stays what it was.
    same = bank.speak(net, clip[None], np.random.default_rng(0))
    near = torch.nn.functional.cosine_similarity(same.flatten(), clip.flatten(), dim=0)
    other = bank.speak(net, torch.randn(2, 64, 99), np.random.default_rng(0))
    assert other.shape == (2, 64, 99)
    assert near > 0.5
    assert other.mean(dim=2).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("ipa", "names"),
    [
        ("nˈɐmɐskˌaːɹɐ", ["n", "a", "m", "a", "s", "k", "aː", "r", "a"]),
        ("bʰˈaːɾət", ["bʰ", "aː", "r", "a", "t"]),
        ("ʲˈelaː", ["j", "e", "l", "aː"]),
        ("tʃˈɪldɹən", ["tʃ", "i", "l", "d", "r", "a", "n"]),
    ],
)
def test_ipa_of_any_language_is_read_into_one_inventory(ipa, names):
    assert [phones.PHONES[c] for c in phones.codes(ipa)] == [n for n in names if n != "j"]


def test_one_vowel_of_many_tables_is_one_phone():
    assert len({phones.code(name) for name in ("ɐ", "a", "ʌ", "ə", "ˈɐ", "ə̃")}) == 1
    assert phones.code("ʈ") != phones.code("t")
    assert phones.code("¿") == phones.UNKNOWN
