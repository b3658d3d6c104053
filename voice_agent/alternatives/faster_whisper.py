"""Whisper through CTranslate2 (`faster-whisper`): int8 on a CPU, float16 on a GPU."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
from loguru import logger

from voice_agent.alternatives.languages import primary
from voice_agent.alternatives.loading import Choice, need, weights
from voice_agent.alternatives.redecode import redecoding
from voice_agent.alternatives.worker import Decoded, WorkerRecognizer
from voice_agent.engine.errors import EngineError, ModelNotFound
from voice_agent.engine.recognizer import StreamOptions

DEFAULT_MODEL = "small"

NO_CUDA = (
    "this CTranslate2 sees no CUDA GPU; PyPI's wheels for aarch64 (DGX Spark) are built without "
    "CUDA. Stay on the CPU, build CTranslate2 with -DWITH_CUDA=ON, or take insanely-fast-whisper "
    "or whisper.cpp, which use that GPU"
)


def load(choice: Choice) -> WorkerRecognizer:
    """Load a Whisper model in CTranslate2's format.

    Raises:
        MissingExtra: faster-whisper is not installed.
        ModelNotFound: neither a folder nor a model that can be fetched.
        EngineError: CUDA was asked for and this CTranslate2 has none.
    """
    library = need(
        "faster-whisper", "faster_whisper", package="faster-whisper", extra="faster-whisper"
    )
    device, index = _device(choice.device)
    name = choice.model or DEFAULT_MODEL
    known = library.available_models()
    if "/" not in name and name not in known and not Path(name).is_dir():
        raise ModelNotFound(name, f"neither a folder nor one of {', '.join(known)}")
    # Its names stand for repositories of several owners: only it knows which.
    fetch = f"python -c 'import faster_whisper as f; f.download_model(\"{name}\")'"
    with weights(name, fetch):
        model = library.WhisperModel(
            name, device=device, device_index=index,
            compute_type="float16" if device == "cuda" else "int8",
        )  # fmt: skip

    def decode(pcm: np.ndarray, options: StreamOptions, *, final: bool) -> Decoded:
        segments, info = model.transcribe(
            pcm,
            language=primary(options.language),
            beam_size=5 if final else 1,
            temperature=0.0,  # once: falling back to higher ones decodes up to six times
            condition_on_previous_text=False,
        )
        # A generator: the decoding happens here.
        text = "".join(segment.text for segment in segments)
        return Decoded(text.strip(), language=info.language)

    return WorkerRecognizer(
        f"faster-whisper {name}",
        redecoding(decode),
        languages=tuple(model.supported_languages),
        streaming=False,
        slots=choice.slots,
    )


def _device(device: str) -> tuple[str, int]:
    """CTranslate2's device and index. "auto" goes by what CTranslate2 itself can use."""
    import ctranslate2

    gpus = ctranslate2.get_cuda_device_count()
    if device.startswith("cuda"):
        if not gpus:
            raise EngineError(f"faster-whisper: {NO_CUDA}")
        return "cuda", int(device.partition(":")[2] or 0)
    if device not in ("auto", "cpu"):
        raise EngineError(f"device {device!r} is unknown; use auto, cpu, cuda or cuda:N")
    if device == "auto" and not gpus and platform.machine() == "aarch64":
        logger.warning("faster-whisper: {}", NO_CUDA)
    return ("cuda" if device == "auto" and gpus else "cpu"), 0
