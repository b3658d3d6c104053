"""The pipeline's synthesiser, from settings: espeak-ng, or one of Pipecat's own services.

Each row of `_KINDS` says how a synthesiser is built and what it is told when the caller changes
language; whose package is missing is said in a sentence.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipecat.services.settings import TTSSettings as TtsDelta
from pipecat.transcriptions.language import Language

from voice_agent.config_errors import ConfigError

if TYPE_CHECKING:
    from pipecat.services.tts_service import TTSService

    from voice_agent.config import TtsSettings


def build_tts(settings: TtsSettings, language: str = "en") -> TTSService:
    """Build the synthesiser. Loads or fetches its weights; not for an event loop.

    Args:
        settings: which one, with which voices.
        language: BCP-47 code that it speaks first.

    Raises:
        ConfigError: a package, a voice or weights are missing; the message says which.
    """
    kind = _KINDS[settings.name]
    if kind.module is not None and importlib.util.find_spec(kind.module) is None:
        raise ConfigError(
            f"tts.name is {settings.name}, whose package is not installed; "
            f"`pip install 'pipecat-ai[{settings.name}]'` supplies it"
        )
    try:
        return kind.build(settings, language)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"tts.name is {settings.name}, which cannot be used: {error}") from error


def tts_delta(settings: TtsSettings, language: Language) -> TtsDelta | None:
    """What to change in the service of `build_tts` when the caller changes language.

    Args:
        settings: as for `build_tts`.
        language: that the caller speaks now.

    Returns:
        A settings update; None where the synthesiser has no voice for that language and so goes
        on in the one that it has.
    """
    return _KINDS[settings.name].delta(settings, str(language))


def _chosen_voice(settings: TtsSettings, language: str) -> str | None:
    """The voice that the settings name for a language, the region's first."""
    for code in (language, language.split("-")[0]):
        if code in settings.voices:
            return settings.voices[code]
    return None


def _espeak(settings: TtsSettings, language: str) -> TTSService:
    from voice_agent.services.espeak import EspeakTTSService, language_to_espeak
    from voice_agent.services.espeak_ng import espeak_ng

    for code, voice in settings.voices.items():
        if not espeak_ng().has_voice(voice):
            raise ConfigError(f"tts.voices.{code}: espeak-ng has no voice {voice!r}")
    chosen = _chosen_voice(settings, language)
    if chosen is None and language_to_espeak(language) is None:
        raise ConfigError(
            f"language is {language!r}, for which espeak-ng has no voice; "
            f"name one with tts.voices.{language}"
        )
    return EspeakTTSService(
        settings=EspeakTTSService.Settings(voice=chosen, language=language, rate=settings.rate)
    )


def _espeak_delta(settings: TtsSettings, language: str) -> TtsDelta | None:
    from voice_agent.services.espeak import language_to_espeak

    chosen = _chosen_voice(settings, language)
    if chosen is None and language_to_espeak(language) is None:
        return None
    return TtsDelta(voice=chosen, language=language)


_KOKORO_VOICES = {
    "en": "af_heart", "es": "ef_dora", "fr": "ff_siwis", "hi": "hf_alpha", "it": "if_sara",
    "ja": "jf_alpha", "pt": "pf_dora", "zh": "zf_xiaobei",
}  # fmt: skip


def _kokoro_voice(settings: TtsSettings, language: str) -> str | None:
    return _chosen_voice(settings, language) or _KOKORO_VOICES.get(language.split("-")[0])


def _kokoro(settings: TtsSettings, language: str) -> TTSService:
    from pipecat.services.kokoro.tts import KokoroTTSService

    voice = _kokoro_voice(settings, language)
    if voice is None:
        raise ConfigError(f"language is {language!r}, for which kokoro has no voice")
    return KokoroTTSService(
        settings=KokoroTTSService.Settings(voice=voice, language=Language(language))
    )


def _kokoro_delta(settings: TtsSettings, language: str) -> TtsDelta | None:
    voice = _kokoro_voice(settings, language)
    return TtsDelta(voice=voice, language=language) if voice is not None else None


_PIPER_VOICES = {"en": "en_US-lessac-medium", "hi": "hi_IN-pratham-medium"}


def _piper(settings: TtsSettings, language: str) -> TTSService:
    from pipecat.services.piper.tts import PiperTTSService

    voice = _chosen_voice(settings, language) or _PIPER_VOICES.get(language.split("-")[0])
    if voice is None:
        raise ConfigError(
            f"language is {language!r}; name the Piper voice that speaks it with "
            f"tts.voices.{language}"
        )
    return PiperTTSService(settings=PiperTTSService.Settings(voice=voice))


_NVIDIA_VOICE = "Magpie-Multilingual.EN-US.Aria"
_NVIDIA_REGIONS = {
    "de": "de-DE", "en": "en-US", "es": "es-US", "fr": "fr-FR", "hi": "hi-IN", "it": "it-IT",
    "ja": "ja-JP", "vi": "vi-VN", "zh": "zh-CN",
}  # fmt: skip


def _nvidia_delta(settings: TtsSettings, language: str) -> TtsDelta | None:
    region = _NVIDIA_REGIONS.get(language, language)
    chosen = _chosen_voice(settings, language)
    if chosen is None and region not in _NVIDIA_REGIONS.values():
        return None
    return TtsDelta(voice=chosen or _NVIDIA_VOICE, language=region)


def _nvidia(settings: TtsSettings, language: str) -> TTSService:
    from pipecat.services.nvidia.tts import NvidiaTTSService

    first = _nvidia_delta(settings, language)
    if first is None:
        raise ConfigError(
            f"language is {language!r}; name the Magpie voice that speaks it with "
            f"tts.voices.{language}"
        )
    # A server of one's own is reached without TLS, as NIM containers are started.
    server: dict[str, Any] = (
        {"server": settings.url, "use_ssl": False} if settings.url is not None else {}
    )
    if settings.url is None and settings.api_key is None:
        raise ConfigError("tts.name is nvidia: it needs tts.api_key, or tts.url of a server")
    key = settings.api_key.get_secret_value() if settings.api_key is not None else None
    voice = NvidiaTTSService.Settings(voice=first.voice, language=first.language)
    return NvidiaTTSService(api_key=key, settings=voice, **server)


@dataclass(frozen=True, slots=True)
class _Kind:
    """A synthesiser.

    Attributes:
        build: from settings and first language.
        delta: see `tts_delta`.
        module: that must be importable; None where it comes with this package.
    """

    build: Callable[[TtsSettings, str], TTSService]
    delta: Callable[[TtsSettings, str], TtsDelta | None]
    module: str | None = None


_KINDS = {
    "espeak": _Kind(_espeak, _espeak_delta),
    "kokoro": _Kind(_kokoro, _kokoro_delta, "kokoro_onnx"),
    # Pipecat's Piper service keeps the voice that it was built with.
    "piper": _Kind(_piper, lambda settings, language: None, "piper"),
    "nvidia": _Kind(_nvidia, _nvidia_delta, "riva"),
}
