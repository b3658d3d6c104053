"""sherpa-onnx beside us: its streaming recogniser on an ONNX export of the same weights.

NeMo's own exporter writes encoder, decoder and joiner, and sherpa-onnx's way of naming sizes makes
of them what it reads (scripts/nemo/fast-conformer-hybrid-transducer-ctc of its repository). In 8
bits, onnxruntime's dynamic quantisation rounds them, as in the archives that it publishes.

Its features are its own, and its first window has the frames of two chunks, where NeMo's streaming
begins with one: with random weights its tokens are others, so they are counted and not held.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from voice_agent.bench.engine_systems import Streamed
from voice_agent.engine.errors import EngineError
from voice_agent.engine.recognizer import SAMPLE_RATE

if TYPE_CHECKING:
    from voice_agent.engine.checkpoint import Checkpoint

PARTS = ("encoder", "decoder", "joiner")


class Sherpa:
    """See `voice_agent.bench.engine_systems.System`; each lane is one of its streams."""

    includes = "features, encoder, decoder"
    unheld = (
        "tokens are counted by edit distance and held to no limit: it computes features of its "
        "own, and its first window is longer than NeMo's"
    )

    @staticmethod
    def need() -> None:
        """Import what the export and the streaming take.

        Raises:
            ImportError: one of them is not installed.
        """
        import nemo.collections.asr.models  # noqa: F401
        import onnx  # noqa: F401
        import onnxruntime.quantization  # noqa: F401
        import sherpa_onnx  # noqa: F401

    def __init__(
        self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, int8: bool = True
    ) -> None:
        """Build NeMo's model, to export it when the right context is known.

        Args:
            checkpoint: weights.
            device: the CPU.
            dtype: float32, of what is exported.
            int8: round the weights to 8 bits.

        Raises:
            EngineError: another device, or a checkpoint that NeMo's model is not made for here.
        """
        from voice_agent.bench.engine_nemo import Nemo

        if device.type != "cpu":
            raise EngineError(f"sherpa-onnx is measured on a CPU, not on {device.type}")
        self.name = "sherpa-onnx" if int8 else "sherpa-onnx-float32"
        self.precision = "int8" if int8 else "float32"
        self._config = checkpoint.config
        self._nemo = Nemo(checkpoint, device, dtype)
        self._recognizers: dict[int, Any] = {}

    def stream(self, windows: Iterable[np.ndarray], right: int) -> Streamed:
        """See `System.stream`. A step is new samples, and all that has become ready by them."""
        recognizer = self._recognizer(right)
        hop = round(self._config.frame_s * SAMPLE_RATE) * (right + 1)
        out = Streamed([], [])
        streams: list[Any] = []
        for step, window in enumerate(windows):
            if step == 0:
                streams = [recognizer.create_stream() for _ in window]
            began = time.perf_counter()
            for lane, samples in zip(streams, window[:, -hop:], strict=True):
                lane.accept_waveform(SAMPLE_RATE, samples)
            while ready := [s for s in streams if recognizer.is_ready(s)]:
                recognizer.decode_streams(ready)
            out.step_s.append(time.perf_counter() - began)
        out.tokens = [[int(t[1:]) for t in recognizer.tokens(s)] for s in streams]
        return out

    def _recognizer(self, right: int) -> Any:
        if right not in self._recognizers:
            import sherpa_onnx

            with tempfile.TemporaryDirectory() as folder:
                export(self._nemo.model, Path(folder), self._config.encoder.left(right), right)
                if self.precision == "int8":
                    in_8_bits(Path(folder))
                suffix = ".int8.onnx" if self.precision == "int8" else ".onnx"
                files = {part: str(Path(folder) / f"{part}{suffix}") for part in PARTS}
                self._recognizers[right] = sherpa_onnx.OnlineRecognizer.from_transducer(
                    tokens=str(Path(folder) / "tokens.txt"), **files,
                    num_threads=torch.get_num_threads(), sample_rate=SAMPLE_RATE,
                    feature_dim=self._config.preprocessor.features, provider="cpu",
                )  # fmt: skip
        return self._recognizers[right]


def export(model: Any, folder: Path, left: int, right: int) -> None:
    """Write encoder, decoder, joiner and tokens.txt as sherpa-onnx reads them.

    Args:
        model: NeMo's transducer with a cache-aware encoder, on the CPU, in eval mode.
        folder: empty.
        left: encoder frames that attention sees back.
        right: encoder frames of look-ahead.
    """
    import onnx

    encoder = model.encoder
    encoder.set_default_att_context_size([left, right])
    model.set_export_config({"cache_support": True})
    with contextlib.chdir(folder):  # NeMo's exporter leaves files beside itself
        encoder.export("encoder.onnx")
        model.decoder.export("decoder.onnx")
        model.joint.export("joiner.onnx")
    pieces = [*model.joint.vocabulary, "<blk>"]
    lines = "".join(f"{piece} {i}\n" for i, piece in enumerate(pieces))
    (folder / "tokens.txt").write_text(lines, encoding="utf-8")
    # A large model's weights lie in files beside it, and stay there.
    graph = onnx.load(folder / "encoder.onnx", load_external_data=False)
    for key, value in _metadata(model).items():
        graph.metadata_props.add(key=key, value=str(value))
    onnx.save(graph, folder / "encoder.onnx")


def in_8_bits(folder: Path) -> None:
    """Write each part once more with 8-bit weights, as `*.int8.onnx`."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    for part in PARTS:
        quantize_dynamic(
            folder / f"{part}.onnx",
            folder / f"{part}.int8.onnx",
            weight_type=QuantType.QUInt8 if part == "encoder" else QuantType.QInt8,
        )


def _metadata(model: Any) -> dict[str, Any]:
    encoder, streaming = model.encoder, model.encoder.streaming_cfg
    layers, shift = len(encoder.layers), streaming.chunk_size[1]
    return {
        "vocab_size": model.decoder.vocab_size,
        "window_size": shift + streaming.pre_encode_cache_size[1],
        "chunk_size_ms": 10 * shift, "chunk_shift": shift,
        "normalize_type": "", "cache_last_channel_dim1": layers,
        "cache_last_channel_dim2": streaming.last_channel_cache_size,
        "cache_last_channel_dim3": encoder.d_model, "cache_last_time_dim1": layers,
        "cache_last_time_dim2": encoder.d_model,
        "cache_last_time_dim3": encoder.conv_context_size[0],
        "pred_rnn_layers": model.decoder.pred_rnn_layers,
        "pred_hidden": model.decoder.pred_hidden, "subsampling_factor": 8,
        "feat_dim": model.cfg.preprocessor.features,
        "model_type": "EncDecHybridRNNTCTCBPEModel", "version": "1", "model_author": "NeMo",
    }  # fmt: skip
