"""The CPU's encoder in few operations, beside the plain one: frames, and the state left behind."""

from __future__ import annotations

import pytest
import torch

from tests.engine.kernels.small import small_checkpoint, small_config
from voice_agent.bench.shapes import random_checkpoint
from voice_agent.engine.checkpoint import Checkpoint
from voice_agent.engine.runner import EngineRunner

CHECKPOINTS = {
    "toy": random_checkpoint("toy"),
    "biases, odd sizes, scaled": small_checkpoint(small_config(layers=2, xscaling=True)),
}
STATE = ("k", "v", "conv", "mel", "sub1", "sub2")


@pytest.fixture(params=CHECKPOINTS)
def checkpoint(request) -> Checkpoint:
    return CHECKPOINTS[request.param]


def test_a_cpu_in_float32_is_lean_unless_asked_for_the_plain_modules(checkpoint):
    assert EngineRunner(checkpoint, slots=1).lean is not None
    assert EngineRunner(checkpoint, slots=1, kernels=False).lean is None
    assert EngineRunner(checkpoint, slots=1, dtype=torch.bfloat16).lean is None


@pytest.mark.parametrize("weights", [None, "int8"])
@pytest.mark.parametrize("lanes", [[2], [4, 0, 3]], ids=["alone", "together"])
def test_frames_and_state_are_the_plain_encoders(checkpoint, lanes, weights):
    """Over more than the ring's length, one lane's segment beginning again on the way."""
    rights = checkpoint.config.encoder.right_contexts
    close = {"atol": 5e-2 if weights else 1e-4, "rtol": 0}  # on some CPUs 8 bits mean bfloat16 too
    generator = torch.Generator().manual_seed(0)
    slots = torch.tensor(lanes)
    with torch.inference_mode():
        for right in rights:
            plain, lean = (
                EngineRunner(checkpoint, slots=5, weights=weights, kernels=kernels)
                for kernels in (False, None)
            )
            for runner in (plain, lean):
                for name in STATE:  # what the last segment left
                    getattr(runner.pool, name).fill_(7.0)
            chunk, pos = right + 1, torch.zeros(len(lanes), dtype=torch.int64)
            for step in range((plain.pool.ring + 9) // chunk + 4):
                if step == 3:
                    pos[0] = 0
                mel = torch.randn(
                    len(lanes), 8 * chunk, checkpoint.config.preprocessor.features,
                    generator=generator,
                )  # fmt: skip
                want = plain.encode(mel.clone(), slots, pos, right)
                got = lean.encode(mel.clone(), slots, pos, right)
                torch.testing.assert_close(got, want, **close)
                pos += chunk
            for name in STATE:
                ours, theirs = (state(runner, name, slots) for runner in (lean, plain))
                torch.testing.assert_close(ours, theirs, **close)


def state(runner: EngineRunner, name: str, slots: torch.Tensor) -> torch.Tensor:
    """What these slots hold."""
    tensor = getattr(runner.pool, name)
    return tensor[:, slots] if name in ("k", "v", "conv") else tensor[slots]
