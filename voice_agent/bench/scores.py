"""Word and character error rates, with each language's text made comparable first."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_JOINERS = dict.fromkeys((0x200B, 0x200C, 0x200D, 0xFEFF))
"""Zero-width characters: they steer shapes on a screen and are typed or left out at will."""


@dataclass(frozen=True, slots=True)
class ErrorRates:
    """Pooled over clips.

    Attributes:
        wer: (substitutions + deletions + insertions) / words of the references.
        cer: the same of characters, spaces among them.
        words: of the references.
    """

    wer: float
    cer: float
    words: int


def indic(text: str) -> str:
    """Indic text without what writers differ in.

    NFC, no zero-width joiners, digits in ASCII, and everything that is neither a letter, a vowel
    sign (a combining mark, which Whisper's normaliser would delete) nor a digit as one space.
    """
    kept = []
    for char in unicodedata.normalize("NFC", text).translate(_JOINERS):
        if unicodedata.category(char) == "Nd":
            kept.append(str(unicodedata.digit(char)))
        elif unicodedata.category(char)[0] in "LM":
            kept.append(char.lower())
        else:
            kept.append(" ")
    return " ".join("".join(kept).split())


@functools.cache
def _english() -> Callable[[str], str]:
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer()


def normalise(text: str, language: str) -> str:
    """Make a text comparable: Whisper's normaliser for English, `indic` for all else."""
    return _english()(text).strip() if language == "en" else indic(text)


def score(pairs: Sequence[tuple[str, str, str]]) -> ErrorRates | None:
    """Score a system.

    Args:
        pairs: reference, hypothesis, language of each clip.

    Returns:
        Pooled rates; None where no reference holds a word.
    """
    import jiwer

    references, hypotheses = [], []
    for reference, hypothesis, language in pairs:
        wanted = normalise(reference, language)
        if wanted:
            references.append(wanted)
            hypotheses.append(normalise(hypothesis, language))
    if not references:
        return None
    return ErrorRates(
        wer=jiwer.wer(references, hypotheses),
        cer=jiwer.cer(references, hypotheses),
        words=sum(len(r.split()) for r in references),
    )
