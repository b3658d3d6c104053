"""Products with 8-bit weights on a CPU: what they round, and that no row minds its mates."""

from __future__ import annotations

import pytest
import torch

from voice_agent.engine import quant
from voice_agent.engine.quant import Int8Matrix, linear, quantize_rows, quantized

SIZES = [(40, 96), (33, 97), (64, 512)]
"""(outputs, inputs); with odd ones no row begins where a vector does."""

needs_fbgemm = pytest.mark.skipif(
    "fbgemm" not in torch.backends.quantized.supported_engines, reason="fbgemm is for x86"
)


def operand(rows: int, k: int) -> torch.Tensor:
    """Rows of very different magnitude."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, k, generator=generator) * 10 ** torch.linspace(-3, 3, rows)[:, None]


def layer(n: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, k, generator=generator), torch.randn(n, generator=generator)


@pytest.mark.parametrize("n, k", SIZES)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_alone_is_the_row_among_others_bit_for_bit(n, k, threads):
    pair, x = quantized(layer(n, k)), operand(37, k)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = linear(x, pair)
        for mates in (1, 2, 5):
            for first in range(0, len(x), mates):
                rows = slice(first, first + mates)
                assert torch.equal(linear(x[rows], pair), together[rows])
    finally:
        torch.set_num_threads(before)


def test_a_row_that_is_not_finite_is_so_alone():
    pair, x = quantized(layer(40, 96)), operand(7, 96)
    want = linear(x, pair)
    x[2, 5], x[4, 0], x[5] = float("nan"), float("inf"), 0.0
    got = linear(x, pair)
    assert torch.equal(got[[0, 1, 3, 6]], want[[0, 1, 3, 6]])
    assert not got[2].isfinite().any()
    assert not got[4].isfinite().any()
    assert torch.equal(got[5], pair[1])


@needs_fbgemm
@pytest.mark.parametrize("n, k", SIZES)
def test_it_is_the_product_of_integers_that_it_says(n, k):
    """In float64, where every sum of these integers is exact."""
    weight, bias = layer(n, k)
    data, scale = quantize_rows(weight)
    x, steps = operand(37, k), quant._steps()
    largest = x.abs().amax(1, keepdim=True)
    exact = x * (steps / largest)
    over = ((exact - exact.round()) * (2 * steps)).round()
    rounded = exact.round().double() + over.double() / (2 * steps)
    want = (rounded @ data.double().t()) * (largest / steps) * scale + bias
    got = linear(x, quantized((weight, bias))).double()
    unit = (rounded.abs() @ data.double().abs().t()) * (largest / steps) * scale + bias.abs()
    assert ((got - want).abs() <= 1e-6 * unit).all()


@needs_fbgemm
def test_the_largest_sums_do_not_saturate():
    steps = quant._steps()
    x = torch.full((3, 4096), float(steps))
    x[1] *= -1
    data = torch.full((16, 4096), 127, dtype=torch.int8)
    pair = (Int8Matrix(quant._packed(data), torch.ones(16)), None)
    assert torch.equal(linear(x, pair), x[:, :1] * (127 * 4096) * torch.ones(16))


@needs_fbgemm
def test_it_is_nearer_to_float32_than_the_weight_only_product(n=256, k=512):
    weight, _ = layer(n, k)
    data, scale = quantize_rows(weight)
    x = operand(37, k)
    want = x @ (data * scale[:, None]).t()
    ours, weight_only = (
        ((linear(x, pair) - want) / want.norm(dim=1, keepdim=True)).norm()
        for pair in (quantized((weight, None)), (Int8Matrix(data, scale), None))
    )
    assert ours < weight_only / 5


def test_packing_leaves_torchs_back_end_as_it_was():
    before = torch.backends.quantized.engine
    quantized(layer(8, 16))
    assert torch.backends.quantized.engine == before
