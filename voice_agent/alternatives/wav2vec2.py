"""Wav2Vec2 with a CTC head through transformers: `mms` (an adapter a language) and `vakyansh`."""

from __future__ import annotations

from typing import Any

import numpy as np

from voice_agent.alternatives.languages import iso_639_3, primary
from voice_agent.alternatives.loading import Choice, need, torch_device, weights
from voice_agent.alternatives.redecode import redecoding
from voice_agent.alternatives.worker import Decoded, WorkerRecognizer
from voice_agent.engine.recognizer import SAMPLE_RATE, StreamOptions

MMS_MODEL = "facebook/mms-1b-all"
VAKYANSH_MODEL = "Harveenchadha/vakyansh-wav2vec2-kannada-knm-560"
SHORTEST = SAMPLE_RATE // 10
"""The convolutions in front need 25 ms for one frame; shorter segments get silence."""


def load_mms(choice: Choice) -> WorkerRecognizer:
    """Load MMS with the adapter of `choice.language` (Kannada where none is named).

    Raises:
        MissingExtra: transformers is not installed.
        ModelNotFound: no such model, or it has no adapter for the language.
        ValueError: a language without an ISO 639-3 code that we know.
    """
    library = need("mms", "transformers", package="transformers", extra="transformers")
    name, language = choice.model or MMS_MODEL, choice.language or "kn"
    code = iso_639_3(language)
    with weights(name, f"hf download {name}"):
        processor = library.AutoProcessor.from_pretrained(name, target_lang=code)
        model = library.Wav2Vec2ForCTC.from_pretrained(
            name, target_lang=code, ignore_mismatched_sizes=True
        )
    spoken = primary(language) or language
    return _recognizer(f"mms {code}", processor, model, choice, (spoken,))


def load_vakyansh(choice: Choice) -> WorkerRecognizer:
    """Load a Vakyansh checkpoint; each writes one language.

    Raises:
        MissingExtra: transformers is not installed.
        ModelNotFound: no such model.
    """
    library = need("vakyansh", "transformers", package="transformers", extra="transformers")
    name = choice.model or VAKYANSH_MODEL
    with weights(name, f"hf download {name}"):
        processor = library.Wav2Vec2Processor.from_pretrained(name)
        model = library.Wav2Vec2ForCTC.from_pretrained(name)
    languages = ("kn",) if name == VAKYANSH_MODEL else ()
    return _recognizer(f"vakyansh {name}", processor, model, choice, languages)


def _recognizer(
    name: str, processor: Any, model: Any, choice: Choice, languages: tuple[str, ...]
) -> WorkerRecognizer:
    import torch

    device = torch_device(choice)
    model.to(device).eval()

    def decode(pcm: np.ndarray, options: StreamOptions, *, final: bool) -> Decoded:
        padded = np.pad(pcm, (0, max(0, SHORTEST - pcm.size)))
        inputs = processor(padded, sampling_rate=SAMPLE_RATE, return_tensors="pt").to(device)
        with torch.inference_mode():
            best = model(**inputs).logits.argmax(-1)
        return Decoded(processor.batch_decode(best, skip_special_tokens=True)[0].strip())

    return WorkerRecognizer(
        name, redecoding(decode), languages=languages, streaming=False, slots=choice.slots
    )
