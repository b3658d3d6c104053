"""Runs an ONNX speech synthesiser on PyTorch, so that a GPU can do it.

A small interpreter over the operators of `training.onnx_ops`. Quantised matrices are widened to
float once, so activations are never quantised; what follows from constants alone is computed at
load, and the scale and bias after a quantised product go into its weights. Kokoro-82M's 3,614 nodes
are 2,234 after that, most of whose time on a GPU is the launching of them; so whoever can, batches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from training.onnx_ops import OPS, SHAPE_INPUTS

_QUANTISED = {"MatMulInteger": "Linear", "ConvInteger": "Conv"}
# The int8 graph rounds biases to its activations' steps; we have no such steps.
_ROUNDED_BIAS = ("bias_quant_rounded:0", "bias_quantized")


@dataclass
class _Node:
    op: str
    attributes: dict[str, Any]
    inputs: list[str]
    outputs: list[str] = field(default_factory=list)


class OnnxOnTorch:
    """A loaded graph. Call it with named inputs for the first output, or `run` a part of it."""

    def __init__(self, path: Path, device: torch.device, same: Mapping[str, str] | None = None):
        """Read and simplify the graph.

        Args:
            path: the `.onnx` file.
            device: where to run; floats and weights live there.
            same: values of the graph that are to be taken as equal to others, which leaves out the
                nodes that make them (a reshape that would spoil a batch, say).

        Raises:
            NotImplementedError: an operator that `training.onnx_ops` lacks.
        """
        graph = onnx.load(str(path)).graph
        self.device, self.output = device, graph.output[0].name
        self.constants: dict[str, Tensor] = {}
        self._same = dict(same or {})
        self._plans: dict[tuple, list[tuple[_Node, list[str]]]] = {}
        nodes = [_read(node, device) for node in graph.node]
        for node in nodes:
            if node.op not in OPS:
                raise NotImplementedError(f"operator {node.op} in {path}")
        self._load_constants(graph.initializer, nodes)
        self.nodes = self._fused(self._folded(nodes))

    def _load_constants(self, initializers: Any, nodes: list[_Node]) -> None:
        arrays = {t.name: numpy_helper.to_array(t) for t in initializers}
        for node in nodes:
            if node.op in _QUANTISED and node.inputs[1] in arrays:
                weight, zero = node.inputs[1], node.inputs[3]
                if arrays[weight].dtype != np.float32:
                    shift = arrays[zero].astype(np.float32)
                    arrays[weight] = arrays[weight].astype(np.float32) - shift
        as_numbers = {
            name
            for node in nodes
            if node.op in SHAPE_INPUTS and node.op not in ("DynamicQuantizeLSTM", "STFT")
            for name in node.inputs[1:]
        }
        for name, array in arrays.items():
            tensor = torch.from_numpy(np.array(array))
            heavy = tensor.is_floating_point() or tensor.dtype in (torch.int8, torch.uint8)
            heavy = heavy and tensor.dim() > 0 and name not in as_numbers
            self.constants[name] = tensor.to(self.device) if heavy else tensor

    def _source(self, name: str) -> str:
        while name in self._same:
            name = self._same[name]
        return name

    @torch.inference_mode()
    def _folded(self, nodes: list[_Node]) -> list[_Node]:
        """Leave out nodes that only rename, and compute those that follow from constants."""
        kept = []
        for node in nodes:
            if all(name in self._same for name in node.outputs):
                continue
            node.inputs = [self._source(name) for name in node.inputs]
            if node.op == "DynamicQuantizeLinear":
                value, scale, zero = node.outputs
                self._same[value] = node.inputs[0]
                self.constants[scale], self.constants[zero] = torch.tensor(1.0), torch.tensor(0.0)
            elif node.outputs[0].endswith(_ROUNDED_BIAS):
                self._same[node.outputs[0]] = node.inputs[0]
            elif node.op != "RandomNormalLike" and all(
                not name or name in self.constants for name in node.inputs
            ):
                self._compute(node, self.constants)
            else:
                kept.append(node)
        self.output = self._source(self.output)
        return kept

    @torch.inference_mode()
    def _fused(self, nodes: list[_Node]) -> list[_Node]:
        """Take the constant scale and bias after a quantised product into its weight."""
        readers: dict[str, list[_Node]] = {}
        for node in nodes:
            for name in node.inputs:
                readers.setdefault(name, []).append(node)
        gone: set[int] = set()
        for node in nodes:
            if node.op not in _QUANTISED or node.inputs[1] not in self.constants:
                continue
            weight, value = self.constants[node.inputs[1]], node.outputs[0]
            channels = weight.shape[0] if node.op == "ConvInteger" else weight.shape[-1]
            scale, bias = torch.ones(channels), torch.zeros(channels)
            while len(after := readers.get(value, [])) == 1 and value != self.output:
                then = after[0]
                if then.op in ("Add", "Mul"):
                    other = then.inputs[then.inputs[0] == value]
                    constant = self.constants.get(other)
                    if constant is None or constant.numel() not in (1, channels):
                        break
                    flat = constant.reshape(-1).cpu().float()
                    if then.op == "Add":
                        bias = bias + flat
                    else:
                        scale, bias = scale * flat, bias * flat
                elif then.op != "Cast" or then.attributes["to"] != 1:
                    break
                gone.add(id(then))
                value = then.outputs[0]
            node.op, at = _QUANTISED[node.op], node.outputs[0]
            if node.op == "Conv":
                weight = weight * scale.to(weight.device).view(-1, *[1] * (weight.dim() - 1))
            else:
                weight = (weight * scale.to(weight.device)).T.contiguous()
            self.constants[f"{at}.weight"] = weight
            self.constants[f"{at}.bias"] = bias.to(weight.device)
            node.attributes["op"] = node.op
            node.inputs = [node.inputs[0], f"{at}.weight", f"{at}.bias"]
            node.outputs = [value]
        kept = [node for node in nodes if id(node) not in gone]
        read = Counter(name for node in kept for name in node.inputs)
        self.constants = {k: v for k, v in self.constants.items() if read[k]}
        return kept

    def _compute(self, node: _Node, values: dict[str, Any]) -> None:
        given = [
            None if not n else values[n] if n in values else self.constants[n] for n in node.inputs
        ]
        while given and given[-1] is None:
            given.pop()
        if self.device.type != "cpu" and node.op not in SHAPE_INPUTS:
            if any(t is not None and t.is_cuda for t in given):
                given = [
                    t if t is None or t.is_cuda or t.dim() == 0 else t.to(self.device)
                    for t in given
                ]
        result = OPS[node.op](node.attributes, *given)
        if isinstance(result, tuple):
            values.update(zip(node.outputs, result, strict=False))
        else:
            values[node.outputs[0]] = result

    def _plan(self, outputs: tuple[str, ...], known: frozenset[str]) -> list:
        """The nodes between what is known and what is wanted, each with what it reads last."""
        wanted = set(outputs)
        chosen: list[_Node] = []
        for node in reversed(self.nodes):
            if any(name in wanted and name not in known for name in node.outputs):
                chosen.append(node)
                wanted.update(node.inputs)
        # An activation is let go after its last reader: together they are tens of gigabytes.
        kept, plan = set(outputs) | set(self.constants), []
        for node in chosen:
            done = [n for n in dict.fromkeys(node.inputs) if n and n not in kept]
            kept.update(done)
            plan.append((node, done))
        return plan[::-1]

    @torch.inference_mode()
    def run(self, outputs: Sequence[str], known: Mapping[str, Tensor]) -> list[Tensor]:
        """Compute these values of the graph out of known ones, inputs or inner values alike."""
        wanted = tuple(self._source(name) for name in outputs)
        key = wanted, frozenset(known)
        if key not in self._plans:
            self._plans[key] = self._plan(*key)
        values: dict[str, Any] = dict(known)
        for node, done in self._plans[key]:
            self._compute(node, values)
            for name in done:
                del values[name]
        return [values[name] for name in wanted]

    def __call__(self, **inputs: Tensor) -> Tensor:
        """Run the graph."""
        return self.run([self.output], inputs)[0]


def _read(node: onnx.NodeProto, device: torch.device) -> _Node:
    attributes = {at.name: onnx.helper.get_attribute_value(at) for at in node.attribute}
    for key, value in attributes.items():
        if isinstance(value, bytes):
            attributes[key] = value.decode()
        elif isinstance(value, onnx.TensorProto):
            attributes[key] = torch.from_numpy(numpy_helper.to_array(value).copy())
    attributes |= {"op": node.op_type, "outputs": len(node.output), "device": device}
    return _Node(node.op_type, attributes, list(node.input), list(node.output))
