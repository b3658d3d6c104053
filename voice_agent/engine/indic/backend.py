"""Audio to token scores with ONNX Runtime: IndicConformer's own files.

    audio    list of float32 (n,)  ─ preprocessor.ts, one by one ─►  features (80, frames)
    features padded to a batch     ─ encoder.onnx ─►  encoded [batch, d_model, frames / 8]
    encoded  stays on the device   ─ ctc_decoder.onnx ─►  scores [batch, frames / 8, columns]
                                   ─ joint_enc.onnx, then a token at a time ─►  RNNT

Features are computed one segment at a time because the exported preprocessor counts padding in
its normalisation; the encoder masks padding, so batching it changes nothing but rounding.

One thread at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from voice_agent.engine.errors import CorruptCheckpoint, EngineError
from voice_agent.engine.indic.decode import State, Token, ctc_tokens, rnnt_tokens
from voice_agent.engine.recognizer import SAMPLE_RATE

if TYPE_CHECKING:
    import onnxruntime

    from voice_agent.engine.indic.layout import Decoding, Layout

SHORTEST = SAMPLE_RATE // 10
"""Samples below which there is nothing to decode; no word is shorter than 0.1 s."""


class Backend(Protocol):
    """What turns audio into tokens.

    Attributes:
        frame_s: seconds of an encoder frame.
        device: where it computes, for messages.
        pieces: the pieces of each language, by token number.
    """

    frame_s: float
    device: str
    pieces: dict[str, tuple[str, ...]]

    def tokens(self, audio: Sequence[np.ndarray], languages: Sequence[str]) -> list[list[Token]]:
        """Decode a batch.

        Args:
            audio: float32 each, shape (n,), n at least `SHORTEST`.
            languages: the language of each.
        """
        ...


def providers(device: str) -> tuple[list[Any], str]:
    """ONNX Runtime's execution providers for a device, and the device's name.

    Args:
        device: "auto", "cpu", "cuda", "cuda:N" or "tensorrt".

    Raises:
        EngineError: unknown, or not in this build of ONNX Runtime.
    """
    import onnxruntime

    have = onnxruntime.get_available_providers()
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda", "tensorrt") or (number and not number.isdecimal()):
        raise EngineError(f"device {device!r} is unknown; use auto, cpu, cuda, cuda:N or tensorrt")
    if kind == "auto":
        kind = "cuda" if "CUDAExecutionProvider" in have else "cpu"
    if kind == "cpu":
        return ["CPUExecutionProvider"], "cpu"
    wanted = "TensorrtExecutionProvider" if kind == "tensorrt" else "CUDAExecutionProvider"
    if wanted not in have:
        raise EngineError(
            f"device {device!r}: this ONNX Runtime has no {wanted} (it has {', '.join(have)}); "
            "use --device cpu, or `pip uninstall onnxruntime && pip install onnxruntime-gpu`"
        )
    # Without these two, cuDNN measures every algorithm anew for each length of input, and picks
    # a slow one for the depthwise convolution.
    cuda = (
        "CUDAExecutionProvider",
        {
            "device_id": int(number or 0),
            "cudnn_conv_algo_search": "HEURISTIC",
            "cudnn_conv1d_pad_to_nc1d": "1",
        },
    )
    first = [("TensorrtExecutionProvider", {"device_id": int(number or 0)})]
    chain = [*(first if kind == "tensorrt" else []), cuda, "CPUExecutionProvider"]
    return chain, f"cuda:{number or 0}"


class OnnxBackend:
    """The sessions of one model directory; see the module's docstring."""

    def __init__(
        self,
        layout: Layout,
        *,
        device: str = "auto",
        decoding: Decoding = "ctc",
        threads: int | None = None,
    ) -> None:
        """Load the files. Slow (seconds, and gigabytes for the real model).

        Args:
            layout: a checked directory.
            device: see `providers`.
            decoding: "ctc" or "rnnt".
            threads: of ONNX Runtime on a CPU; None for its default.

        Raises:
            EngineError: the device cannot be used.
            CorruptCheckpoint: a file that does not load.
        """
        import torch

        self.layout, self.decoding = layout, decoding
        self.pieces = layout.vocab
        self._chain, self.device = providers(device)
        self._threads = threads
        where = "cpu" if self.device == "cpu" else self.device
        try:
            self._preprocessor = torch.jit.load(layout.file("preprocessor.ts"), map_location=where)
        except (RuntimeError, ValueError) as error:
            raise self._damaged("preprocessor.ts", error) from error
        self._preprocessor.eval()
        self._where = torch.device(where)
        self._encoder = self._session("encoder.onnx")
        if decoding == "ctc":
            self._ctc = self._session("ctc_decoder.onnx")
        else:
            self._joint_enc = self._session("joint_enc.onnx")
            # A token at a time: copies to a GPU and back would cost more than the arithmetic.
            small = ("rnnt_decoder", "joint_pred", "joint_pre_net")
            self._small = {name: self._session(f"{name}.onnx", on_cpu=True) for name in small}
            self._post: dict[str, onnxruntime.InferenceSession] = {}
        self.frame_s = self._probe()

    def _damaged(self, file: str, error: Exception) -> CorruptCheckpoint:
        text = str(error).strip().splitlines()[-1][:200]
        return CorruptCheckpoint(
            self.layout.name,
            f"{self.layout.file(file)} does not load, or a weight file beside it is missing "
            f"({text}); download the repository again or give --model a complete directory",
        )

    def _session(self, file: str, on_cpu: bool = False) -> onnxruntime.InferenceSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        chain = ["CPUExecutionProvider"] if on_cpu else self._chain
        try:
            session = onnxruntime.InferenceSession(
                str(self.layout.file(file)), options, providers=chain
            )
        except Exception as error:  # onnxruntime's own exceptions share no public base
            raise self._damaged(file, error) from error
        if not on_cpu and self.device != "cpu" and session.get_providers()[0][:4] == "CPUE":
            raise EngineError(
                f"{file} fell back to the CPU: ONNX Runtime could not start CUDA (is the CUDA "
                "that this onnxruntime-gpu was built for installed?); use --device cpu to accept it"
            )
        return session

    def _probe(self) -> float:
        """Seconds of an encoder frame, by encoding two seconds of silence."""
        _, lengths = self.encode([self.features(np.zeros(2 * SAMPLE_RATE, np.float32))])
        frames = int(lengths[0])
        if frames < 1:
            raise CorruptCheckpoint(self.layout.name, "the encoder gives no frames for 2 s")
        return 0.01 * round(200 / frames)

    def features(self, audio: np.ndarray) -> np.ndarray:
        """Log-mel features of one piece: float32 (n,) to float32 (80, frames)."""
        import torch

        with torch.inference_mode():
            wave = torch.from_numpy(np.ascontiguousarray(audio))[None].to(self._where)
            length = torch.tensor([wave.shape[1]], device=self._where)
            mel, frames = self._preprocessor(input_signal=wave, length=length)
        return mel[0, :, : int(frames[0])].float().cpu().numpy()

    def encode(self, features: Sequence[np.ndarray]) -> tuple[onnxruntime.OrtValue, np.ndarray]:
        """Encode a batch of features.

        Returns:
            float32 (batch, d_model, frames), still on the device, and int64 (batch,): frames of
            each that are real.
        """
        lengths = np.array([f.shape[1] for f in features], dtype=np.int64)
        batch = np.zeros((len(features), features[0].shape[0], int(lengths.max())), np.float32)
        for row, f in zip(batch, features, strict=True):
            row[:, : f.shape[1]] = f
        binding = self._encoder.io_binding()
        binding.bind_cpu_input("audio_signal", batch)
        binding.bind_cpu_input("length", lengths)
        device, _, number = self.device.partition(":")
        binding.bind_output("outputs", device, int(number or 0))
        binding.bind_output("encoded_lengths", "cpu")
        self._encoder.run_with_iobinding(binding)
        encoded, frames = binding.get_outputs()
        return encoded, frames.numpy()

    def ctc_scores(self, encoded: onnxruntime.OrtValue) -> np.ndarray:
        """Log-probabilities over all languages: float32 (batch, frames, columns)."""
        binding = self._ctc.io_binding()
        binding.bind_ortvalue_input("encoder_output", encoded)
        binding.bind_output("logprobs", "cpu")
        self._ctc.run_with_iobinding(binding)
        return binding.get_outputs()[0].numpy()

    def tokens(self, audio: Sequence[np.ndarray], languages: Sequence[str]) -> list[list[Token]]:
        """Decode a batch; see `Backend.tokens`."""
        encoded, lengths = self.encode([self.features(a) for a in audio])
        if self.decoding == "rnnt":
            frames = self.joint_frames(encoded)
            return [
                self._rnnt(row[: int(n)], language)
                for row, n, language in zip(frames, lengths, languages, strict=True)
            ]
        scores = self.ctc_scores(encoded)
        return [
            ctc_tokens(row[: int(n)][:, self.layout.columns[lang]], self.layout.blank(lang))
            for row, n, lang in zip(scores, lengths, languages, strict=True)
        ]

    def joint_frames(self, encoded: onnxruntime.OrtValue) -> np.ndarray:
        """The joint network's encoder side: float32 (batch, frames, joint)."""
        frames = np.ascontiguousarray(encoded.numpy().transpose(0, 2, 1))
        return self._joint_enc.run(["output"], {"input": frames})[0]

    def predict(self, token: int, state: State) -> tuple[np.ndarray, State]:
        """One step of the prediction network: its joint side (1, 1, joint) and the next state."""
        session = self._small["rnnt_decoder"]
        # The export's own names, in order: targets, target_length, states.1, onnx::Slice_3 and
        # outputs, prednet_lengths, states, 162. The last of each is whatever the exporter called
        # it, so the two states are taken by place.
        hidden, cell = (i.name for i in session.get_inputs()[2:4])
        values = {
            "targets": np.array([[token]], np.int32),
            "target_length": np.array([1], np.int32),
            hidden: state[0],
            cell: state[1],
        }
        outputs, _, next_hidden, next_cell = session.run(None, values)
        side = np.ascontiguousarray(outputs.transpose(0, 2, 1))
        side = self._small["joint_pred"].run(["output"], {"input": side})[0]
        return side, (next_hidden, next_cell)

    def join(self, frame: np.ndarray, said: np.ndarray, language: str) -> np.ndarray:
        """Logits of one language (257,) from the two sides of the joint network."""
        if language not in self._post:
            self._post[language] = self._session(f"joint_post_net_{language}.onnx", on_cpu=True)
        both = (frame + said).reshape(1, 1, -1)
        both = self._small["joint_pre_net"].run(["output"], {"input": both})[0]
        return self._post[language].run(["output"], {"input": both})[0].reshape(-1)

    def _rnnt(self, frames: np.ndarray, language: str) -> list[Token]:
        layers, width = self.layout.state_shape
        zero = np.zeros((layers, 1, width), np.float32)
        return rnnt_tokens(
            frames,
            self.predict,
            lambda frame, said: self.join(frame, said, language),
            state=(zero, zero),
            sos=self.layout.sos,
            blank=self.layout.blank(language),
            max_symbols=self.layout.max_symbols,
        )
