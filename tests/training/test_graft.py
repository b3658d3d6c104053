"""What the encoder is begun from: it answers like the teacher before it is trained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.support.whisper import random_whisper
from training.fastconformer import FastConformerRNNT, ModelShape
from training.graft import LATE, RIGHT, Clips, fit, fit_subsampling, graft, listened
from training.teacher import WhisperEar

WIDTH, HEADS, LAYERS = 16, 2, 2
SHAPE = ModelShape(
    d_model=WIDTH,
    n_layers=LAYERS,
    n_heads=HEADS,
    ff_expansion_factor=2,
    subsampling_conv_channels=8,
    pred_hidden=8,
    joint_hidden=8,
    vocab_size=16,
)


@pytest.fixture(scope="module")
def ear() -> WhisperEar:
    """A Whisper encoder of two layers with weights drawn at random."""
    weights = random_whisper(width=WIDTH, heads=HEADS, layers=LAYERS, wide=4, seed=3)
    return WhisperEar(weights, torch.device("cpu"))


def sounds(seed: int, count: int) -> list[np.ndarray]:
    """Return clips of some seconds: noises that swell and fade in bands of their own."""
    rng, clips = np.random.default_rng(seed), []
    for _ in range(count):
        time = np.arange(int(rng.integers(24, 40)) * 1280) / 16000
        wave = 0.01 * rng.normal(size=len(time))
        for _ in range(6):
            swell = np.clip(
                np.sin(2 * np.pi * rng.uniform(0.5, 3) * time + rng.uniform(0, 6)), 0, 1
            )
            wave += swell * np.sin(2 * np.pi * rng.uniform(100, 4000) * time)
        clips.append((4000 * wave).astype(np.int16))
    return clips


def explained(model: FastConformerRNNT, clips: Clips) -> float:
    """Return how much of Whisper's output a linear map of the student's frames explains."""
    student, heard = [], []
    for mel, about in zip(clips.mel, clips.heard, strict=True):
        encoded, _, _ = model.encoder(mel, torch.tensor([mel.shape[2]]), RIGHT)
        n = min(len(about.final), encoded.shape[1] - LATE)
        student.append(encoded[0, LATE : LATE + n])
        heard.append(about.final[:n])
    return fit(torch.nn.Linear(WIDTH, 4 * WIDTH), torch.cat(student), torch.cat(heard))


def test_a_grafted_encoder_answers_sounds_it_was_not_fitted_to_as_whisper_does(ear):
    torch.manual_seed(0)
    model = FastConformerRNNT(SHAPE)
    clips, others = (listened(ear, sounds(seed, 24), 80) for seed in (1, 2))
    assert fit_subsampling(model, clips, steps=150, seed=0) > 0.4
    fresh = FastConformerRNNT(SHAPE)
    fresh.encoder.pre_encode.load_state_dict(model.encoder.pre_encode.state_dict())
    told = list(graft(model, ear, clips))
    assert len(told) == LAYERS + 1
    with torch.no_grad():
        before, after = explained(fresh.eval(), others), explained(model, others)
    assert after > before + 0.05, (before, after)


def test_whispers_layers_are_heard_as_its_output_is(ear):
    wave = torch.from_numpy(sounds(3, 1)[0].astype(np.float32) / 32768)[None]
    heard = ear.listen(wave)
    torch.testing.assert_close(heard.final, ear(wave)[0, :, -1])
    frames = len(heard.final)
    for layer in heard.layers:
        assert layer.attention.shape == (HEADS, frames, frames)
        torch.testing.assert_close(layer.attention.sum(2), torch.ones(HEADS, frames))
    last = heard.layers[-1]
    torch.testing.assert_close(
        last.after - last.fed - last.attended, heard.layers[-2].after, atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [({"n_layers": 3}, "cannot be begun from 2 of 16"), ({"ff_expansion_factor": 4}, "not half")],
)
def test_an_encoder_of_another_shape_is_refused(ear, change, message):
    model = FastConformerRNNT(replace(SHAPE, **change))
    clips = Clips([torch.zeros(1, 80, 8)], [])
    with pytest.raises(ValueError, match=message):
        next(graft(model, ear, clips))


def test_the_mean_of_a_place_is_taken_out_of_what_is_fitted(ear):
    clips = listened(ear, sounds(4, 6) + [sounds(5, 1)[0][: 20 * 1280]], 80)
    left = clips.joined(lambda heard: heard.front)
    begin = np.cumsum([0, *clips.lengths[:-1]])
    grand = torch.cat([heard.front for heard in clips.heard]).mean(0)
    for place in (0, 7, 19):
        torch.testing.assert_close(left[begin + place].mean(0), grand, atol=1e-5, rtol=1e-4)
