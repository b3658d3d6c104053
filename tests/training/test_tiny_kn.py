"""The recipe of tiny-kn: what is saved opens, and the export hears what the model hears."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from training import aligned, kannada_train
from training.indic_export import CtcParts, write_layout
from voice_agent.engine.indic.backend import OnnxBackend
from voice_agent.engine.indic.decode import ctc_tokens
from voice_agent.engine.indic.layout import read

torch.set_num_threads(1)
CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(2)
    made = kannada_train.KannadaModel(kannada_train.SMOKE)
    torch.nn.init.normal_(made.ctc.decoder_layers[0].weight, std=0.4)
    return made.eval()


def test_a_checkpoint_opens_as_it_was_saved(model, tmp_path):
    kannada_train.save(tmp_path / "checkpoint.pt", model, kannada_train.SMOKE, {"steps": 3})
    opened, facts = kannada_train.load(tmp_path / "checkpoint.pt")
    assert facts == {"steps": 3}
    for name, value in model.state_dict().items():
        torch.testing.assert_close(opened.state_dict()[name], value, atol=2e-3, rtol=2e-3)


@torch.inference_mode()
def test_the_half_precision_export_hears_what_the_model_hears(model, tmp_path):
    pieces = ["<unk>", *(f"▁{chr(0xC85 + i % 50)}{i}" for i in range(255))]
    parts = CtcParts(model.features, model.encoder, model.ctc)
    write_layout(tmp_path, parts, {"kn": pieces}, half=True, external=False)
    backend = OnnxBackend(read("export", tmp_path), device="cpu", threads=1)
    assert backend.frame_s == pytest.approx(0.04)
    swell = np.sin(np.arange(30_000) / 2000) ** 2
    noise = np.random.default_rng(0).standard_normal(30_000)
    clip = (0.2 * swell * noise).astype(np.float32)
    mel, frames = model.features(torch.from_numpy(clip)[None], torch.tensor([len(clip)]))
    scores, _ = model.scores(mel, frames)
    want = [t.number for t in ctc_tokens(scores[0].numpy(), 256)]
    got = [t.number for t in backend.tokens([clip], ["kn"])[0]]
    assert len(want) > 3
    same = sum(a == b for a, b in zip(want, got, strict=False))
    assert same >= 0.9 * max(len(want), len(got))  # half precision may turn a close call


def test_the_learning_rate_warms_up_and_falls_to_almost_nothing():
    recipe = kannada_train.Recipe()
    rates = [recipe.rate(p) for p in np.linspace(0, 1, 101)]
    assert max(rates) == pytest.approx(recipe.learning_rate, rel=0.05)
    assert rates[-1] < 0.03 * max(rates) and rates[0] < 0.05 * max(rates)


def test_augmentation_begins_when_the_model_spells_and_calms_down_at_the_end():
    recipe = kannada_train.Recipe(clean=0.1)
    assert recipe.at(0.95).noise == pytest.approx(0.5 * recipe.strength.noise)
    assert recipe.at(0.05) is None
    assert recipe.at(0.12).noise < recipe.at(0.15).noise < recipe.at(0.5).noise
    assert recipe.at(0.5).noise == recipe.strength.noise


@pytest.fixture
def speech(tmp_path):
    def said(seconds, text, marks):
        return np.zeros(int(seconds * 16_000), np.int16), text, "kn/v", marks

    rows = [said(2 + i / 10, "ab" * (i % 5 + 1), [(0, "a"), (16_000, "b")]) for i in range(30)]
    rows += [said(1.0, "a" * 40, []), said(1.0, "", [])]
    aligned.write(tmp_path, "0", rows)
    made = kannada_train.Speech(tmp_path, lambda t: [ord(c) - 97 for c in t], 0.1, CPU)
    made.refresh()
    return made


def test_texts_that_cannot_be_aligned_are_left_out(speech):
    assert speech.usable.tolist() == [True] * 30 + [False, False]


def test_a_batch_is_of_like_lengths_and_within_its_seconds(speech):
    batches = speech.batches(20.0, np.random.default_rng(0), draw=64)
    assert sum(len(rows) for rows, _ in batches) == 64
    for rows, speeds in batches:
        length = speech.length[rows] / speeds / 16_000
        assert len(rows) * length.max() <= 20.0 + 5.0
        assert speech.usable[rows].all()


def test_the_phoneme_of_a_frame_follows_speed_and_the_pause_before(speech, model):
    batch = kannada_train.batch_of(model, speech, np.array([3, 3]), np.array([1.0, 0.5]), None)
    a, b = speech.names["a"], speech.names["b"]
    for row, seconds in zip(batch.phonemes.tolist(), (1.0, 2.0), strict=True):
        assert row.count(a) * 0.04 == pytest.approx(seconds, abs=0.05)
        first = row.index(a)
        assert first > 0 and row[:first] == [0] * first and b in row[first:]


def test_impossible_and_silent_utterances_do_not_poison_the_loss():
    scores = torch.randn(2, 5, 257).log_softmax(-1).requires_grad_()
    targets = torch.randint(0, 256, (2, 12))  # 12 tokens in 5 frames cannot be
    loss = kannada_train.ctc_loss(scores, torch.tensor([5, 5]), targets, torch.tensor([12, 3]))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(scores.grad).all()


def test_smoke_the_loss_falls_and_the_export_opens():
    pytest.importorskip("espeakng_loader")
    done = subprocess.run(
        [sys.executable, "-m", "training.tiny_kn", "--smoke"],
        cwd=ROOT, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the export opens" in done.stdout
