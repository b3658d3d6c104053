"""The agent answers in the language that it was spoken to.

Recognisers name the language of each segment, but Pipecat's user aggregator forgets it. So this
processor, which stands before the aggregator, tells the LLM and the TTS by settings updates.
They overtake nothing: both are in place before the turn that contains the segment is answered.
"""

from __future__ import annotations

from collections.abc import Callable

from loguru import logger
from pipecat.frames.frames import (
    Frame,
    LLMUpdateSettingsFrame,
    TranscriptionFrame,
    TTSUpdateSettingsFrame,
)
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.settings import LLMSettings, TTSSettings
from pipecat.transcriptions.language import Language

ForLlm = Callable[[Language], LLMSettings | None]
ForTts = Callable[[Language], TTSSettings | None]


class LanguageFollower(FrameProcessor):
    """Switches LLM and TTS when the language of a final changes; passes everything on."""

    def __init__(self, language: str | None, *, for_llm: ForLlm, for_tts: ForTts) -> None:
        """Follow the caller.

        Args:
            language: BCP-47 code that LLM and TTS are set to now; None where they know none.
            for_llm: what to change in the LLM for a language; None for nothing.
            for_tts: what to change in the TTS; None where it has no voice for the language, so
                that it goes on in the one that it has.
        """
        super().__init__()
        self._language = language
        self._for_llm = for_llm
        self._for_tts = for_tts

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Look at finals; interims may still change their mind.

        Args:
            frame: any.
            direction: of the frame.
        """
        await super().process_frame(frame, direction)
        if isinstance(frame, TranscriptionFrame) and frame.language not in (None, self._language):
            self._language = frame.language
            await self._switch(Language(frame.language))
        await self.push_frame(frame, direction)

    async def _switch(self, language: Language) -> None:
        if (llm := self._for_llm(language)) is not None:
            await self.push_frame(LLMUpdateSettingsFrame(delta=llm))
        if (tts := self._for_tts(language)) is not None:
            await self.push_frame(TTSUpdateSettingsFrame(delta=tts))
        else:
            logger.warning(f"{self}: the caller speaks {language}, for which there is no voice")
