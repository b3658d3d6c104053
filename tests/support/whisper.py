"""Whisper encoders with random weights, as `training.teacher.WhisperEar` takes them."""

from __future__ import annotations

import numpy as np


def random_whisper(
    *, width: int, heads: int, layers: int, wide: int, seed: int = 0
) -> dict[str, np.ndarray]:
    """Make weights that neither fade nor grow from layer to layer.

    Args:
        width: of the encoder.
        heads: of its attention.
        layers: how many.
        wide: units of a feed-forward, times the width.
        seed: of the weights.
    """
    rng = np.random.default_rng(seed)
    shapes = {"conv1": (width, 80, 3), "conv2": (width, width, 3)}
    norms = ["layer_norm"]
    for at in (f"layer_{i}" for i in range(layers)):
        shapes |= {
            f"{at}/self_attention/linear_0": (3 * width, width),
            f"{at}/self_attention/linear_1": (width, width),
            f"{at}/ffn/linear_0": (wide * width, width),
            f"{at}/ffn/linear_1": (width, wide * width),
        }
        norms += [f"{at}/self_attention/layer_norm", f"{at}/ffn/layer_norm"]
    weights: dict[str, np.ndarray] = {}
    for name, shape in shapes.items():
        scale = np.prod(shape[1:]) ** -0.5
        weights[f"encoder/{name}/weight"] = scale * rng.normal(size=shape)
        weights[f"encoder/{name}/bias"] = 0.1 * rng.normal(size=shape[0])
    for name in norms:
        weights[f"encoder/{name}/gamma"] = np.ones(width)
        weights[f"encoder/{name}/beta"] = np.zeros(width)
    weights["encoder/position_encodings/encodings"] = 0.1 * rng.normal(size=(1500, width))
    return weights | {"encoder/num_heads": np.array(heads)}
