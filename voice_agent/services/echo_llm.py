"""A stand-in for a language model: deterministic, needs nothing, answers from what it heard.

    "It was the best of times"   ->  "You said: It was the best of times."
    "ನಮಸ್ಕಾರ"                    ->  "ನೀವು ಹೇಳಿದ್ದು: ನಮಸ್ಕಾರ."
    a turn without words         ->  "I did not catch that. Please say it again."

It is a Pipecat LLM service in every respect but wit: it takes contexts, streams its answer word
by word between start and end frames, and can be interrupted.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipecat.frames.frames import (
    Frame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
)
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.llm_service import LLMService
from pipecat.services.settings import LLMSettings
from pipecat.transcriptions.language import Language
from pipecat.utils.types import NOT_GIVEN, NotGiven


@dataclass(frozen=True, slots=True)
class _Phrases:
    heard: str
    missed: str


_PHRASES = {
    "en": _Phrases("You said: {}.", "I did not catch that. Please say it again."),
    "kn": _Phrases("ನೀವು ಹೇಳಿದ್ದು: {}.", "ನನಗೆ ಕೇಳಿಸಲಿಲ್ಲ. ದಯವಿಟ್ಟು ಮತ್ತೆ ಹೇಳಿ."),
    "hi": _Phrases("आपने कहा: {}।", "मुझे सुनाई नहीं दिया। कृपया फिर से कहिए।"),
}
_SCRIPTS = {"kn": range(0x0C80, 0x0D00), "hi": range(0x0900, 0x0980)}
_END_MARKS = " .!?।…"


def language_of(text: str) -> str:
    """The language that a text's script gives away: "kn", "hi", or else "en"."""
    for language, script in _SCRIPTS.items():
        if any(ord(letter) in script for letter in text):
            return language
    return "en"


def answer(heard: str, language: str | None = None) -> str:
    """What the stand-in says.

    Args:
        heard: the user's turn; empty where it had no words.
        language: BCP-47 code of the answer; None for what the script of `heard` gives away. A
            language that it has no phrases for gets the words alone.
    """
    code = (language or language_of(heard)).split("-")[0].lower()
    phrases = _PHRASES.get(code)
    words = heard.strip(_END_MARKS)
    if not words:
        return (phrases or _PHRASES["en"]).missed
    return phrases.heard.format(words) if phrases else words


def last_turn(messages: Sequence[Any]) -> str:
    """The user's last words in a conversation.

    Args:
        messages: in OpenAI's form, oldest first.

    Returns:
        Their text; empty where the newest message is not the user's.
    """
    if not messages or not isinstance(messages[-1], dict) or messages[-1]["role"] != "user":
        return ""
    content = messages[-1].get("content") or ""
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if part.get("type") == "text")


@dataclass
class EchoLLMSettings(LLMSettings):
    """What can change while the pipeline runs.

    Parameters:
        language: BCP-47 code to answer in; None to go by the script of what was heard.
    """

    language: Language | str | None | NotGiven = field(default_factory=lambda: NOT_GIVEN)


class EchoLLMService(LLMService):
    """Answers each context with what its last turn said."""

    Settings = EchoLLMSettings
    _settings: EchoLLMSettings

    def __init__(self, *, settings: EchoLLMSettings | None = None, **kwargs: Any) -> None:
        """Initialise the service.

        Args:
            settings: settings to change from their defaults.
            **kwargs: for `LLMService`.
        """
        # What it does not understand it sets to None, as Pipecat asks.
        defaults = self.Settings(
            model="echo", system_instruction=None, temperature=None, max_tokens=None, top_p=None,
            top_k=None, frequency_penalty=None, presence_penalty=None, seed=None,
            filter_incomplete_user_turns=False, user_turn_completion_config=None, language=None,
        )  # fmt: skip
        if settings is not None:
            defaults.apply_update(settings)
        super().__init__(settings=defaults, **kwargs)

    def can_generate_metrics(self) -> bool:
        """Whether this service reports metrics: it does (TTFB and processing time)."""
        return True

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Answer contexts, pass the rest on.

        Args:
            frame: any.
            direction: of the frame.
        """
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMContextFrame):
            await self._answer(frame.context)
        else:
            await self.push_frame(frame, direction)

    async def _answer(self, context: LLMContext) -> None:
        language = self._settings.language
        text = answer(last_turn(context.get_messages()), str(language) if language else None)
        await self.push_frame(LLMFullResponseStartFrame())
        try:
            await self.start_processing_metrics()
            await self.start_ttfb_metrics()
            for piece in re.findall(r"\S+\s*", text):
                await self._push_llm_text(piece)
                await self.stop_ttfb_metrics()
                await asyncio.sleep(0)  # where an interruption may come in between
        finally:
            await self.stop_processing_metrics()
            await self.push_frame(LLMFullResponseEndFrame())
