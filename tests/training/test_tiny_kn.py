"""The recipe of tiny-kn: what is saved opens, and the export hears what the model hears."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training import kannada_train
from training.indic_export import CtcParts, write_layout
from voice_agent.engine.indic.backend import OnnxBackend
from voice_agent.engine.indic.decode import ctc_tokens
from voice_agent.engine.indic.layout import read

torch.set_num_threads(1)


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


def test_augmentation_begins_when_the_model_spells_and_ends_at_full_strength():
    recipe = kannada_train.Recipe(clean=0.1)
    assert recipe.at(0.05) is None
    assert recipe.at(0.12).noise < recipe.at(0.15).noise < recipe.at(0.5).noise
    assert recipe.at(0.5).noise == recipe.strength.noise


def test_impossible_and_silent_utterances_do_not_poison_the_loss():
    scores = torch.randn(2, 5, 257).log_softmax(-1).requires_grad_()
    targets = torch.randint(0, 256, (2, 12))  # 12 tokens in 5 frames cannot be
    loss = kannada_train.ctc_loss(scores, torch.tensor([5, 5]), targets, torch.tensor([12, 3]))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(scores.grad).all()
