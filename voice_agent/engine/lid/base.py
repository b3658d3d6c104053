"""What every language identifier looks like, and how much of some audio is speech."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from voice_agent.engine.recognizer import SAMPLE_RATE

FRAME = SAMPLE_RATE // 50  # 20 ms
OTHER = "other"


@dataclass(frozen=True, slots=True)
class LanguageScores:
    """What an identifier makes of the audio so far.

    Attributes:
        posteriors: probability by BCP-47 code, summing to 1; "other" stands for every language
            that the identifier does not name, and for what is no speech at all.
        speech_s: seconds of speech among the audio, which the posteriors rest on.
    """

    posteriors: Mapping[str, float]
    speech_s: float

    @property
    def best(self) -> str:
        """The likeliest language."""
        return max(self.posteriors, key=lambda code: self.posteriors[code])

    def among(self, languages: tuple[str, ...]) -> dict[str, float]:
        """Posteriors of these languages and of "other", which takes the rest."""
        named = {code: self.posteriors.get(code, 0.0) for code in languages}
        return {**named, OTHER: max(0.0, 1.0 - sum(named.values()))}


@runtime_checkable
class LanguageIdentifier(Protocol):
    """Weights that tell languages apart.

    Attributes:
        name: short name for logs and metrics.
        languages: codes that it can name.
    """

    name: str
    languages: tuple[str, ...]

    def identify(self, pcm: np.ndarray) -> LanguageScores:
        """Score a segment's audio so far. Takes milliseconds: not for an event loop.

        Args:
            pcm: int16 or float32 in [-1, 1], shape (n,), 16 kHz mono; all of the segment so far.

        Raises:
            BadAudio: wrong dtype or shape, or values that are not finite.
        """
        ...


class SpeechMeter:
    """How much of a growing segment is loud enough to be speech.

    A 20 ms frame counts where its level is above -55 dB of full scale, at most 30 dB below the
    loudest of the audio, and 6 dB above its quietest tenth, unless that tenth is itself within
    15 dB of the loudest (speech without a pause has no floor to measure). Each sample is looked
    at once, so a long segment costs no more by the second than a short one.
    """

    def __init__(self) -> None:
        self._levels = np.empty(0)  # dB of each whole frame so far
        self._rest = np.empty(0, np.float32)

    def append(self, pcm: np.ndarray) -> None:
        """Take audio, float32 in [-1, 1], shape (n,), any n."""
        pcm = np.concatenate([self._rest, pcm])
        whole = len(pcm) // FRAME * FRAME
        frames, self._rest = pcm[:whole].reshape(-1, FRAME), pcm[whole:]
        levels = 10.0 * np.log10(np.square(frames).mean(axis=1) + 1e-10)
        self._levels = np.concatenate([self._levels, levels])

    def seconds(self) -> float:
        """Seconds of speech among the whole frames so far."""
        if not len(self._levels):
            return 0.0
        loudest = float(np.percentile(self._levels, 98))
        floor = float(np.percentile(self._levels, 10))
        threshold = max(-55.0, loudest - 30.0)
        if floor < loudest - 15.0:
            threshold = max(threshold, floor + 6.0)
        return float((self._levels > threshold).sum()) * FRAME / SAMPLE_RATE


def speech_seconds(pcm: np.ndarray) -> float:
    """Seconds of audio that are loud enough to be speech, as `SpeechMeter` counts them.

    Args:
        pcm: float32 in [-1, 1], shape (n,).
    """
    meter = SpeechMeter()
    meter.append(pcm)
    return meter.seconds()
