"""The pipeline's language model, from settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipecat.services.settings import LLMSettings as LlmDelta
from pipecat.transcriptions.language import Language

if TYPE_CHECKING:
    from pipecat.services.llm_service import LLMService

    from voice_agent.config import LlmSettings

NO_KEY = "none"
"""Sent to endpoints that want no key: the client of the OpenAI protocol insists on having one."""


def build_llm(settings: LlmSettings, language: str | None = None) -> LLMService[Any]:
    """Build the language model. Imports much; not for an event loop.

    Args:
        settings: an endpoint, or none for the stand-in.
        language: BCP-47 code that callers are expected to speak; None where nothing is known.

    Returns:
        Pipecat's OpenAI service on that endpoint, or `EchoLLMService`.
    """
    if settings.url is None:
        from voice_agent.services.echo_llm import EchoLLMService

        return EchoLLMService(settings=EchoLLMService.Settings(language=language))

    from pipecat.services.openai.llm import OpenAILLMService

    key = settings.api_key.get_secret_value() if settings.api_key is not None else NO_KEY
    return OpenAILLMService(
        base_url=settings.url,
        api_key=key,
        settings=OpenAILLMService.Settings(
            model=settings.model, system_instruction=settings.system_prompt
        ),
    )


def llm_delta(settings: LlmSettings, language: Language) -> LlmDelta:
    """What to change in the service of `build_llm` when the caller changes language.

    Args:
        settings: as for `build_llm`.
        language: that the caller speaks now.
    """
    if settings.url is None:
        from voice_agent.services.echo_llm import EchoLLMSettings

        return EchoLLMSettings(language=language)
    told = f"The user now speaks the language with the code {str(language)!r}: answer in it."
    return LlmDelta(system_instruction=f"{settings.system_prompt}\n{told}")
