"""Whisper's language detection through faster-whisper: 99 languages or more."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from voice_agent.engine.errors import ModelNotFound, UnsupportedCheckpoint
from voice_agent.engine.lid.base import LanguageScores, speech_seconds
from voice_agent.engine.recognizer import as_float32

DEFAULT = "tiny"


class WhisperIdentifier:
    """A multilingual Whisper model. It pads to 30 s, so a second costs as much as thirty."""

    def __init__(self, model: str | None = None, *, device: str = "auto") -> None:
        """Load a directory in CTranslate2's layout, or a model that faster-whisper knows by name.

        Raises:
            ModelNotFound: faster-whisper is not installed, or the model cannot be had.
            UnsupportedCheckpoint: an English-only model.
        """
        model = model or DEFAULT
        try:
            from faster_whisper import WhisperModel
        except ImportError as error:
            raise ModelNotFound(
                model, f"Whisper needs faster-whisper ({error}); run `pip install faster-whisper`"
            ) from error
        kind, _, number = device.partition(":")
        try:
            self._model = WhisperModel(model, device=kind, device_index=int(number or 0))
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelNotFound(
                model,
                f"faster-whisper cannot load it ({str(error).strip()[:160]}); give the directory "
                "of a multilingual CTranslate2 model, or a name such as tiny or small on a "
                "machine with network",
            ) from error
        if not self._model.model.is_multilingual:
            raise UnsupportedCheckpoint(
                model,
                "it knows English alone, so it cannot tell languages apart; use one "
                "without .en in its name",
            )
        self.name = f"whisper-{Path(model).name}"
        self.languages = tuple(self._model.supported_languages)

    def identify(self, pcm: np.ndarray) -> LanguageScores:
        """Score the audio so far; see `LanguageIdentifier.identify`."""
        audio = as_float32(pcm)
        _, _, scored = self._model.detect_language(audio)
        total = sum(p for _, p in scored)
        return LanguageScores({code: p / total for code, p in scored}, speech_seconds(audio))
