"""Pipecat services: recognisers, the synthesiser and the language model stand-in.

Names are imported when they are first used, so that one service does not load another's parts.
"""

from typing import TYPE_CHECKING, Any

_HOMES = {
    "EchoLLMService": "echo_llm",
    "EspeakTTSService": "espeak",
    "EspeakTTSSettings": "espeak",
    "IndicConformerSTTService": "indic_conformer",
    "LanguageGate": "language_gate",
    "NemotronSTTService": "nemotron",
    "NemotronSTTSettings": "nemotron",
    "RecognizerSTTService": "recognizer_stt",
    "RecognizerSTTSettings": "recognizer_stt",
    "build_llm": "llm",
    "build_tts": "tts",
    "llm_delta": "llm",
    "shared_recognizer": "shared",
    "tts_delta": "tts",
}

if TYPE_CHECKING:
    from voice_agent.services.echo_llm import EchoLLMService
    from voice_agent.services.espeak import EspeakTTSService, EspeakTTSSettings
    from voice_agent.services.indic_conformer import IndicConformerSTTService
    from voice_agent.services.language_gate import LanguageGate
    from voice_agent.services.llm import build_llm, llm_delta
    from voice_agent.services.nemotron import NemotronSTTService, NemotronSTTSettings
    from voice_agent.services.recognizer_stt import RecognizerSTTService, RecognizerSTTSettings
    from voice_agent.services.shared import shared_recognizer
    from voice_agent.services.tts import build_tts, tts_delta

__all__ = [
    "EchoLLMService",
    "EspeakTTSService",
    "EspeakTTSSettings",
    "IndicConformerSTTService",
    "LanguageGate",
    "NemotronSTTService",
    "NemotronSTTSettings",
    "RecognizerSTTService",
    "RecognizerSTTSettings",
    "build_llm",
    "build_tts",
    "llm_delta",
    "shared_recognizer",
    "tts_delta",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"voice_agent.services.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
