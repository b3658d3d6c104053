"""Shards of aligned speech: what is written is read back, at its place, with its phones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training import aligned


def said(value: int, samples: int, marks, voice="kn/v"):
    return np.full(samples, value, np.int16), f"text {value}", voice, marks


@pytest.fixture
def store(tmp_path):
    aligned.write(tmp_path, "0", [said(1, 1000, [(0, "a"), (480, "b")]), said(2, 500, None)])
    aligned.write(tmp_path, "1", [said(3, 320, [(160, "b")])])
    numbers = {"": 0, aligned.UNKNOWN: 255, "a": 7, "b": 9}
    made = aligned.Store(tmp_path, 0.001, torch.device("cpu"), numbers.__getitem__)
    assert made.refresh(10) == 2 and made.refresh(10) == 0
    return made


def test_every_utterance_is_found_at_its_place(store):
    assert store.length.tolist() == [1000, 500, 320]
    assert store.text == ["text 1", "text 2", "text 3"]
    for begin, length, value in zip(store.start, store.length, (1, 2, 3), strict=True):
        assert (store.pcm[begin : begin + length] == value).all()
        assert begin % aligned.HOP == 0


def test_every_hop_has_the_phone_that_is_said_in_its_middle(store):
    start, length = torch.from_numpy(store.start), torch.from_numpy(store.length)
    at = torch.tensor([[-50, 0, 399, 640, 990, 1000]]).expand(3, -1)
    labels = store.labels_at(start, length, at)
    assert labels.tolist() == [[0, 7, 7, 9, 9, 0], [0, 255, 255, 0, 0, 0], [0, 0, 0, 0, 0, 0]]
    assert store.labels_at(start[2:], length[2:], torch.tensor([[200]])).tolist() == [[9]]


def test_a_full_store_takes_no_more_and_says_so_by_its_length(tmp_path):
    for name in "ab":
        aligned.write(tmp_path, name, [said(1, 16_000, None)])
    store = aligned.Store(tmp_path, 1.5 / 3600, torch.device("cpu"), lambda name: 0)
    store.refresh(10)
    assert len(store) == 1
