"""The eager engine on a GPU: equal to the CPU in fp32, close to it in bf16, and how long a step is.

    python benchmarks/gpu_check.py --out benchmarks/results/gpu_check.json

Needs torch with CUDA, numpy and PyYAML; no NeMo. `--device cpu --shape toy` debugs it anywhere.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from voice_agent.bench.shapes import random_checkpoint  # noqa: E402
from voice_agent.engine.chunks import Chunks  # noqa: E402
from voice_agent.engine.runner import EngineRunner  # noqa: E402


def windows(chunks: Chunks, steps: int, lanes: int) -> np.ndarray:
    """PCM windows of `steps` chunks of noise for each lane: (steps, lanes, window_samples)."""
    rng = np.random.default_rng(0)
    audio = rng.standard_normal((lanes, chunks.samples * (steps + 2))).astype(np.float32) * 0.1
    lead = -chunks.window(0)[0]
    audio[:, :lead] = 0.0
    starts = [chunks.window(c)[0] + lead for c in range(steps)]
    return np.stack([audio[:, s : s + chunks.window_samples] for s in starts])


def stream(runner: EngineRunner, pcm: np.ndarray, chunks: Chunks):
    """All steps; returns encoder frames (lanes, frames, d) and tokens by lane."""
    frames = []
    original = runner.encode

    def keep(*args):
        frames.append(original(*args))
        return frames[-1]

    runner.encode = keep
    slots = list(range(pcm.shape[1]))
    for slot in slots:
        runner.reset(slot)
    tokens = [[] for _ in slots]
    for step, batch in enumerate(pcm):
        emitted = runner.step(slots, [step * chunks.frames] * len(slots), batch, chunks.right)
        for lane, said in enumerate(tokens):
            said += emitted.tokens_of(lane)
    runner.encode = original
    return torch.cat(frames, dim=1).float().cpu(), tokens


def compare(checkpoint, device: str) -> list[dict]:
    """Encoder and tokens on the device beside fp32 on the CPU."""
    rows = []
    reference = EngineRunner(checkpoint, slots=4)
    for dtype in (torch.float32, torch.bfloat16):
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        runner = EngineRunner(checkpoint, slots=4, device=device, dtype=dtype)
        for right in (0, 13):
            chunks = Chunks.of(checkpoint.config, right)
            pcm = windows(chunks, 24 if right == 0 else 4, 2)
            want, want_tokens = stream(reference, pcm, chunks)
            got, got_tokens = stream(runner, pcm, chunks)
            cosine = torch.nn.functional.cosine_similarity(got, want, dim=-1)
            rows.append(
                {
                    "dtype": str(dtype),
                    "right": right,
                    "max_abs": (got - want).abs().max().item(),
                    "min_cosine": cosine.min().item(),
                    "tokens": sum(map(len, want_tokens)),
                    "lanes_with_other_tokens": sum(
                        a != b for a, b in zip(got_tokens, want_tokens, strict=True)
                    ),
                }
            )
            print(rows[-1], flush=True)
    return rows


def time_steps(checkpoint, device: str, batches: list[int]) -> list[dict]:
    """Wall time of a whole eager step (features, encoder, decoder, tokens on the host)."""
    rows = []
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    chunks = Chunks.of(checkpoint.config, 0)
    runner = EngineRunner(checkpoint, slots=max(batches), device=device, dtype=dtype)
    for batch in batches:
        pcm = windows(chunks, 30, batch)
        times = []
        for slot in range(batch):
            runner.reset(slot)
        for step, window in enumerate(pcm):
            began = time.perf_counter()
            runner.step(list(range(batch)), [step] * batch, window, 0)
            times.append((time.perf_counter() - began) * 1000)
        times = sorted(times[5:])
        rows.append({"batch": batch, "p50_ms": statistics.median(times), "max_ms": times[-1]})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shape", default="nemotron-0.6b")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64, 256])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    chip = torch.cuda.get_device_name(0) if args.device != "cpu" else platform.processor()
    result = {
        "chip": chip,
        "torch": torch.__version__,
        "shape": args.shape,
        "command": " ".join(sys.argv),
    }
    print(result, flush=True)
    checkpoint = random_checkpoint(args.shape)
    result["parity"] = compare(checkpoint, args.device)
    result["eager_step"] = time_steps(checkpoint, args.device, args.batches)
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
