"""NVIDIA Nemotron speech, streaming in this process or on a server, as a Pipecat STT service."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipecat.utils.types import NOT_GIVEN, NotGiven, is_given

from voice_agent.engine.recognizer import FinalPass, Recognizer, StreamOptions
from voice_agent.remote import remote_recognizer
from voice_agent.services.recognizer_stt import RecognizerSTTService, RecognizerSTTSettings
from voice_agent.services.shared import shared_recognizer

DEFAULT_MODEL = "tiny-en"

NEMOTRON_TTFS_P99 = 0.5
"""Seconds from the end of speech to the final, for 99 of 100 segments; turns wait for no longer.

0.41 s came from `voice-agent bench ttfs --segments 60` on two busy cores of a Xeon, with random
weights in tiny-en's shape, and was rounded up. Measure your own and pass `ttfs_p99_latency`.
"""


@dataclass
class NemotronSTTSettings(RecognizerSTTSettings):
    """What can change while the pipeline runs; it takes effect with the next segment.

    Parameters:
        right_context: encoder frames of look-ahead, one that the model was trained with (0, 1,
            6 or 13 for Nemotron Speech); None for the recogniser's default.
        final_pass: what a final comes from, for more accuracy and more milliseconds: "stream",
            "beam", "full" or "search" (see `voice_agent.engine.recognizer.StreamOptions`); None for
            the recogniser's default.
    """

    right_context: int | None | NotGiven = field(default_factory=lambda: NOT_GIVEN)
    final_pass: FinalPass | None | NotGiven = field(default_factory=lambda: NOT_GIVEN)


class NemotronSTTService(RecognizerSTTService):
    """Streaming transcription by a cache-aware FastConformer-RNNT.

    Weights are loaded once for each model and device, off the event loop, and shared by every
    service of the process. Pipecat gives a pipeline 20 s to start, so a server loads big models
    before its first call: `await shared_recognizer(model, device=device)`.

    Example::

        stt = NemotronSTTService(model="nvidia/nemotron-speech-streaming-en-0.6b")
        pipeline = Pipeline([transport.input(), VADProcessor(vad_analyzer=...), stt, ...])
    """

    Settings = NemotronSTTSettings
    _settings: NemotronSTTSettings

    def __init__(
        self,
        *,
        recognizer: Recognizer | None = None,
        model: str = DEFAULT_MODEL,
        device: str = "auto",
        language_model: str | Path | None = None,
        url: str | None = None,
        key: str | None = None,
        settings: NemotronSTTSettings | None = None,
        **kwargs: Any,
    ) -> None:
        """Initialise the service; loading waits until the pipeline starts.

        Args:
            recognizer: weights that are loaded already; `model` and `device` are then not used.
            model: "tiny-en", a path to a `.nemo` file or a Hugging Face directory, or a Hugging
                Face repository id.
            device: "auto", "cpu", "cuda" or "cuda:N".
            language_model: an ARPA file of the model's tokens, for finals by search
                (`final_pass="search"`).
            url: of a server of ours ("ws://HOST:PORT") that transcribes instead of this process;
                a connection that is lost is taken up again, and no word with it.
            key: the server's bearer key, where it wants one.
            settings: settings to change from their defaults.
            **kwargs: for `RecognizerSTTService` and `STTService`.

        Raises:
            ValueError: a url that is none, or one beside a recogniser, or a language model beside
                either, which have their own.
        """
        if language_model is not None and (recognizer is not None or url is not None):
            raise ValueError("a language_model is loaded with the model, not beside a recognizer=")
        if url is not None:
            if recognizer is not None:
                raise ValueError("a service takes recognizer= or url=, not both")
            recognizer = remote_recognizer(url, key)
        kwargs.setdefault("ttfs_p99_latency", NEMOTRON_TTFS_P99)
        super().__init__(recognizer=recognizer, settings=settings, **kwargs)
        self._model = model
        self._device = device
        self._language_model = language_model
        self._settings.model = recognizer.name if recognizer is not None else model
        self._sync_model_name_to_metrics()

    @classmethod
    def default_settings(cls) -> NemotronSTTSettings:
        """English, with the recogniser's own look-ahead and decoding."""
        return cls.Settings(model=DEFAULT_MODEL, language="en", right_context=None, final_pass=None)

    async def load_recognizer(self) -> Recognizer:
        """Return the recogniser that was given, or the process's own for this model."""
        if self._recognizer is None:
            return await shared_recognizer(
                self._model, device=self._device, language_model=self._language_model
            )
        return self._recognizer

    def stream_options(self) -> StreamOptions:
        """Language, look-ahead and final pass of the next stream."""
        right_context, chosen = self._settings.right_context, self._settings.final_pass
        return StreamOptions(
            language=super().stream_options().language,
            right_context=right_context if is_given(right_context) else None,
            final_pass=None if isinstance(chosen, NotGiven) else chosen,
        )

    def stream_settings(self) -> frozenset[str]:
        """Names of the settings that a new stream takes up."""
        return super().stream_settings() | {"right_context", "final_pass"}
