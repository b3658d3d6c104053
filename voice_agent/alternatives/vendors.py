"""Pipecat's own services, where they are the best wrapper: their settings from a `Choice`.

A local server behind `Choice.url` needs no key; the vendor's own service does, from
`Choice.api_key` or the variable that the vendor's SDK reads.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from voice_agent.alternatives.errors import MissingKey
from voice_agent.alternatives.loading import Choice, need

if TYPE_CHECKING:
    from pipecat.services.deepgram.stt import DeepgramSTTService
    from pipecat.services.openai.stt import OpenAIRealtimeSTTService
    from pipecat.services.sarvam.stt import SarvamRealtimeSTTService


def sarvam(choice: Choice, **options: Any) -> SarvamRealtimeSTTService:
    """Sarvam's realtime service; our VAD ends its turns.

    Raises:
        MissingExtra: sarvamai is not installed.
        MissingKey: no key, and no address of another server.
    """
    need("sarvam", "sarvamai", package="sarvamai", extra="sarvam")
    key = _key("sarvam", choice, "SARVAM_API_KEY")
    from pipecat.services.sarvam.stt import SarvamRealtimeSTTService as Service

    if choice.url:
        options["base_url"] = choice.url
    settings = Service.Settings(language=_language(choice), **_model(choice))
    return Service(api_key=key, endpointing="manual", settings=settings, **options)


def deepgram(choice: Choice, **options: Any) -> DeepgramSTTService:
    """Deepgram, or any server of its `/v1/listen`.

    Raises:
        MissingExtra: deepgram-sdk is not installed.
        MissingKey: no key, and no address of another server.
    """
    need("deepgram", "deepgram", package="deepgram-sdk", extra="deepgram")
    key = _key("deepgram", choice, "DEEPGRAM_API_KEY")
    from pipecat.services.deepgram.stt import DeepgramSTTService as Service

    settings = Service.Settings(language=_language(choice) or "en", **_model(choice))
    return Service(api_key=key, base_url=choice.url or "", settings=settings, **options)


def openai_realtime(choice: Choice, **options: Any) -> OpenAIRealtimeSTTService:
    """OpenAI's realtime transcription, or any server of its protocol; our VAD commits.

    Raises:
        MissingKey: no key, and no address of another server.
    """
    key = _key("openai-realtime", choice, "OPENAI_API_KEY")
    from pipecat.services.openai.stt import OpenAIRealtimeSTTService as Service

    if choice.url:
        options["base_url"] = choice.url
    settings = Service.Settings(language=_language(choice), **_model(choice))
    return Service(api_key=key, turn_detection=False, settings=settings, **options)


def _key(system: str, choice: Choice, variable: str) -> str:
    # The vendor's own variable, which its SDK would read: not one of this project's settings.
    key = choice.api_key or os.environ.get(variable) or ("none" if choice.url else "")
    if not key:
        raise MissingKey(system, variable)
    return key


def _model(choice: Choice) -> dict[str, Any]:
    return {"model": choice.model} if choice.model else {}


def _language(choice: Choice) -> Any:
    from pipecat.transcriptions.language import Language

    return Language(choice.language) if choice.language else None
