"""SeamlessM4T v2, speech to text, through transformers. Its licence forbids commercial use."""

from __future__ import annotations

import numpy as np

from voice_agent.alternatives.languages import iso_639_3
from voice_agent.alternatives.loading import Choice, need, torch_device, weights
from voice_agent.alternatives.redecode import redecoding
from voice_agent.alternatives.worker import Decoded, WorkerRecognizer
from voice_agent.engine.recognizer import SAMPLE_RATE, StreamOptions

DEFAULT_MODEL = "facebook/seamless-m4t-v2-large"
SHORTEST = SAMPLE_RATE // 10
"""Its features are normalised over at least two frames; shorter segments get silence."""


def load(choice: Choice) -> WorkerRecognizer:
    """Load a SeamlessM4T v2 checkpoint.

    Raises:
        MissingExtra: transformers is not installed.
        ModelNotFound: no such folder, and it cannot be fetched.
        EngineError: the device cannot be used.
    """
    library = need("seamless-m4t", "transformers", package="transformers", extra="transformers")
    import torch

    name, device = choice.model or DEFAULT_MODEL, torch_device(choice)
    with weights(name, f"hf download {name}"):
        processor = library.AutoProcessor.from_pretrained(name)
        model = library.SeamlessM4Tv2ForSpeechToText.from_pretrained(
            name, dtype=torch.float32 if device == "cpu" else torch.float16
        )
    model.to(device).eval()

    def decode(pcm: np.ndarray, options: StreamOptions, *, final: bool) -> Decoded:
        # It writes the language that it is told, whatever was spoken: transcription is
        # translation into the speaker's own.
        language = options.language or choice.language or "en"
        padded = np.pad(pcm, (0, max(0, SHORTEST - pcm.size)))
        inputs = processor(audio=padded, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        inputs = inputs.to(device, model.dtype)
        with torch.inference_mode():
            tokens = model.generate(**inputs, tgt_lang=iso_639_3(language))
        return Decoded(processor.decode(tokens[0], skip_special_tokens=True).strip())

    return WorkerRecognizer(
        f"seamless-m4t {name}", redecoding(decode), streaming=False, slots=choice.slots
    )
