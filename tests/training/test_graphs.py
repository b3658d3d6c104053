"""A step recorded once is the same step for other utterances at another moment of the run.

What PyTorch traces on a CPU keeps what a CUDA graph would keep: every number that Python held when
it was recorded. So a step that is recorded on one batch and replayed on another tells whether any
of that is the first batch's own.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.fx.experimental.proxy_tensor import make_fx

import training.fastconformer
import training.student
from tests.support.whisper import random_whisper
from tests.training.test_student import TOY
from training.pool import Pool, write_shard
from training.step import Phase, Played
from training.student import Recipe
from training.teacher import WhisperEar
from training.trainer import Trainer


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    """A toy on speech of several lengths, with all losses."""
    rng = np.random.default_rng(0)
    said = ("x", "a/1", [("aa", 8000), ("s", 16_000)])
    rows = [
        (rng.integers(-999, 999, samples).astype(np.int16), "x " * words, *said[1:])
        for samples, words in zip(
            rng.integers(44_000, 46_000, 40), rng.integers(1, 5, 40), strict=True
        )
    ]
    write_shard(tmp_path / "pool", "0", rows)
    cpu = torch.device("cpu")
    pool = Pool(tmp_path / "pool", lambda text: [1, 2, 3, 4][: len(text.split())], 0.05, cpu)
    pool.refresh()
    # What a CPU does otherwise, for its own speed.
    for module in (training.fastconformer, training.student):
        monkeypatch.setattr(
            module, "dropout", lambda x, share, training: F.dropout(x, share, training)
        )
    weights = random_whisper(width=8, heads=2, layers=TOY.n_layers, wide=2)
    ear = WhisperEar(weights, cpu)
    made = Trainer(TOY, Recipe(), pool, tmp_path / "run", cpu, ear)
    made.work._half = lambda: torch.autocast("cpu", enabled=False)
    return made


@torch.backends.mkldnn.flags(enabled=False)  # whose LSTM keeps for later what a replay has not
@pytest.mark.parametrize("phase", [Phase(False, True, False), Phase(True, True, True)])
def test_a_step_keeps_nothing_of_the_batch_it_was_recorded_on(trainer, phase):
    work, rng = trainer.work, np.random.default_rng(5)
    drawn = trainer.pool.batches({"a": 1.0}, 24.0, rng, draw=80)
    one, other = [draw for draw in drawn if draw.seconds == 4][:2]
    recorded, replayed = work.drawn(one, 0.05, rng), work.drawn(other, 0.6, rng)
    assert recorded.shapes() == replayed.shapes()
    changed = [
        field.name
        for field, a, b in zip(
            fields(Played)[:-1], recorded.tensors(), replayed.tensors(), strict=True
        )
        if not torch.equal(a, b)
    ]
    assert changed == [field.name for field in fields(Played)[:-1]]
    work.calibrate(recorded)

    def step(*tensors: torch.Tensor) -> list[torch.Tensor]:
        losses = work.gradients(Played(*tensors, seconds=recorded.seconds), phase)
        return [*losses.values(), work.flat.clone()]

    again = make_fx(step)(*recorded.tensors())
    torch.manual_seed(7)
    wanted = step(*replayed.tensors())
    torch.manual_seed(7)
    with torch.no_grad():  # the backward pass is part of what was recorded
        found = again(*replayed.tensors())
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    assert torch.isfinite(wanted[-1]).all() and wanted[-1].any()
