"""Pipecat frame processors of the agent's pipeline.

Names are imported when they are first used, as those of `voice_agent.services` are.
"""

from typing import TYPE_CHECKING, Any

_HOMES = {
    "AudioChunker": "chunker",
    "Captions": "captions",
    "LanguageFollower": "language",
    "LanguageGate": "language_gate",
}

if TYPE_CHECKING:
    from voice_agent.processors.captions import Captions
    from voice_agent.processors.chunker import AudioChunker
    from voice_agent.processors.language import LanguageFollower
    from voice_agent.processors.language_gate import LanguageGate

__all__ = ["AudioChunker", "Captions", "LanguageFollower", "LanguageGate"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"voice_agent.processors.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
