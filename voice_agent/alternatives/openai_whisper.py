"""Whisper in OpenAI's own PyTorch code. Audio goes in as samples: no torchaudio, no ffmpeg."""

from __future__ import annotations

import numpy as np

from voice_agent.alternatives.languages import primary
from voice_agent.alternatives.loading import Choice, need, torch_device, weights
from voice_agent.alternatives.redecode import redecoding
from voice_agent.alternatives.worker import Decoded, WorkerRecognizer
from voice_agent.engine.errors import ModelNotFound
from voice_agent.engine.recognizer import StreamOptions

DEFAULT_MODEL = "small"


def load(choice: Choice) -> WorkerRecognizer:
    """Load a Whisper checkpoint of OpenAI's (a name, or a path to a `.pt`).

    Raises:
        MissingExtra: openai-whisper is not installed.
        ModelNotFound: no such model, or it cannot be fetched.
        EngineError: the device cannot be used.
    """
    whisper = need("openai-whisper", "whisper", package="openai-whisper", extra="openai-whisper")
    name = choice.model or DEFAULT_MODEL
    device = torch_device(choice)
    try:
        with weights(name, f"python -c 'import whisper; whisper.load_model(\"{name}\")'"):
            model = whisper.load_model(name, device=device)
    except RuntimeError as error:
        if "not found" not in str(error):  # "Model x not found; available models = ..."
            raise
        raise ModelNotFound(name, str(error)) from error
    multilingual = bool(model.is_multilingual)

    def decode(pcm: np.ndarray, options: StreamOptions, *, final: bool) -> Decoded:
        heard = model.transcribe(
            pcm,
            language=primary(options.language) if multilingual else "en",
            fp16=device != "cpu",
            beam_size=5 if final else None,
            temperature=0.0,  # once: falling back to higher ones decodes up to six times
            condition_on_previous_text=False,
            verbose=None,
        )
        return Decoded(heard["text"].strip(), language=heard["language"])

    return WorkerRecognizer(
        f"openai-whisper {name}",
        redecoding(decode),
        languages=tuple(whisper.tokenizer.LANGUAGES) if multilingual else ("en",),
        streaming=False,
        slots=choice.slots,
    )
