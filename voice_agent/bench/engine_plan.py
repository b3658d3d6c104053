"""From what was asked of `bench engine` to what is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voice_agent.bench.engine_run import Plan
    from voice_agent.engine.checkpoint import Checkpoint

PEERS = ("nemo", "transformers", "sherpa-onnx", "sherpa-onnx-float32")
"""The last two are never chosen by themselves: to export a large model takes minutes."""
_RANDOM_LIMIT, _TRAINED_LIMIT = 0.25, 0.02


def read_weights(checkpoint: str | None, shape: str | None) -> tuple[Checkpoint, float | None]:
    """The checkpoint, and the limit of wrong tokens that random weights have; None for others.

    Raises:
        ValueError: no such shape.
        EngineError: a checkpoint that is not there or cannot be read.
    """
    if shape is not None:
        from voice_agent.bench.shapes import random_checkpoint

        return random_checkpoint(shape), _RANDOM_LIMIT
    from voice_agent.engine.checkpoint import read_nemo
    from voice_agent.engine.hf import read_hf
    from voice_agent.models import locate

    assert checkpoint is not None
    path = locate(checkpoint).path
    return (read_hf if path.is_dir() else read_nemo)(path, name=checkpoint), None


def make_plan(
    found: Checkpoint,
    model: str,
    right: int | None,
    dtype: str,
    device: str,
    batches: str,
    steps: int,
    weights: str | None,
    kv: str | None,
    threads: int | None,
    max_token_error: float | None,
    random_limit: float | None,
    peers_up_to: int,
) -> Plan:
    """Check what was asked, and set torch up for it.

    Raises:
        ValueError: a value that makes no plan, named as its option.
        EngineError: a device that is not to be had.
    """
    import torch

    from voice_agent.bench.engine_run import Plan
    from voice_agent.engine.loading import pick_device

    where = pick_device(device)
    rights = found.config.encoder.right_contexts
    if right is not None and right not in rights:
        raise ValueError(f"--right {right}: {model} has {', '.join(map(str, rights))}")
    if dtype == "auto":
        dtype = "float16" if where.type == "cuda" else "float32"
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"--dtype {dtype}: float32, bfloat16 or float16")
    for name, value in (("weights", weights), ("kv", kv)):
        if value not in (None, "int8"):
            raise ValueError(f"--{name} {value}: int8, or leave it out")
    try:
        lanes = tuple(int(b) for b in batches.split(",") if b.strip())
    except ValueError:
        raise ValueError(f"--batches {batches}: whole numbers between commas") from None
    if any(b < 1 for b in lanes):
        raise ValueError(f"--batches {batches}: a step has one lane or more")
    if where.type == "cpu" and threads:
        torch.set_num_threads(threads)
    # Products in float32 are float32: no TF32, so that tokens can be equal.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    if max_token_error is None:
        max_token_error = _TRAINED_LIMIT if random_limit is None else random_limit
    return Plan(
        model=model, right=rights[0] if right is None else right, dtype=dtype, device=where,
        batches=lanes, steps=steps, weights=weights, kv=kv,
        threads=threads if where.type == "cpu" else None,
        max_token_error=max_token_error, peers_up_to=peers_up_to,
    )  # fmt: skip


def choose_peers(beside: str) -> tuple[str, ...]:
    """Names of the systems to measure beside ours.

    Raises:
        ValueError: one that is not known.
    """
    from importlib.util import find_spec

    if beside == "none":
        return ()
    if beside == "installed":
        return tuple(name for name in PEERS if find_spec(name))
    asked = tuple(name.strip() for name in beside.split(",") if name.strip())
    for name in asked:
        if name not in PEERS:
            raise ValueError(f"--beside {name}: {', '.join(PEERS)}, installed or none")
    return asked
