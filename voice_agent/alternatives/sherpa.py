"""sherpa-onnx: its OnlineRecognizer on an ONNX export of a streaming NeMo transducer.

A folder holds `encoder`, `decoder` and `joiner` as `.onnx` or `.int8.onnx`, and `tokens.txt`, as
sherpa-onnx's own export scripts and its published Nemotron archives have them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from voice_agent.alternatives.loading import Choice, need
from voice_agent.alternatives.worker import Decoded, Heard, WorkerRecognizer
from voice_agent.engine.errors import EngineError, ModelNotFound
from voice_agent.engine.recognizer import SAMPLE_RATE, StreamOptions

WHERE = "github.com/k2-fsa/sherpa-onnx/releases/tag/asr-models"
FLUSH_S = 1.2
"""Silence after the last audio: more than the longest chunk of Nemotron's exports (1.12 s), since
sherpa-onnx decodes whole chunks only and drops what is left over."""


class _Session:
    """One segment on one online stream."""

    def __init__(self, recogniser: Any, heard: Heard) -> None:
        self._recogniser, self._heard = recogniser, heard
        self._stream = recogniser.create_stream()
        self._shown = ""

    def feed(self, pcm: np.ndarray) -> None:
        self._stream.accept_waveform(SAMPLE_RATE, pcm)
        self._decode()
        text = self._recogniser.get_result(self._stream).strip()
        if text != self._shown:
            self._shown = text
            self._heard(Decoded(text))

    def finish(self, rest: np.ndarray) -> Decoded:
        silence = np.zeros(int(FLUSH_S * SAMPLE_RATE), np.float32)
        self._stream.accept_waveform(SAMPLE_RATE, np.concatenate((rest, silence)))
        self._stream.input_finished()
        self._decode()
        return Decoded(self._recogniser.get_result(self._stream).strip())

    def cancel(self) -> None:
        self._heard = lambda decoded: None

    def _decode(self) -> None:
        while self._recogniser.is_ready(self._stream):
            self._recogniser.decode_stream(self._stream)


def load(choice: Choice) -> WorkerRecognizer:
    """Load an export.

    Raises:
        MissingExtra: sherpa-onnx is not installed.
        ModelNotFound: no folder was named, or it lacks a file.
        EngineError: CUDA was asked for and this build has none.
    """
    library = need("sherpa-onnx", "sherpa_onnx", package="sherpa-onnx", extra="sherpa-onnx")
    if choice.model is None:
        raise ModelNotFound(
            "sherpa-onnx", f"unpack a sherpa-onnx-nemotron archive ({WHERE}) and name its folder"
        )
    cuda = choice.device.startswith("cuda")
    if cuda and "+cuda" not in library.__version__:
        # Asked for CUDA, it would print a line and compute on the CPU.
        raise EngineError(
            f"sherpa-onnx {library.__version__} is a build for CPUs; install one for CUDA from "
            "k2-fsa.github.io/sherpa/onnx/cuda.html, or use --device cpu"
        )
    folder = Path(choice.model)
    encoder, decoder, joiner = (_file(folder, part) for part in ("encoder", "decoder", "joiner"))
    tokens = folder / "tokens.txt"
    if not tokens.is_file():
        raise ModelNotFound(str(folder), "holds no tokens.txt")
    recogniser = library.OnlineRecognizer.from_transducer(
        tokens=str(tokens), encoder=str(encoder), decoder=str(decoder), joiner=str(joiner),
        num_threads=1, sample_rate=SAMPLE_RATE, decoding_method="greedy_search",
        provider="cuda" if cuda else "cpu",
    )  # fmt: skip

    def open_session(options: StreamOptions, heard: Heard) -> _Session:
        return _Session(recogniser, heard)

    return WorkerRecognizer(
        f"sherpa-onnx {folder.name}", open_session, streaming=True, slots=choice.slots
    )


def _file(folder: Path, part: str) -> Path:
    """The 8-bit file of a part where there is one: that is what people run on a CPU."""
    for pattern in (f"{part}*.int8.onnx", f"{part}*.onnx"):
        found = sorted(folder.glob(pattern))
        if found:
            return found[0]
    raise ModelNotFound(str(folder), f"holds no {part}.onnx; archives: {WHERE}")
