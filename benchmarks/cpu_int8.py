"""The matrix products of one layer at the 0.6B shape, by each way that a CPU has for 8-bit weights.

    python benchmarks/cpu_int8.py

float32 as `lean` has it; torch's weight-only product, its other operand in bfloat16; ours; and
torch's dynamically quantised product as it is, in which a row's result depends on its mates. Beside
each time, how far the result is from the float32 product of the same 8-bit weights.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from voice_agent.bench.engine_machine import conditions  # noqa: E402
from voice_agent.engine.quant import Int8Matrix, linear, quantize_rows, quantized  # noqa: E402

LAYER = ((4096, 1024), (1024, 4096), (3072, 1024), (1024, 1024), (2048, 1024), (1024, 1024),
         (4096, 1024), (1024, 4096))  # fmt: skip
"""ff1, qkv, out, point1, point2, ff2: (outputs, inputs)."""

Product = Callable[[torch.Tensor], torch.Tensor]


def ways(weight: torch.Tensor) -> dict[str, Product]:
    """Every product with one matrix, by its name in the table."""
    data, scale = quantize_rows(weight)
    rounded = data * scale[:, None]
    wide = weight.shape[0] > weight.shape[1]
    lean = rounded.t().contiguous() if wide else rounded.t()
    weight_only, ours = (Int8Matrix(data, scale), None), quantized((weight, None))
    found = {
        "float32": lambda x: torch.mm(x, lean),
        "weight-only": lambda x: linear(x, weight_only),
        "ours": lambda x: linear(x, ours),
    }
    packed = ours[0].data if isinstance(ours[0], Int8Matrix) else None
    if isinstance(packed, torch.ScriptObject):
        dynamic = torch.ops.quantized.linear_dynamic
        found["dynamic"] = lambda x: dynamic(x, packed, reduce_range=True) * scale
    return found


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 7, 14])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print("; ".join(f"{k} {v}" for k, v in conditions(torch.device("cpu")).items()), "\n")
    generator = torch.Generator().manual_seed(0)
    layer = [ways(torch.randn(shape, generator=generator)) for shape in LAYER]
    names = list(layer[0])
    print("| rows |", " | ".join(f"{name}, ms (ratio; off by)" for name in names), "|")
    print("|" + "---|" * (len(names) + 1))
    with torch.inference_mode():
        for rows in asked.rows:
            inputs = [torch.randn(rows, k, generator=generator) for _, k in LAYER]
            cells = []
            first = 0.0
            for name in names:
                ms = 1000 * _median_s([w[name] for w in layer], inputs, asked.rounds)
                first = first or ms
                off = max(_off(w, name, x) for w, x in zip(layer, inputs, strict=True))
                cells.append(f"{ms:.2f} ({first / ms:.1f}x; {off:.1e})")
            print(f"| {rows} |", " | ".join(cells), "|", flush=True)


def _median_s(products: list[Product], inputs: list[torch.Tensor], rounds: int) -> float:
    times = []
    for _ in range(rounds + 2):
        began = time.perf_counter()
        for product, x in zip(products, inputs, strict=True):
            product(x)
        times.append(time.perf_counter() - began)
    return statistics.median(times[2:])


def _off(products: dict[str, Product], name: str, x: torch.Tensor) -> float:
    want = products["float32"](x)
    return float((products[name](x) - want).norm() / want.norm())


if __name__ == "__main__":
    main()
