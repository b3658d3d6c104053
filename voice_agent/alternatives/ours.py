"""This project's own recognisers, under the names of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voice_agent.alternatives.loading import Choice

if TYPE_CHECKING:
    from voice_agent.engine.recognizer import Recognizer


def nemotron(choice: Choice) -> Recognizer:
    """Load a cache-aware FastConformer-RNNT checkpoint in our engine."""
    from voice_agent.engine import load_recognizer

    return load_recognizer(choice.model or "tiny-en", device=choice.device, slots=choice.slots)


def indic_conformer(choice: Choice) -> Recognizer:
    """Load an IndicConformer checkpoint in our engine."""
    from voice_agent.engine.indic_conformer import load_indic_conformer

    model = choice.model or "ai4bharat/indic-conformer-600m-multilingual"
    return load_indic_conformer(
        model, device=choice.device, language=choice.language, slots=choice.slots
    )
