"""espeak-ng as a Pipecat TTS service: speech in 100 languages from one small wheel, no network.

It sounds like the machine that it is; its merit is that it is always there, Kannada included.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from pipecat.frames.frames import ErrorFrame, Frame
from pipecat.services.settings import TTSSettings
from pipecat.services.tts_service import TTSService
from pipecat.transcriptions.language import Language
from pipecat.utils.tracing.service_decorators import traced_tts
from pipecat.utils.types import NOT_GIVEN, NotGiven, assert_given

from voice_agent.services.espeak_ng import SpeechError, espeak_ng

_OTHER_NAMES = {"zh": "cmn", "no": "nb"}


def language_to_espeak(language: str) -> str | None:
    """The espeak-ng voice of a language.

    Args:
        language: BCP-47 code: "kn", "en-US".

    Returns:
        Its name, the region's own where there is one ("en-us"); None where there is no voice.
    """
    code = language.lower()
    base = code.split("-")[0]
    for name in (code, base, _OTHER_NAMES.get(base)):
        if name is not None and espeak_ng().has_voice(name):
            return name
    return None


@dataclass
class EspeakTTSSettings(TTSSettings):
    """What can change while the pipeline runs; it takes effect with the next sentence.

    Parameters:
        voice: an espeak-ng voice ("kn+f2"); None for the one of `language`.
        language: of what is said.
        rate: relative to espeak-ng's normal rate.
    """

    rate: float | NotGiven = field(default_factory=lambda: NOT_GIVEN)


class EspeakTTSService(TTSService):
    """Speaks sentence by sentence; audio goes out while the rest is still being made.

    Example::

        tts = EspeakTTSService(settings=EspeakTTSService.Settings(language="kn"))
    """

    Settings = EspeakTTSSettings
    _settings: EspeakTTSSettings

    def __init__(self, *, settings: EspeakTTSSettings | None = None, **kwargs: Any) -> None:
        """Initialise the service. Loads espeak-ng when it is the process's first (milliseconds).

        Args:
            settings: settings to change from their defaults: English at the normal rate.
            **kwargs: for `TTSService`.
        """
        defaults = self.Settings(model=None, voice=None, language="en", rate=1.0)
        if settings is not None:
            defaults.apply_update(settings)
        super().__init__(push_start_frame=True, push_stop_frames=True, settings=defaults, **kwargs)
        self._espeak = espeak_ng()

    def can_generate_metrics(self) -> bool:
        """Whether this service reports metrics: it does (TTFB and usage)."""
        return True

    def language_to_service_language(self, language: Language) -> str | None:
        """The espeak-ng voice of a language; None (so the code as it is) where there is none."""
        return language_to_espeak(str(language))

    @traced_tts
    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        """Say a text.

        Args:
            text: a sentence.
            context_id: of the turn that it belongs to.

        Yields:
            Audio at the pipeline's rate; an error frame where there is no such voice.
        """
        voice = self._settings.voice or self._settings.language
        rate = assert_given(self._settings.rate)
        try:
            await self.start_tts_usage_metrics(text)
            async with aclosing(self._espeak.speak(text, str(voice), rate=rate)) as pieces:
                async for frame in self._stream_audio_frames_from_iterator(
                    pieces, in_sample_rate=self._espeak.sample_rate, context_id=context_id
                ):
                    await self.stop_ttfb_metrics()
                    yield frame
        except SpeechError as error:
            yield ErrorFrame(error=f"{self.name}: {error}")
        finally:
            await self.stop_ttfb_metrics()
