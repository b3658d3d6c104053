"""The ONNX operators of Kokoro-82M (int8, dynamically quantised) and Piper voices, in PyTorch.

Each takes the node's attributes and its inputs, and follows the ONNX operator definitions.
Activations are never quantised. Shape arithmetic stays on the CPU: integer tensors are moved only
where a float tensor on the device meets them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_TYPES = {1: torch.float32, 2: torch.uint8, 3: torch.int8, 6: torch.int32, 7: torch.int64}
_TYPES |= {9: torch.bool, 10: torch.float32, 11: torch.float32}
Value = Any
OPS: dict[str, Callable[..., Value]] = {}


def op(*names: str) -> Callable[[Callable[..., Value]], Callable[..., Value]]:
    """Register the function as the meaning of these operators: `f(attributes, *inputs)`."""

    def register(function: Callable[..., Value]) -> Callable[..., Value]:
        OPS.update(dict.fromkeys(names, function))
        return function

    return register


def _ints(x: Tensor) -> list[int]:
    return [int(v) for v in x.reshape(-1).tolist()]


_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Pow": torch.pow,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "Less": torch.lt,
    "GreaterOrEqual": torch.ge,
    "LessOrEqual": torch.le,
    "And": torch.logical_and,
    "MatMul": torch.matmul,
}
_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Sqrt": torch.sqrt,
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Exp": torch.exp,
    "Tanh": torch.tanh,
    "Sigmoid": torch.sigmoid,
    # atan2 is exported as atan(y / x): 0 / 0, a silent harmonic, must give an angle, any angle.
    "Atan": lambda x: torch.atan(torch.nan_to_num(x)),
    "Round": torch.round,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Erf": torch.erf,
    "Relu": torch.relu,
    "Softplus": F.softplus,
}
for _name, _function in _BINARY.items():
    OPS[_name] = lambda a, x, y, f=_function: f(x, y)
for _name, _function in _UNARY.items():
    OPS[_name] = lambda a, x, f=_function: f(x)


@op("Div")
def _div(a: dict, x: Tensor, y: Tensor) -> Tensor:
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


@op("Cast")
def _cast(a: dict, x: Tensor) -> Tensor:
    return x.to(_TYPES[a["to"]])


@op("Unsqueeze")
def _unsqueeze(a: dict, x: Tensor, axes: Tensor) -> Tensor:
    rank = x.dim() + axes.numel()
    for axis in sorted(i % rank for i in _ints(axes)):
        x = x.unsqueeze(axis)
    return x


@op("Squeeze")
def _squeeze(a: dict, x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(_ints(axes)))


@op("Reshape")
def _reshape(a: dict, x: Tensor, shape: Tensor) -> Tensor:
    sizes = [x.shape[i] if n == 0 else n for i, n in enumerate(_ints(shape))]
    return x.reshape(sizes)


@op("Gather")
def _gather(a: dict, x: Tensor, index: Tensor) -> Tensor:
    axis = a.get("axis", 0) % x.dim()
    if index.dim() == 0 and index.device.type == "cpu":
        return x.select(axis, int(index))
    index = torch.where(index < 0, index + x.shape[axis], index)
    out = x.index_select(axis, index.reshape(-1))
    return out.reshape(x.shape[:axis] + index.shape + x.shape[axis + 1 :])


@op("GatherElements")
def _gather_elements(a: dict, x: Tensor, index: Tensor) -> Tensor:
    axis = a.get("axis", 0)
    return x.gather(axis, torch.where(index < 0, index + x.shape[axis], index))


@op("GatherND")
def _gather_nd(a: dict, x: Tensor, index: Tensor) -> Tensor:
    return x[tuple(index.unbind(-1))]


@op("ScatterND")
def _scatter_nd(a: dict, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    x = x.clone()
    x[tuple(index.unbind(-1))] = updates
    return x


@op("NonZero")
def _nonzero(a: dict, x: Tensor) -> Tensor:
    return x.nonzero().T.contiguous()


@op("ReduceMean", "ReduceSum", "ReduceMax")
def _reduce(a: dict, x: Tensor, axes: Tensor | None = None) -> Tensor:
    dims = tuple(_ints(axes)) if axes is not None else tuple(a.get("axes", range(x.dim())))
    function = {"ReduceMean": torch.mean, "ReduceSum": torch.sum, "ReduceMax": torch.amax}
    return function[a["op"]](x, dim=dims, keepdim=bool(a.get("keepdims", 1)))


@op("Split")
def _split(a: dict, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = a.get("axis", 0)
    if sizes is not None:
        return x.split(_ints(sizes), axis)
    return x.chunk(a["outputs"], axis)


@op("Transpose")
def _transpose(a: dict, x: Tensor) -> Tensor:
    return x.permute(a["perm"])


@op("Shape")
def _shape(a: dict, x: Tensor) -> Tensor:
    return torch.tensor(x.shape[a.get("start", 0) : a.get("end")])


@op("Concat")
def _concat(a: dict, *xs: Tensor) -> Tensor:
    return torch.cat(xs, a["axis"])


@op("LeakyRelu")
def _leaky(a: dict, x: Tensor) -> Tensor:
    return F.leaky_relu(x, a.get("alpha", 0.01))


@op("Clip")
def _clip(a: dict, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    return x.clamp(None if low is None else low.item(), None if high is None else high.item())


@op("Slice")
def _slice(
    a: dict,
    x: Tensor,
    starts: Tensor,
    ends: Tensor,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    begin, end = _ints(starts), _ints(ends)
    dims = _ints(axes) if axes is not None else list(range(len(begin)))
    strides = _ints(steps) if steps is not None else [1] * len(begin)
    for b, e, dim, step in zip(begin, end, dims, strides, strict=True):
        if step < 0:
            indices = range(*slice(b, None if e < -x.shape[dim] else e, step).indices(x.shape[dim]))
            x = x.index_select(dim, torch.tensor(list(indices), device=x.device))
        else:
            n = x.shape[dim]
            b, e = max(0, min(b + n if b < 0 else b, n)), max(0, min(e + n if e < 0 else e, n))
            x = x.narrow(dim, b, max(0, e - b))
            if step != 1:
                x = x[(slice(None),) * (dim % x.dim()) + (slice(None, None, step),)]
    return x


@op("LayerNormalization")
def _layer_norm(a: dict, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.layer_norm(x, x.shape[a.get("axis", -1) :], scale, bias, a.get("epsilon", 1e-5))


@op("SkipLayerNormalization")
def _skip_norm(a: dict, x: Tensor, skip: Tensor, gamma: Tensor, *rest: Tensor) -> Tensor:
    x = x + skip
    if len(rest) > 1:
        x = x + rest[1]
    return F.layer_norm(x, x.shape[-1:], gamma, rest[0] if rest else None, a.get("epsilon", 1e-12))


@op("FastGelu")
def _fast_gelu(a: dict, x: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


@op("Softmax")
def _softmax(a: dict, x: Tensor) -> Tensor:
    return torch.softmax(x, a.get("axis", -1))


@op("FusedMatMul")
def _fused_matmul(a: dict, x: Tensor, y: Tensor) -> Tensor:
    x = x.transpose(-1, -2) if a.get("transA") else x
    y = y.transpose(-1, -2) if a.get("transB") else y
    return torch.matmul(x, y) * a.get("alpha", 1.0)


@op("Where")
def _where(a: dict, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return torch.where(condition, x, y)


@op("ConstantOfShape")
def _constant_of_shape(a: dict, shape: Tensor) -> Tensor:
    value = a.get("value", torch.zeros(1))
    return value.reshape(()).expand(_ints(shape)).clone()


@op("Expand")
def _expand(a: dict, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(_ints(shape))))


@op("Range")
def _range(a: dict, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


@op("CumSum")
def _cumsum(a: dict, x: Tensor, axis: Tensor) -> Tensor:
    return x.cumsum(int(axis))


@op("Pad")
def _pad(a: dict, x: Tensor, pads: Tensor, value: Tensor | None = None) -> Tensor:
    sides, rank = _ints(pads), x.dim()
    order = [n for dim in reversed(range(rank)) for n in (sides[dim], sides[dim + rank])]
    mode = a.get("mode", "constant")
    if mode == "constant":
        return F.pad(x, order, value=float(value) if value is not None else 0.0)
    while len(order) > 2 and order[-2:] == [0, 0]:
        order = order[:-2]
    return F.pad(x, order, mode=mode)


@op("Resize")
def _resize(
    a: dict, x: Tensor, roi: Tensor, scales: Tensor | None, sizes: Tensor | None = None
) -> Tensor:
    factors = scales.reshape(-1).tolist()[2:] if scales is not None and scales.numel() else None
    target = None if factors else _ints(sizes)[2:]  # type: ignore[arg-type]
    if a["mode"] == "nearest":
        return F.interpolate(x, target, factors, mode="nearest")
    half = a.get("coordinate_transformation_mode") == "half_pixel"
    if not half:
        raise NotImplementedError(f"Resize with {a}")
    return F.interpolate(x, target, factors, mode="linear", align_corners=False)


@op("Conv", "ConvInteger")
def _conv(a: dict, x: Tensor, weight: Tensor, *rest: Tensor) -> Tensor:
    bias = rest[0] if rest and a["op"] == "Conv" else None
    pads, rank = a["pads"], weight.dim() - 2
    if pads[:rank] != pads[rank:]:
        x = F.pad(x, [n for d in reversed(range(rank)) for n in (pads[d], pads[d + rank])])
        pads = [0] * 2 * rank
    convolve = F.conv1d if rank == 1 else F.conv2d
    return convolve(x, weight, bias, a["strides"], pads[:rank], a["dilations"], a["group"])


@op("ConvTranspose")
def _conv_transpose(a: dict, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    extra = a.get("output_padding", [0])
    return F.conv_transpose1d(
        x, weight, bias, a["strides"], a["pads"][:1], extra, a["group"], a["dilations"]
    )


@op("MatMulInteger")
def _matmul_integer(a: dict, x: Tensor, weight: Tensor, *zeros: Tensor) -> Tensor:
    return torch.matmul(x, weight)


@op("Linear")  # a MatMulInteger whose scale and bias are in its weight
def _linear(a: dict, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(x, weight, bias)


@op("DynamicQuantizeLinear")
def _keep_float(a: dict, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # Left as it is, with scale 1: the products below are then taken in float.
    return x, torch.tensor(1.0), torch.tensor(0.0)


@op("DequantizeLinear")
def _dequantize(a: dict, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    shift = 0.0 if zero is None else zero.float()
    return (x.float() - shift) * scale


@op("RandomNormalLike")
def _random_normal(a: dict, x: Tensor) -> Tensor:
    return torch.randn(x.shape, device=a["device"]) * a.get("scale", 1.0) + a.get("mean", 0.0)


@op("STFT")
def _stft(a: dict, x: Tensor, step: Tensor, window: Tensor, length: Tensor | None = None) -> Tensor:
    points = int(length) if length is not None else window.numel()
    spectrum = torch.stft(
        x.reshape(x.shape[0], -1),
        points,
        int(step),
        points,
        window,
        center=False,
        return_complex=True,
    )
    return torch.view_as_real(spectrum.transpose(1, 2))


def _widened_lstm(a: dict, x: Tensor, w: Tensor, r: Tensor, b: Tensor, *rest: Tensor) -> Tensor:
    """DynamicQuantizeLSTM: gates come as input, output, forget, cell; torch wants i, f, c, o."""
    if "module" not in a:
        w_scale, w_zero, r_scale, r_zero = (t.float() for t in rest[-4:])
        hidden, directions = a["hidden_size"], w.shape[0]
        each = (directions, 1, -1)
        w = (w.float() - w_zero.view(each)) * w_scale.view(each)
        r = (r.float() - r_zero.view(each)) * r_scale.view(each)
        module = torch.nn.LSTM(w.shape[1], hidden, bidirectional=directions == 2).to(x.device)
        order = [0, 2, 3, 1]
        for d in range(directions):
            end = "_l0" + ("_reverse" if d else "")
            for name, matrix in (("weight_ih", w[d].T), ("weight_hh", r[d].T)):
                gates = matrix.reshape(4, hidden, -1)[order].reshape(4 * hidden, -1)
                getattr(module, name + end).data.copy_(gates)
            for name, vector in zip(("bias_ih", "bias_hh"), b[d].chunk(2), strict=True):
                getattr(module, name + end).data.copy_(vector.reshape(4, hidden)[order].reshape(-1))
        module.flatten_parameters()
        a["module"] = module
    out, _ = a["module"](x)
    length, batch, _ = out.shape
    return out.view(length, batch, w.shape[0], -1).transpose(1, 2)


OPS["DynamicQuantizeLSTM"] = _widened_lstm


# Operators whose integer inputs are read as numbers: those stay where they are.
SHAPE_INPUTS = frozenset(
    "Reshape Unsqueeze Squeeze Slice Expand ConstantOfShape Range Pad Resize Split ReduceMean "
    "ReduceSum ReduceMax CumSum STFT Shape Clip DynamicQuantizeLSTM".split()
)
