"""Every speech-to-text system by name: what it needs, what it may be used for, how it is made.

    load("faster-whisper", Choice(model="small.en"))   -> Recognizer
    service("deepgram", Choice(api_key="..."))         -> Pipecat STT service
    markdown()                                         -> the table of docs/stt.md

The rows are data; nothing heavy is imported before a system is made.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loguru import logger

from voice_agent.alternatives.errors import UnknownSystem
from voice_agent.alternatives.loading import Choice

if TYPE_CHECKING:
    from pipecat.services.stt_service import STTService

    from voice_agent.engine.recognizer import Recognizer

INDIC = (
    "as", "bn", "brx", "doi", "gu", "hi", "kn", "kok", "ks", "mai", "ml", "mni", "mr", "ne", "or",
    "pa", "sa", "sat", "sd", "ta", "te", "ur",
)  # fmt: skip
"""The 22 languages that AI4Bharat's models share."""


@dataclass(frozen=True, slots=True)
class System:
    """One row of the table.

    Attributes:
        name: what is written after `--stt`.
        how: one line: which library or protocol.
        factory: "module:function" below this package (or an absolute module), from a `Choice` to
            a `Recognizer`.
        vendor: "module:function" from a `Choice` to Pipecat's own service, where that is the
            best wrapper; None where our service over the recogniser serves.
        default_model: what is loaded or asked for when no model is named.
        extra: extra of this project that installs it; None where nothing is missing.
        licence: of the weights, or the terms of a service.
        commercial: whether that licence allows commercial use.
        languages: in words.
        streaming: whether text comes while audio arrives, rather than by decoding again.
        needs: what must be there besides packages: weights, a GPU, a key, a server.
    """

    name: str
    how: str
    factory: str
    default_model: str
    extra: str | None
    licence: str
    languages: str
    streaming: bool
    needs: str
    commercial: bool = True
    vendor: str | None = None


_ROWS = (
    System(
        "nemotron", "this project's engine", "ours:nemotron", "tiny-en", None,
        "tiny-en: BSD-2-Clause; Nemotron: NVIDIA Open Model License",
        "English; 40 locales with Nemotron 3.5", True, "-",
    ),
    System(
        "indic-conformer", "this project's engine", "ours:indic_conformer",
        "ai4bharat/indic-conformer-600m-multilingual", None, "MIT (gated)",
        "22 languages of India", False, "weights",
    ),
    System(
        "faster-whisper", "faster-whisper on CTranslate2: int8 on a CPU, float16 with CUDA",
        "faster_whisper:load", "small", "faster-whisper", "MIT", "99, one for .en models", False,
        "weights; on aarch64 a CTranslate2 built with CUDA for the GPU",
    ),
    System(
        "openai-whisper", "OpenAI's PyTorch code", "openai_whisper:load", "small",
        "openai-whisper", "MIT", "99, one for .en models", False, "weights",
    ),
    System(
        "whisper.cpp", "pywhispercpp, or a running whisper-server", "whisper_cpp:load", "small",
        "whisper-cpp", "MIT", "99, one for .en models", False, "weights, or a server",
    ),
    System(
        "whisperx", "the HTTP API of its container", "whisperx:load", "small", None,
        "BSD-2-Clause; weights MIT", "99", False, "server",
    ),
    System(
        "riva", "Parakeet and Nemotron on Riva or a speech NIM, gRPC", "riva:load",
        "the server's own", "riva", "NVIDIA AI Enterprise or NIM terms", "by the model", True,
        "server (GPU), or a key for NVIDIA's own",
    ),
    System(
        "insanely-fast-whisper", "transformers' pipeline: SDPA, batched; no flash-attn",
        "hf_whisper:load_insanely_fast", "openai/whisper-large-v3-turbo", "transformers", "MIT",
        "99", False, "weights; a GPU to be fast",
    ),
    System(
        "indic-whisper", "AI4Bharat's Whisper checkpoints through transformers",
        "hf_whisper:load_indic", "a folder; --model is needed", "transformers", "MIT",
        "12 languages of India, one a checkpoint", False, "weights",
    ),
    System(
        "mms", "transformers' Wav2Vec2 with an adapter for each language", "wav2vec2:load_mms",
        "facebook/mms-1b-all", "transformers", "CC-BY-NC-4.0", "1,162", False, "weights",
        commercial=False,
    ),
    System(
        "seamless-m4t", "transformers' SeamlessM4Tv2, speech to text", "seamless:load",
        "facebook/seamless-m4t-v2-large", "transformers", "CC-BY-NC-4.0", "96", False,
        "weights; a GPU to be fast", commercial=False,
    ),
    System(
        "vakyansh", "its wav2vec2 checkpoints through transformers", "wav2vec2:load_vakyansh",
        "Harveenchadha/vakyansh-wav2vec2-kannada-knm-560", "transformers", "MIT",
        "one a checkpoint; default Kannada", False, "weights",
    ),
    System(
        "sarvam", "Pipecat's SarvamSTTService", "bridge:load_sarvam", "saaras:v3", "sarvam",
        "hosted", "23 languages of India and English", True, "key",
        vendor="vendors:sarvam",
    ),
    System(
        "voxtral", "transformers, or a running vLLM's realtime websocket", "voxtral:load",
        "mistralai/Voxtral-Mini-4B-Realtime-2602", "voxtral", "Apache-2.0", "13", True,
        "GPU of 16 GB, or a server",
    ),
    System(
        "nemo-speech-cpp", "a running `nemo-speech serve`", "nemo_speech:load",
        "the server's own", None, "Apache-2.0; weights NVIDIA Open Model License",
        "by the model", False, "server",
    ),
    System(
        "nemotron-transformers", "transformers' own Nemotron streaming, one stream at a time",
        "nemotron_transformers:load", "nvidia/nemotron-speech-streaming-en-0.6b", "transformers",
        "NVIDIA Open Model License", "English; 40 locales with Nemotron 3.5", True, "weights",
    ),
    System(
        "sherpa-onnx", "its OnlineRecognizer on Nemotron's ONNX export", "sherpa:load",
        "a folder; --model is needed", "sherpa-onnx", "Apache-2.0; weights NVIDIA Open Model "
        "License", "by the model", True, "weights",
    ),
    System(
        "deepgram", "Pipecat's DeepgramSTTService, or any server of its protocol",
        "bridge:load_deepgram", "nova-3-general", "deepgram", "hosted", "36", True,
        "key, or a server",
        vendor="vendors:deepgram",
    ),
    System(
        "openai-realtime", "Pipecat's OpenAIRealtimeSTTService, or any server of its protocol",
        "bridge:load_openai_realtime", "gpt-4o-transcribe", None, "hosted", "57", True,
        "key, or a server", vendor="vendors:openai_realtime",
    ),
)  # fmt: skip

SYSTEMS: dict[str, System] = {row.name: row for row in _ROWS}


def system(name: str) -> System:
    """Look a system up.

    Raises:
        UnknownSystem: the message names what there is.
    """
    if name not in SYSTEMS:
        raise UnknownSystem(name, SYSTEMS)
    return SYSTEMS[name]


def load(name: str, choice: Choice | None = None) -> Recognizer:
    """Make a system's recogniser. Slow: not for an event loop.

    Args:
        name: of the table.
        choice: model, device, address, key.

    Raises:
        UnknownSystem: no such name.
        EngineError: a package, weights, a key or a server is missing; the message says which
            command or variable supplies it.
    """
    row = system(name)
    _tell_licence(name)
    return _function(row.factory)(choice or Choice())


def service(name: str, choice: Choice | None = None, **options: Any) -> STTService:
    """Make a system's Pipecat service: the vendor's where it is best, ours over `load` elsewhere.

    Loads weights where there are any, so not for an event loop.

    Args:
        name: of the table.
        choice: model, device, address, key.
        options: further arguments of the service.

    Raises:
        UnknownSystem, EngineError: as `load`.
    """
    row = system(name)
    if row.vendor is not None:
        _tell_licence(name)
        return _function(row.vendor)(choice or Choice(), **options)
    from voice_agent.services import RecognizerSTTService

    return RecognizerSTTService(recognizer=load(name, choice), **options)


def markdown() -> str:
    """The table for people: one row a system, in Markdown."""
    head = "| name | how | streams | languages | default model | install | needs | licence |"
    lines = [head, "|" + "---|" * head.count(" | ") + "---|"]
    for row in _ROWS:
        extra = f"`voice-agent[{row.extra}]`" if row.extra else "-"
        licence = row.licence if row.commercial else f"**{row.licence}: no commercial use**"
        model = f"`{row.default_model}`" if "/" in row.default_model else row.default_model
        cells = (
            f"`{row.name}`", row.how, "yes" if row.streaming else "re-decodes", row.languages,
            model, extra, row.needs, licence,
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def licence_notice(name: str) -> str | None:
    """What must be told to whoever selects a system; None where its licence forbids nothing.

    Raises:
        UnknownSystem: no such name.
    """
    row = system(name)
    if row.commercial:
        return None
    return f"{row.name}: its weights are {row.licence}, which forbids commercial use"


def _tell_licence(name: str) -> None:
    if (notice := licence_notice(name)) is not None:
        logger.warning("{}", notice)


def _function(where: str) -> Callable[..., Any]:
    module, _, function = where.partition(":")
    return getattr(importlib.import_module(f"voice_agent.alternatives.{module}"), function)
