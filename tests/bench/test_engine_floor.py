"""What a step must do at least: counted from the config, compared with what is really there."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from voice_agent.bench.engine_floor import (
    Ceilings,
    ceilings,
    decoder_weights,
    encoder_weights,
    step_counts,
)
from voice_agent.bench.shapes import model_config, random_checkpoint, weight_sizes
from voice_agent.engine.checkpoint import read_nemo
from voice_agent.engine.chunks import Chunks
from voice_agent.engine.config import ModelConfig
from voice_agent.engine.runner import EngineRunner
from voice_agent.models import locate

SHAPES = ("toy", "tiny-en", "nemotron-0.6b", "nemotron-3.5")
FP32 = {"weight_bytes": 4, "kv_bytes": 4, "state_bytes": 4}


def config_of(shape: str) -> ModelConfig:
    return ModelConfig.read(shape, model_config(shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_weight_but_look_up_tables_is_counted_once(shape):
    config = config_of(shape)
    looked_up = ("self_attn.linear_pos.weight", "prediction.embed.weight")
    numbers = sum(
        math.prod(size)
        for name, size in weight_sizes(config).items()
        if not name.endswith(looked_up)
    )
    if config.prompt:  # a one-hot picks one column of its part of the first matrix
        numbers -= config.prompt.num_prompts * 2 * config.encoder.d_model
    assert encoder_weights(config) + decoder_weights(config) == numbers


def test_a_random_tiny_en_has_the_names_and_shapes_of_the_one_that_ships():
    shipped = read_nemo(locate("tiny-en").path)
    sizes = {k: tuple(v.shape) for k, v in shipped.weights.items() if "preprocessor" not in k}
    assert weight_sizes(config_of("tiny-en")) == sizes


def test_keys_and_values_of_a_stream_are_those_of_the_design():
    """24 layers x 70 frames x 1024 x K and V in bf16: 6.9 MB."""
    config = config_of("nemotron-0.6b")
    sizes = {"weight_bytes": 2, "state_bytes": 2, "tokens_a_frame": 0.3}
    with_kv = step_counts(config, 1, 0, kv_bytes=2, **sizes).state_bytes
    without = step_counts(config, 1, 0, kv_bytes=0, **sizes).state_bytes
    assert with_kv - without == 24 * 71 * 1024 * 2 * 2


@pytest.mark.parametrize("right", [0, 13])
def test_operations_agree_with_what_torch_counts(right):
    checkpoint = random_checkpoint("toy")
    chunks = Chunks.of(checkpoint.config, right)
    runner = EngineRunner(checkpoint, slots=4)
    pcm = torch.from_numpy(
        np.random.default_rng(0).standard_normal((4, chunks.window_samples), np.float32)
    )
    with FlopCounterMode(display=False) as counted, torch.inference_mode():
        mel = runner.features(pcm)
        runner.encode(mel, torch.arange(4), torch.full((4,), 100), right)
    c = checkpoint.config
    decoder = c.encoder.d_model * c.decoder.joint_hidden
    decoder += c.decoder.joint_hidden * (c.decoder.vocab_size + 1)
    ours = step_counts(c, 4, right, tokens_a_frame=0.0, **FP32).flop
    ours -= 2 * 4 * (right + 1) * decoder
    # Torch does not see into the CPU's attention, and the projection of positions is wider.
    assert 0.9 < counted.get_total_flops() / ours < 1.1


def test_more_lanes_move_more_state_and_the_same_weights():
    config = config_of("toy")
    one, many = (step_counts(config, n, 0, tokens_a_frame=0.3, **FP32) for n in (1, 100))
    assert many.weight_bytes == one.weight_bytes
    assert many.state_bytes == pytest.approx(100 * one.state_bytes, rel=1e-4)
    assert many.flop == pytest.approx(100 * one.flop, rel=1e-4)


def test_the_floor_is_bytes_and_operations_over_the_ceilings():
    counts = step_counts(config_of("toy"), 8, 0, tokens_a_frame=0.3, **FP32)
    by_bytes, by_flop = Ceilings(1e9, 1e12, 0, 0).floor_ms(counts)
    assert by_bytes == pytest.approx((counts.weight_bytes + counts.state_bytes) / 1e6)
    assert by_flop == pytest.approx(counts.flop / 1e9)


def test_ceilings_are_measured_here():
    found = ceilings(torch.device("cpu"), torch.float32)
    assert found.bytes_per_s > 1e7 and found.flop_per_s > 1e7
