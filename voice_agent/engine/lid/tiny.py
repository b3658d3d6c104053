"""`tiny-lid`: the embedded identifier. English, Kannada, other; a megabyte; one CPU thread."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from voice_agent.engine.errors import CorruptCheckpoint, ModelNotFound
from voice_agent.engine.lid.base import LanguageScores, speech_seconds
from voice_agent.engine.lid.features import WINDOW, log_mel
from voice_agent.engine.recognizer import SAMPLE_RATE, as_float32
from voice_agent.models import locate

NAME = "tiny-lid"
LONGEST_S = 4.0
"""Seconds at the end of the audio that are heard; more adds cost and no certainty."""
SHORTEST_S = 0.2
"""Seconds below which the answer is the prior."""


class TinyIdentifier:
    """A convolutional network over log-mel features, run by ONNX Runtime.

    The file's metadata names its classes, the language that each belongs to, the prior, and the
    temperature that calibrates its posteriors.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Load the file; the embedded one where no path is given.

        Raises:
            ModelNotFound: no such file.
            CorruptCheckpoint: damaged, or not a `tiny-lid` file.
        """
        import onnxruntime

        self.name = NAME if path is None else path.stem
        path = path or locate(NAME).path
        if not path.is_file():
            raise ModelNotFound(NAME, f"{path} does not exist; reinstall the package")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
            facts = json.loads(self._session.get_modelmeta().custom_metadata_map["tiny-lid"])
        except Exception as error:  # onnxruntime's own exceptions share no public base
            raise CorruptCheckpoint(NAME, f"{path} does not load ({error})") from error
        self._classes: list[str] = facts["classes"]  # language of each output
        self._temperature = float(facts["temperature"])
        self._prior = {code: float(p) for code, p in facts["prior"].items()}
        self.languages = tuple(self._prior)

    def identify(self, pcm: np.ndarray) -> LanguageScores:
        """Score the audio so far; see `LanguageIdentifier.identify`."""
        audio = as_float32(pcm)
        speech_s = speech_seconds(audio)
        audio = audio[-int(LONGEST_S * SAMPLE_RATE) :]
        if len(audio) < max(WINDOW, SHORTEST_S * SAMPLE_RATE):
            return LanguageScores(dict(self._prior), speech_s)
        features = log_mel(audio)[None]
        logits = self._session.run(["logits"], {"features": features})[0][0] / self._temperature
        chance = np.exp(logits - logits.max())
        chance /= chance.sum()
        posteriors = dict.fromkeys(self._prior, 0.0)
        for language, p in zip(self._classes, chance, strict=True):
            posteriors[language] += float(p)
        return LanguageScores(posteriors, speech_s)
