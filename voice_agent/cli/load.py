"""The recogniser that a command's settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voice_agent.cli.errors import UsageFault
from voice_agent.config import DEFAULT_SYSTEM, Settings

if TYPE_CHECKING:
    from voice_agent.engine.recognizer import Recognizer


def load(settings: Settings) -> Recognizer:
    """Load it. Blocks.

    Args:
        settings: as for `voice_agent.recognizers.load_recognizer`.

    Raises:
        EngineError: a model that cannot be used.
        UsageFault: a setting that the model does not have.
    """
    from voice_agent.recognizers import load_recognizer

    try:
        recognizer = load_recognizer(settings)
    except ValueError as error:  # the engine's word for an option that a checkpoint lacks
        raise UsageFault(str(error)) from error
    language, written = settings.spoken_language, recognizer.languages
    # A server would start, and then each of its calls fail.
    if language and written and language.split("-")[0].lower() not in written:
        recognizer.close()
        raise UsageFault(
            f"{recognizer.name} writes {', '.join(written)}, not {language!r}; name what is "
            "spoken with --language, or leave it to the model with --language auto"
        )
    return recognizer


def what(settings: Settings) -> str:
    """What `load` is going to load, for people."""
    stt = settings.stt
    if stt.name == DEFAULT_SYSTEM:
        return stt.model
    return f"{stt.name}, {stt.named_model}" if stt.named_model else stt.name
