"""Writes PyTorch modules in the file layout of `ai4bharat/indic-conformer-600m-multilingual`.

File names, and the names and ranks of every graph's inputs and outputs, are those of that
repository, as public programs that run it use them:

    preprocessor.ts  (input_signal [B, n], length [B]) -> features [B, 80, T], frames [B]
    encoder          audio_signal [B, 80, T], length [B] -> outputs [B, d, T'], encoded_lengths
    ctc_decoder      encoder_output [B, d, T'] -> logprobs [B, T', 5633]
    rnnt_decoder     targets [B, U], target_length [B], states.1 and onnx::Slice_3 [2, B, 640]
                     -> outputs [B, 640, U], prednet_lengths, states, 162
    joint_enc, joint_pred, joint_pre_net, joint_post_net_LL    input -> output
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

OPSET = 17


@dataclass(frozen=True, slots=True)
class RnntParts:
    """The transducer's networks.

    Attributes:
        decoder: (targets, target_length, hidden, cell) to (outputs, lengths, hidden, cell).
        joint_enc: encoder frames to the joint width.
        joint_pred: prediction network's outputs to the joint width.
        joint_pre_net: what follows their sum; no weights.
        joint_post_nets: one a language, to its 257 logits.
        state_shape: layers and width of the prediction network's state.
    """

    decoder: nn.Module
    joint_enc: nn.Module
    joint_pred: nn.Module
    joint_pre_net: nn.Module
    joint_post_nets: dict[str, nn.Module]
    state_shape: tuple[int, int]


@dataclass(frozen=True, slots=True)
class CtcParts:
    """Features, encoder and CTC head."""

    features: nn.Module
    encoder: nn.Module
    ctc: nn.Module


@dataclass(slots=True)
class Graph:
    """A graph to export: example inputs and the dimensions that vary."""

    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: list[str]
    axes: dict[str, dict[int, str]] = field(default_factory=dict)


def write_layout(
    folder: Path,
    parts: CtcParts,
    vocab: dict[str, list[str]],
    *,
    rnnt: RnntParts | None = None,
    half: bool = False,
    external: bool = True,
) -> None:
    """Write a model directory.

    Args:
        folder: where; `config.json` and `assets/` appear in it.
        parts: features, encoder, CTC head over len(vocab) * 256 tokens and a last blank.
        vocab: the 256 pieces of each language, in the order of the CTC head's columns.
        rnnt: the transducer's networks, if there are any.
        half: store weights in half precision; they are computed with in single precision.
        external: store the encoder's weights in files of their own beside it, as the big model.
    """
    assets = folder / "assets"
    assets.mkdir(parents=True, exist_ok=True)
    torch.jit.script(parts.features.cpu().eval()).save(str(assets / "preprocessor.ts"))
    for name, graph in _graphs(parts, rnnt).items():
        path = assets / f"{name}.onnx"
        export_graph(graph, path)
        store_weights(path, half=half, external=external and name == "encoder")
    total = sum(map(len, vocab.values()))
    masks, start = {}, 0
    for language, pieces in vocab.items():
        own = range(start, start + len(pieces))
        masks[language] = [i in own or i == total for i in range(total + 1)]
        start += len(pieces)
    full = {language: [*pieces, "<blank>"] for language, pieces in vocab.items()}
    _write_json(assets / "vocab.json", full)
    _write_json(assets / "language_masks.json", masks)
    layers, width = rnnt.state_shape if rnnt else (2, 640)
    config = {
        "model_type": "iasr",
        "BLANK_ID": 256,
        "RNNT_MAX_SYMBOLS": 10,
        "PRED_RNN_LAYERS": layers,
        "PRED_RNN_HIDDEN_DIM": width,
        "SOS": total,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _write_json(path: Path, value: object) -> None:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    path.write_text(text + "\n", encoding="utf-8")


def _graphs(parts: CtcParts, rnnt: RnntParts | None) -> dict[str, Graph]:
    mel = torch.randn(2, 80, 131)
    frames = torch.tensor([131, 100])
    with torch.inference_mode():
        encoded, _ = parts.encoder.cpu().eval()(mel, frames)
    batch, time = "batch", "time"
    graphs = {
        "encoder": Graph(
            parts.encoder,
            {"audio_signal": mel, "length": frames},
            ["outputs", "encoded_lengths"],
            {
                "audio_signal": {0: batch, 2: time},
                "length": {0: batch},
                "outputs": {0: batch, 2: "frames"},
                "encoded_lengths": {0: batch},
            },
        ),
        "ctc_decoder": Graph(
            parts.ctc,
            {"encoder_output": encoded.clone()},
            ["logprobs"],
            {"encoder_output": {0: batch, 2: time}, "logprobs": {0: batch, 1: time}},
        ),
    }
    if rnnt is None:
        return graphs
    layers, width = rnnt.state_shape
    state = torch.zeros(layers, 1, width)
    graphs["rnnt_decoder"] = Graph(
        rnnt.decoder,
        {
            "targets": torch.zeros(1, 1, dtype=torch.int32),
            "target_length": torch.ones(1, dtype=torch.int32),
            "states.1": state,
            "onnx::Slice_3": state,
        },
        ["outputs", "prednet_lengths", "states", "162"],
        {
            "targets": {0: batch, 1: time},
            "target_length": {0: batch},
            "states.1": {1: batch},
            "onnx::Slice_3": {1: batch},
            "outputs": {0: batch, 2: time},
            "states": {1: batch},
            "162": {1: batch},
        },
    )
    with torch.inference_mode():
        joint = rnnt.joint_enc(encoded.transpose(1, 2)).shape[2]
    sides = {
        "joint_enc": (rnnt.joint_enc, encoded.shape[1]),
        "joint_pred": (rnnt.joint_pred, width),
        "joint_pre_net": (rnnt.joint_pre_net, joint),
        **{f"joint_post_net_{k}": (net, joint) for k, net in rnnt.joint_post_nets.items()},
    }
    for name, (net, size) in sides.items():
        axes = {"input": {0: batch, 1: time}, "output": {0: batch, 1: time}}
        graphs[name] = Graph(net, {"input": torch.randn(1, 3, size)}, ["output"], axes)
    return graphs


def export_graph(graph: Graph, path: Path) -> None:
    """Write one graph with its own names, through the tracing exporter."""
    with warnings.catch_warnings():
        # Deprecated, but the one whose names (states.1, onnx::Slice_3) we reproduce.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=UserWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        torch.onnx.export(
            graph.module.cpu().eval(),
            tuple(graph.inputs.values()),
            str(path),
            input_names=list(graph.inputs),
            output_names=graph.outputs,
            dynamic_axes=graph.axes,
            opset_version=OPSET,
            dynamo=False,
        )


def store_weights(path: Path, *, half: bool, external: bool) -> None:
    """Rewrite an ONNX file: weights in half precision, or in files of their own beside it.

    Args:
        path: the file; it is replaced.
        half: large weights are stored as float16 and cast to float32 when the file is loaded.
        external: a file a tensor, as the big repository has them.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from onnx.external_data_helper import set_external_data

    model = onnx.load(str(path))
    if half:
        graph, casts = model.graph, []
        for tensor in list(graph.initializer):
            if tensor.data_type != TensorProto.FLOAT or len(tensor.raw_data) < 1024:
                continue
            values = numpy_helper.to_array(tensor).astype("float16")
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(values, f"{name}_half"))
            casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
        nodes = [*casts, *graph.node]
        del graph.node[:]
        graph.node.extend(nodes)
    if external:
        # A file a tensor, under the tensor's name, as the big repository has them.
        for tensor in model.graph.initializer:
            if len(tensor.raw_data) >= 1024:
                set_external_data(tensor, location=tensor.name.replace("::", "__"))
    onnx.save_model(model, str(path))
    onnx.checker.check_model(str(path))
