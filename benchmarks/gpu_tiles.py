"""Which tile is fastest for each matrix product and for attention, and that tiles give equal bits.

    python benchmarks/gpu_tiles.py --out benchmarks/results/gpu_tiles.json

Weights of 24 layers are gone through in turn, as in a step, so that they come from memory and not
from the cache. cuBLAS stands beside. What is found goes by hand into `voice_agent/engine/tiles.py`
and `kernels/attention.py`.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from voice_agent.engine.kernels import attention  # noqa: E402
from voice_agent.engine.kernels.linear import Tile, Weight, linear  # noqa: E402

PRODUCTS = {"up": (4096, 1024), "down": (1024, 4096), "qkv": (3072, 1024), "square": (1024, 1024),
            "glu": (2048, 1024)}  # fmt: skip
FEW = [Tile(64, 16, 128, 4, 5), Tile(16, 16, 256, 4, 4), Tile(16, 32, 128, 4, 5),
       Tile(64, 16, 256, 4, 4), Tile(64, 32, 128, 4, 5),
       Tile(64, 32, 256, 4, 3), Tile(64, 64, 128, 4, 4), Tile(64, 16, 128, 4, 8)]  # fmt: skip
SOME = [Tile(64, 32, 128, 4, 5), Tile(64, 64, 64, 4, 5), Tile(64, 64, 128, 4, 4),
        Tile(64, 128, 64, 4, 4), Tile(128, 64, 64, 4, 4), Tile(128, 128, 64, 4, 4),
        Tile(128, 128, 64, 8, 4)]  # fmt: skip
MANY = [Tile(128, 128, 64, 4, 4), Tile(128, 128, 64, 8, 4), Tile(128, 256, 64, 8, 3),
        Tile(128, 256, 64, 8, 4), Tile(256, 128, 64, 8, 3)]  # fmt: skip
LAYERS = 24


def per_launch_us(work, repeats: int = 5) -> float:
    """Median over graph replays of one launch's share, in microseconds; `work(i)` is layer i's."""
    for i in range(LAYERS):
        work(i)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(LAYERS):
            work(i)
    times = []
    for _ in range(repeats + 1):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return 1000 * sorted(times[1:])[repeats // 2] / LAYERS


SHAPES = [(16, 1, 2), (16, 1, 3), (16, 2, 2), (32, 1, 2), (32, 2, 2), (32, 2, 3), (32, 4, 2),
          (64, 4, 2), (128, 4, 1), (128, 8, 1)]  # fmt: skip
LONE = [(16, 1), (16, 2), (32, 1), (32, 2), (32, 4), (64, 4)]


def attention_rows(lanes: list[int]) -> list[dict]:
    """Microseconds of one layer's attention by (keys a block, warps, stages), and its error.

    Chunks of one frame have a kernel and shapes of their own; of two, those of all others.
    """
    heads, d_head, ring, left, layers = 8, 128, 84, 70, 8
    most, rows = max(lanes), []
    kv = [
        torch.randn(layers, most, heads, ring, d_head, device="cuda", dtype=torch.bfloat16)
        for _ in range(2)
    ]
    table = torch.randn(heads, 97, d_head, device="cuda", dtype=torch.bfloat16)
    bias = [torch.randn(heads, d_head, device="cuda", dtype=torch.bfloat16) for _ in range(2)]
    slots = torch.randperm(most, device="cuda").int()
    pos = torch.full((most,), 1000, device="cuda", dtype=torch.int32)
    qkv = torch.randn(2 * most, 3 * heads * d_head, device="cuda", dtype=torch.bfloat16)
    out = torch.empty(2 * most, heads * d_head, device="cuda", dtype=torch.bfloat16)

    def run(i: int, n: int, chunk: int) -> None:
        attention.attention(
            qkv[: n * chunk], kv[0][i % layers], kv[1][i % layers], out[: n * chunk],
            bias_u=bias[0], bias_v=bias[1], table=table, slots=slots[:n], pos=pos[:n],
            chunk=chunk, left=left, max_chunk=14, lanes=counts[n],
        )  # fmt: skip

    counts = {n: torch.tensor([n], dtype=torch.int32, device="cuda") for n in lanes}
    for chunk, n in ((chunk, n) for chunk in (1, 2) for n in lanes):
        row: dict = {"lanes": n, "chunk": chunk}
        for shape in LONE if chunk == 1 else SHAPES:
            setattr(attention, "LONE" if chunk == 1 else "SHAPE", shape)
            try:
                work = functools.partial(run, n=n, chunk=chunk)
                row[str(shape)] = round(per_launch_us(work), 2)
            except Exception as error:
                row[str(shape)] = str(error)[:60]
        row["bytes_us_at_3TB/s"] = round(n * (left + 2) * heads * d_head * 4 / 3e6, 2)
        rows.append(row)
        print(row, flush=True)
    return rows


def ours(x, w, out, lanes, rows: int, tile: Tile, i: int) -> None:
    """Our product by layer i's weights."""
    linear(x[:rows], Weight(w[i]), out[:rows], lanes, tile)


def cublas(x, w, out, rows: int, i: int) -> None:
    """The library's."""
    torch.matmul(x[:rows], w[i].T, out=out[:rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 64, 256, 512, 1024, 4096, 8192])
    parser.add_argument("--lanes", type=int, nargs="*", default=[1, 64, 512, 4096])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    result: dict = {"chip": torch.cuda.get_device_name(0), "torch": torch.__version__, "us": []}
    result["attention_us"] = attention_rows(args.lanes) if args.lanes else []
    first: dict[str, torch.Tensor] = {}
    for rows in args.rows:
        tiles = FEW if rows <= 64 else SOME if rows <= 1024 else MANY
        if rows == 1024:
            tiles = SOME + MANY[2:]
        for name, (n, k) in PRODUCTS.items():
            torch.manual_seed(n + k)
            w = torch.randn(LAYERS, n, k, device="cuda", dtype=torch.bfloat16) * k**-0.5
            row_of_all = torch.randn(k, device="cuda", dtype=torch.bfloat16)
            x = torch.randn(max(rows, 64), k, device="cuda", dtype=torch.bfloat16)
            x[0] = row_of_all
            out = torch.empty(max(rows, 64), n, device="cuda", dtype=torch.bfloat16)
            lanes = torch.tensor([rows], dtype=torch.int32, device="cuda")
            row = {"rows": rows, "product": name}
            best = None
            for tile in tiles:
                key = f"{tile.m}x{tile.n}x{tile.k}w{tile.warps}s{tile.stages}"
                try:
                    took = per_launch_us(functools.partial(ours, x, w, out, lanes, rows, tile))
                except Exception as error:  # a tile that does not fit this chip
                    row[key] = str(error)[:60]
                    continue
                ours(x, w, out, lanes, rows, tile, 0)
                mine = out[0].clone()
                want = first.setdefault(name, mine)
                row[key] = round(took, 2)
                if not torch.equal(mine, want):
                    row[key] = f"{took:.2f} OTHER BITS"
                best = min(best or took, took)
            row["cublas"] = round(per_launch_us(functools.partial(cublas, x, w, out, rows)), 2)
            row["best"] = round(best or 0, 2)
            row["tflops"] = round(2 * rows * n * k / (best or 1e9) / 1e6, 1)
            result["us"].append(row)
            print(row, flush=True)
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
