"""AI4Bharat's IndicConformer in this process, as a Pipecat STT service of one language."""

from __future__ import annotations

from functools import partial
from typing import Any

from voice_agent.engine.indic.layout import Decoding
from voice_agent.engine.indic_conformer import load_indic_conformer
from voice_agent.engine.recognizer import Recognizer
from voice_agent.services.recognizer_stt import RecognizerSTTService, RecognizerSTTSettings
from voice_agent.services.shared import share

DEFAULT_MODEL = "tiny-kn"

INDIC_CONFORMER_TTFS_P99 = 0.5
"""Seconds from the end of speech to the final, for 99 of 100 segments; turns wait for no longer.

0.34 s came from `voice-agent bench gate` with tiny-kn on two busy cores of a Xeon, segments of 1
to 16 s, and was rounded up. Measure your own and pass `ttfs_p99_latency`.
"""


class IndicConformerSTTService(RecognizerSTTService):
    """Kannada, or another of the model's languages: `settings.language` says which.

    The model is an offline one: partials come from decoding the growing segment again. Weights
    are loaded once for each model, device and decoding, off the event loop, and shared by every
    service of the process; callers are decoded in batches.

    Example::

        stt = IndicConformerSTTService(model="ai4bharat/indic-conformer-600m-multilingual")
        pipeline = Pipeline([transport.input(), VADProcessor(vad_analyzer=...), stt, ...])
    """

    def __init__(
        self,
        *,
        recognizer: Recognizer | None = None,
        model: str = DEFAULT_MODEL,
        device: str = "auto",
        decoding: Decoding = "ctc",
        settings: RecognizerSTTSettings | None = None,
        **kwargs: Any,
    ) -> None:
        """Initialise the service; loading waits until the pipeline starts.

        Args:
            recognizer: weights that are loaded already; the three arguments after it are then
                not used.
            model: "tiny-kn", a directory in IndicConformer's layout, a Hugging Face id, or one of
                AI4Bharat's `.nemo` files.
            device: "auto", "cpu", "cuda", "cuda:N" or "tensorrt".
            decoding: "ctc", or "rnnt" (slower).
            settings: settings to change from their defaults.
            **kwargs: for `RecognizerSTTService` and `STTService`.
        """
        kwargs.setdefault("ttfs_p99_latency", INDIC_CONFORMER_TTFS_P99)
        super().__init__(recognizer=recognizer, settings=settings, **kwargs)
        self._load = partial(load_indic_conformer, model, device=device, decoding=decoding)
        self._key = ("indic_conformer", model, device, decoding)
        self._settings.model = recognizer.name if recognizer is not None else model
        self._sync_model_name_to_metrics()

    @classmethod
    def default_settings(cls) -> RecognizerSTTSettings:
        """Kannada."""
        return cls.Settings(model=DEFAULT_MODEL, language="kn")

    async def load_recognizer(self) -> Recognizer:
        """Return the recogniser that was given, or the process's own for this model."""
        if self._recognizer is None:
            return await share(self._key, self._load)
        return self._recognizer
