"""How long a training step of tiny-en takes on a GPU, and where its time goes.

    python benchmarks/training_step.py --tokenizer tokenizer.model [--teacher teacher.npz]

Noise in the place of speech, random words in the place of text: only the shapes are the recipe's.
Every part is captured as a CUDA graph and replayed, as training does. First the transducer's
kernels beside plain PyTorch: it ends with an error where they differ. `training.pack` makes both
files, as `made/tree/…`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import sentencepiece
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))

from training import rnnt_loss  # noqa: E402
from training.fastconformer import roomy  # noqa: E402
from training.graphs import Graphs  # noqa: E402
from training.pool import Pool, write_shard  # noqa: E402
from training.step import Phase, Step  # noqa: E402
from training.student import Recipe  # noqa: E402
from training.teacher import WhisperEar  # noqa: E402
from training.tiny_en import SHAPE, SHARES  # noqa: E402
from voice_agent.bench.engine_floor import times_s  # noqa: E402

PHASE = Phase(rnnt=True, phones=False, near=True)
DEVICE = torch.device("cuda")


def milliseconds(replay: Callable[[], object]) -> float:
    """Return how long a call takes, the mean of twenty."""
    return 1000 * statistics.mean(times_s(replay, DEVICE, 20))


def graphed(work: Callable[[], object]) -> float:
    """Capture what `work` does, and return how long a replay takes in ms."""
    aside = torch.cuda.Stream()
    with torch.cuda.stream(aside):
        work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return milliseconds(graph.replay)


def a_pool(folder: Path, tokenizer: Path) -> Pool:
    """Return a pool of noise from 2 to 15 s long, with the right amount of text."""
    rng = np.random.default_rng(0)
    words = "the of and to in that was with it is for as had you not be her".split()
    rows = []
    for seconds in rng.uniform(2, 15, 400):
        noise = (2000 * rng.standard_normal(int(16_000 * seconds))).astype(np.int16)
        rows.append((noise, " ".join(rng.choice(words, int(2.6 * seconds))), "kokoro/noise"))
    write_shard(folder, "noise", rows)
    encode = sentencepiece.SentencePieceProcessor(str(tokenizer)).encode
    pool = Pool(folder, encode, 2.0, DEVICE)
    pool.refresh()
    return pool


def transducer(rows: int, frames: int, nodes: int) -> None:
    """Compare the transducer's passes over its logits, and the product that makes these."""
    torch.manual_seed(0)
    x = torch.randn(rows, frames, nodes, SHAPE.joint_hidden, device=DEVICE, dtype=torch.bfloat16)
    layer = torch.nn.Linear(SHAPE.joint_hidden, SHAPE.vocab_size + 1, device=DEVICE)
    layer = layer.to(torch.bfloat16)
    print(f"{rows} x {frames} x {nodes} pairs: their product with {layer.out_features} classes")
    with torch.no_grad():
        print(f"  as they are  {graphed(lambda: F.linear(x, layer.weight, layer.bias)):6.2f} ms")
        print(f"  roomy        {graphed(lambda: roomy(layer, x)):6.2f} ms")
        logits = roomy(layer, x)
    from training import rnnt_kernels

    labels = torch.randint(0, SHAPE.vocab_size, (rows, nodes), device=DEVICE)
    blank, shares = SHAPE.vocab_size, torch.rand(2, rows, frames, nodes, device=DEVICE)
    made = []
    for name, passes in (("plain PyTorch", rnnt_loss), ("kernels", rnnt_kernels)):
        read = passes.read(logits, labels, blank)
        made.append((*read, passes.write(logits, labels, read[0], *shares, blank)))
        took = (
            graphed(lambda p=passes: p.read(logits, labels, blank)),
            graphed(lambda p=passes, n=read[0]: p.write(logits, labels, n, *shares, blank)),
        )
        print(f"  {name}: {took[0]:.2f} ms forward, {took[1]:.2f} backward")
    for one, other in zip(*made, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)


def main() -> None:
    """Read the command line, and print a line a part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, required=True, help="a sentencepiece model")
    parser.add_argument("--teacher", type=Path, help="Whisper's encoder, as training.pack has it")
    parser.add_argument("--batch-seconds", type=float, default=700.0)
    parser.add_argument("--width", type=int, default=14, help="seconds of an utterance's room")
    args = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.enable_cudnn_sdp(False)
    transducer(37, 176, 73)
    recipe = Recipe(seconds_per_batch=args.batch_seconds, shares=SHARES)
    ear = WhisperEar(dict(np.load(args.teacher)), DEVICE) if args.teacher else None
    with tempfile.TemporaryDirectory() as folder:
        pool = a_pool(Path(folder), args.tokenizer)
    step, rng = Step(SHAPE, recipe, pool, DEVICE, ear), np.random.default_rng(1)
    step.learn_places()
    draws = pool.batches(SHARES, recipe.seconds_per_batch / recipe.views, rng, draw=6000)
    draw = next(draw for draw in draws if draw.seconds == args.width)
    played = step.drawn(draw, 0.5, rng)
    graphs = Graphs(step)
    print(f"{recipe.views} x {len(draw.rows)} utterances in {draw.seconds} s each")
    print(f"  a step       {milliseconds(lambda: graphs.gradients(played, PHASE)):6.2f} ms")
    there = played.to(DEVICE)
    with torch.no_grad():
        heard = graphed(lambda: step.batch(there, PHASE))
    print(f"  to be heard  {heard:6.2f} ms{', the teacher included' if ear else ''}")
    print(f"  {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB at most")


if __name__ == "__main__":
    main()
