"""The step on a GPU: equal to the CPU's, the same in every company, and how long it takes.

    python benchmarks/gpu_check.py --out benchmarks/results/gpu_check.json

Correctness first: encoder frames and tokens of each kind of number beside float32 on the CPU;
graphs beside the same launches one by one; more than 2,000 streams alone and in batches of every
size. Then times. Needs torch with CUDA, Triton, numpy and PyYAML; no NeMo. `--device cpu --shape
toy` debugs it anywhere (with the plain modules).
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from voice_agent.bench.engine_audio import noise, samples_for, staged, windows  # noqa: E402
from voice_agent.bench.engine_floor import ceilings, step_counts, times_s  # noqa: E402
from voice_agent.bench.engine_machine import conditions  # noqa: E402
from voice_agent.bench.engine_random import calibrated  # noqa: E402
from voice_agent.bench.provenance import arguments  # noqa: E402
from voice_agent.bench.shapes import random_checkpoint  # noqa: E402
from voice_agent.bench.wer import load, read_manifest  # noqa: E402
from voice_agent.engine.checkpoint import Checkpoint, read_nemo  # noqa: E402
from voice_agent.engine.chunks import Chunks  # noqa: E402
from voice_agent.engine.runner import EngineRunner  # noqa: E402

KINDS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": torch.float32},
    "bfloat16": {"dtype": torch.bfloat16},
    "float16": {"dtype": torch.float16},
    "bfloat16, int8 weights": {"dtype": torch.bfloat16, "weights": "int8"},
    "bfloat16, int8 K and V": {"dtype": torch.bfloat16, "kv": "int8"},
    "bfloat16, int8 both": {"dtype": torch.bfloat16, "weights": "int8", "kv": "int8"},
    "float16, int8 both": {"dtype": torch.float16, "weights": "int8", "kv": "int8"},
}


def audio(config, right: int, steps: int, lanes: int, seed: int = 1) -> np.ndarray:
    """PCM windows of noise that swells like speech: (steps, lanes, window_samples)."""
    chunks = Chunks.of(config, right)
    rng = np.random.default_rng(seed)
    return windows(noise(lanes, samples_for(chunks, steps), rng), chunks, steps)


def people(manifest: Path, most: int = 40) -> np.ndarray:
    """First English clips of a manifest, 16 kHz: (clips, samples), silence after the shorter ones.

    No more of them than wide contexts have graphs for.
    """
    clips = [torch.from_numpy(load(clip)) for clip in read_manifest(manifest, "en")[:most]]
    return torch.nn.utils.rnn.pad_sequence(clips, batch_first=True).numpy()


def encoded_of(runner: EngineRunner, lanes: int, right: int) -> torch.Tensor:
    """Encoder frames of the step just made: (lanes, chunk, d_model)."""
    captured = runner.graphs._captured[runner.graphs._bucket(lanes, right), right]
    frames = captured.encoded[: lanes * (right + 1)].view(lanes, right + 1, -1)
    return frames.float().cpu()


def stream(runner: EngineRunner, pcm: np.ndarray, right: int) -> tuple[torch.Tensor, list]:
    """All steps of a batch; encoder frames (lanes, frames, d_model) and tokens by lane."""
    lanes = pcm.shape[1]
    slots = np.random.default_rng(0).permutation(runner.pool.slots)[:lanes]
    frames: list[torch.Tensor] = []
    plain = runner.encode

    def keep(*args):
        frames.append(plain(*args))
        return frames[-1]

    runner.encode = keep  # what the plain modules go through
    tokens: list[list[int]] = [[] for _ in range(lanes)]
    for slot in slots:
        runner.reset(int(slot))
    for step, window in enumerate(pcm):
        said = runner.step(slots, np.full(lanes, step * (right + 1)), window, right)
        for lane, token in zip(said.lanes.tolist(), said.tokens.tolist(), strict=True):
            tokens[lane].append(token)
        if runner.graphs is not None:
            frames.append(encoded_of(runner, lanes, right))
    runner.encode = plain
    return torch.cat([f.float().cpu() for f in frames], dim=1), tokens


def edits(a: list[int], b: list[int]) -> int:
    """Insertions, deletions and substitutions between two token sequences."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def parity(
    checkpoint: Checkpoint,
    device: str,
    kinds: list[str],
    rights: list[int],
    speech: np.ndarray | None = None,
) -> list[dict]:
    """Each kind of number beside float32 on the CPU, over speech (lanes, samples) or noise."""
    lanes, rows = 8 if speech is None else len(speech), []
    reference = EngineRunner(checkpoint, slots=lanes)
    wanted = {}
    for right in rights:
        if speech is None:
            pcm = audio(checkpoint.config, right, max(3, 50 // (right + 1)), lanes)
        else:
            chunks = Chunks.of(checkpoint.config, right)
            pcm = windows(speech, chunks, (speech.shape[1] - 2000) // chunks.samples)
        wanted[right] = pcm, *stream(reference, pcm, right)
    del reference
    for kind in kinds:
        runner = EngineRunner(checkpoint, slots=lanes + 3, device=device, **KINDS[kind])
        for right, (pcm, want, want_tokens) in wanted.items():
            got, tokens = stream(runner, pcm, right)
            cosine = torch.nn.functional.cosine_similarity(got, want, dim=-1)
            said = sum(map(len, want_tokens))
            wrong = sum(edits(a, b) for a, b in zip(want_tokens, tokens, strict=True))
            row = {
                "kind": kind, "right": right, "mode": runner.mode,
                "max_abs": (got - want).abs().max().item(),
                "min_cosine": cosine.min().item(), "mean_cosine": cosine.mean().item(),
                "tokens": said, "wrong": wrong, "token_error_percent": 100 * wrong / max(1, said),
            }  # fmt: skip
            rows.append(row)
            print(row, flush=True)
        print("  ", runner.report, runner.reason, flush=True)
    return rows


def graph_is_eager(checkpoint: Checkpoint, device: str, dtype: torch.dtype) -> list[dict]:
    """A graph beside the same launches one by one, and beside the plain modules on the device."""
    rows = []
    makes: dict[str, dict[str, Any]] = {
        "graph": {}, "launches": {"graphs": False}, "plain": {"kernels": False}
    }  # fmt: skip
    results = {}
    for name, how in makes.items():
        runner = EngineRunner(checkpoint, slots=37, device=device, dtype=dtype, **how)
        for right in (checkpoint.config.encoder.right_contexts[i] for i in (0, 1)):
            pcm = audio(checkpoint.config, right, 12, 37, seed=2)
            results[name, right] = stream(runner, pcm, right)
        print(name, runner.mode, runner.reason, flush=True)
    for (name, right), (frames, tokens) in results.items():
        want, want_tokens = results["graph", right]
        if name != "graph":
            rows.append(
                {
                    "beside": name, "right": right, "equal_bits": bool(torch.equal(frames, want)),
                    "max_abs": (frames - want).abs().max().item(),
                    "lanes_with_other_tokens": sum(
                        a != b for a, b in zip(tokens, want_tokens, strict=True)
                    ),
                }
            )  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def in_company(
    checkpoint: Checkpoint, device: str, dtype: torch.dtype, streams: int, groups: list[int]
) -> list[dict]:
    """How many streams say something else in another company; the first group is the norm."""
    steps, right = 25, checkpoint.config.encoder.right_contexts[0]
    pcm = audio(checkpoint.config, right, steps, streams, seed=3)
    runner = EngineRunner(checkpoint, slots=max(groups), device=device, dtype=dtype)
    rows, norm = [], None
    for group in groups:
        began = time.perf_counter()
        tokens: list[list[int]] = []
        for first in range(0, streams, group):
            tokens += stream_tokens(runner, pcm[:, first : first + group], right)
        norm = norm or tokens
        rows.append(
            {
                "streams": streams, "lanes": group, "tokens": sum(map(len, tokens)),
                "streams_that_differ": sum(a != b for a, b in zip(tokens, norm, strict=True)),
                "s": time.perf_counter() - began,
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def stream_tokens(runner: EngineRunner, pcm: np.ndarray, right: int) -> list[list[int]]:
    """All steps of a batch, in slots of its own choice; tokens by lane."""
    steps, lanes, _ = pcm.shape
    slots = np.random.default_rng(lanes).permutation(runner.pool.slots)[:lanes]
    tokens: list[list[int]] = [[] for _ in range(lanes)]
    for step in range(steps):
        said = runner.step(slots, np.full(lanes, step * (right + 1)), pcm[step], right)
        for lane, token in zip(said.lanes.tolist(), said.tokens.tolist(), strict=True):
            tokens[lane].append(token)
    return tokens


def time_steps(
    checkpoint: Checkpoint, device: str, batches: list[int], steps: int, **how: Any
) -> list[dict]:
    """A whole step from PCM on the host to tokens on the host, of streams with all their past."""
    rows, config = [], checkpoint.config
    right = config.encoder.right_contexts[0]
    runner = EngineRunner(checkpoint, slots=max(batches), device=device, **how)
    print("  ", runner.mode, runner.reason, runner.report, flush=True)
    where = torch.device(device)
    reached = ceilings(where, how["dtype"]) if max(batches) < 4096 else None
    past = config.encoder.left(right)
    heard = audio(config, right, past + steps, min(max(batches), 256), seed=4)
    for batch in batches:
        slots = np.random.default_rng(0).permutation(max(batches))[:batch]
        lanes = np.arange(batch) % heard.shape[1]
        taken, said = [], 0
        for step, window in enumerate(heard):
            pcm = staged(runner, window[lanes])
            began = time.perf_counter()
            out = runner.step(slots, np.full(batch, step * (right + 1)), pcm, right)
            if step >= past:
                taken.append((time.perf_counter() - began) * 1000)
                said += len(out)
        taken.sort()
        row: dict[str, Any] = {
            "batch": batch, "p50_ms": taken[len(taken) // 2],
            "p95_ms": taken[int(len(taken) * 0.95)],
            "p99_ms": taken[int(len(taken) * 0.99)],
            "tokens_a_frame": said / (steps * batch * (right + 1)),
        }  # fmt: skip
        if runner.graphs is not None:
            captured = runner.graphs._captured[runner.graphs._bucket(batch, right), right]
            works = {"device": captured.step, **runner.parts(batch, right)}
            for name, work in works.items():
                row[f"{name}_ms"] = 1000 * float(np.median(times_s(work, where, 20)))
        if reached:
            counts = step_counts(
                config, batch, right, weight_bytes=1 if how.get("weights") else 2,
                kv_bytes=1 if how.get("kv") else 2, state_bytes=2,
                tokens_a_frame=row["tokens_a_frame"],
            )  # fmt: skip
            row["floor_bytes_ms"], row["floor_flop_ms"] = reached.floor_ms(counts)
        rows.append(row)
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
    return rows


def profile(checkpoint: Checkpoint, device: str, batches: list[int], **how: Any) -> dict:
    """Microseconds of each kernel in a step, summed over its launches."""
    right = checkpoint.config.encoder.right_contexts[0]
    runner = EngineRunner(checkpoint, slots=max(batches), device=device, **how)
    found: dict[str, dict[str, list[float]]] = {}
    past, steps = checkpoint.config.encoder.left(right), 10
    heard = audio(checkpoint.config, right, past + steps, min(max(batches), 256), seed=4)
    for batch in batches:
        slots, lanes = np.arange(batch), np.arange(batch) % heard.shape[1]

        def go(first: int, last: int, slots=slots, lanes=lanes) -> None:
            for step in range(first, last):
                pos = np.full(len(slots), step * (right + 1))
                runner.step(slots, pos, staged(runner, heard[step][lanes]), right)

        go(0, past)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
            go(past, past + steps)
        kernels = [
            (event.key, event.self_device_time_total / steps, event.count / steps)
            for event in seen.key_averages()
        ]
        kernels.sort(key=lambda k: -k[1])
        found[str(batch)] = {name[:60]: [round(us, 1), count] for name, us, count in kernels[:24]}
        print(f"-- batch {batch}: {sum(us for _, us, _ in kernels):.0f} us in kernels", flush=True)
        for name, us, count in kernels[:18]:
            print(f"{us:9.1f} us {count:6.0f} x  {name[:60]}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shape", default="nemotron-0.6b")
    parser.add_argument("--dtype", default="bfloat16", help="of the graphs, companies and times")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), help="kinds to compare")
    parser.add_argument("--rights", type=int, nargs="*", default=[0, 1, 6, 13])
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 64, 512, 1024, 4096, 8192])
    parser.add_argument("--batches-int8", type=int, nargs="*", default=[], help="with 8 bits too")
    parser.add_argument("--random-kinds", nargs="*", help="of the random shape; None for --kinds")
    parser.add_argument("--groups", type=int, nargs="*", default=[2048, 1, 13, 64, 700])
    parser.add_argument("--streams", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--profile", type=int, nargs="*", default=[1, 512])
    parser.add_argument("--checkpoint", type=Path, help="a trained .nemo, to compare over --speech")
    parser.add_argument("--speech", type=Path, help="manifest.jsonl of clips")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    result: dict[str, Any] = {"shape": args.shape, **conditions(torch.device(args.device))}
    result["command"] = shlex.join(["python", "benchmarks/gpu_check.py", *arguments()])
    print(json.dumps(result, indent=1), flush=True)

    def save() -> None:
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(result, indent=1) + "\n")

    if args.checkpoint:
        trained, speech = read_nemo(args.checkpoint), people(args.speech)
        print("trained:", args.checkpoint, flush=True)
        result["trained"] = parity(trained, args.device, args.kinds, args.rights, speech)
        save()
    random = random_checkpoint(args.shape)
    right = random.config.encoder.right_contexts[0]
    checkpoint, result["tokens_a_frame"] = calibrated(random, right=right, device=args.device)
    print("calibrated:", result["tokens_a_frame"], "tokens a frame", flush=True)
    dtype = getattr(torch, args.dtype)
    kinds = args.kinds if args.random_kinds is None else args.random_kinds
    if kinds:
        result["parity"] = parity(checkpoint, args.device, kinds, args.rights)
        save()
    if args.groups:
        result["graph_is_eager"] = graph_is_eager(checkpoint, args.device, dtype)
        save()
        result["in_company"] = in_company(checkpoint, args.device, dtype, args.streams, args.groups)
        save()
    if args.batches:
        result["step"] = time_steps(checkpoint, args.device, args.batches, args.steps, dtype=dtype)
        save()
    if args.batches_int8:
        result["step_int8"] = time_steps(
            checkpoint, args.device, args.batches_int8, args.steps, dtype=dtype,
            weights="int8", kv="int8",
        )  # fmt: skip
        save()
    if args.profile and args.device != "cpu":
        result["profile_us"] = profile(checkpoint, args.device, args.profile, dtype=dtype)
    save()


if __name__ == "__main__":
    main()
