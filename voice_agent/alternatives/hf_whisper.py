"""Whisper through transformers: `insanely-fast-whisper` and AI4Bharat's `indic-whisper`.

The first is a recipe rather than a model: half precision, windows of 30 s in one batch, and a
fused attention. Its flash-attn is source-only on aarch64; PyTorch's SDPA needs no build.
"""

from __future__ import annotations

import numpy as np

from voice_agent.alternatives.languages import primary
from voice_agent.alternatives.loading import Choice, need, torch_device, weights
from voice_agent.alternatives.redecode import redecoding
from voice_agent.alternatives.worker import Decoded, WorkerRecognizer
from voice_agent.engine.errors import ModelNotFound
from voice_agent.engine.recognizer import SAMPLE_RATE, StreamOptions

DEFAULT_MODEL = "openai/whisper-large-v3-turbo"
WINDOW_S = 30


def load_insanely_fast(choice: Choice) -> WorkerRecognizer:
    """Load any Whisper checkpoint in Hugging Face's layout; see `_load`."""
    return _load("insanely-fast-whisper", choice.model or DEFAULT_MODEL, choice)


def load_indic(choice: Choice) -> WorkerRecognizer:
    """Load one of AI4Bharat's checkpoints, which are published as archives; see `_load`."""
    if choice.model is None:
        raise ModelNotFound(
            "indic-whisper",
            "AI4Bharat publishes one archive a language; unpack it (links: "
            "github.com/AI4Bharat/vistaar) and give its folder as the model",
        )
    return _load("indic-whisper", choice.model, choice)


def _load(system: str, name: str, choice: Choice) -> WorkerRecognizer:
    """Build the pipeline.

    Raises:
        MissingExtra: transformers is not installed.
        ModelNotFound: no such folder, and it cannot be fetched.
        EngineError: the device cannot be used.
    """
    transformers = need(system, "transformers", package="transformers", extra="transformers")
    import torch

    device = torch_device(choice)
    with weights(name, f"hf download {name}"):
        recognise = transformers.pipeline(
            "automatic-speech-recognition",
            model=name,
            device=device,
            dtype=torch.float32 if device == "cpu" else torch.float16,
            model_kwargs={"attn_implementation": "sdpa"},
        )
    codes = getattr(recognise.model.generation_config, "lang_to_id", None) or {}

    def decode(pcm: np.ndarray, options: StreamOptions, *, final: bool) -> Decoded:
        task = {"task": "transcribe"} if codes else {}
        language = primary(options.language)
        if language and codes:
            task["language"] = language
        long = pcm.size > WINDOW_S * SAMPLE_RATE
        heard = recognise(
            {"raw": pcm, "sampling_rate": SAMPLE_RATE},
            generate_kwargs=task,
            # Windows side by side in one batch, only where there is more than one.
            **({"chunk_length_s": WINDOW_S, "batch_size": 24} if long else {}),
        )
        return Decoded(heard["text"].strip())

    return WorkerRecognizer(
        f"{system} {name}",
        redecoding(decode),
        languages=tuple(code.strip("<|>") for code in codes),
        streaming=False,
        slots=choice.slots,
    )
