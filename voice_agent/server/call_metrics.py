"""What a call's pipeline measures about itself, in Prometheus' format.

voice_agent_call_ttfb_seconds{part="stt"}    end of speech (VAD) to the final text: TTFS
voice_agent_call_ttfb_seconds{part="llm"}    request to first token
voice_agent_call_ttfb_seconds{part="tts"}    text to first audio
voice_agent_voice_to_voice_seconds           the caller stops speaking to the agent starting to

Imports Pipecat, so it is imported with the first call.
"""

from __future__ import annotations

from collections.abc import Callable

from pipecat.frames.frames import MetricsFrame
from pipecat.metrics.metrics import TTFBMetricsData
from pipecat.observers.base_observer import BaseObserver, FramePushed
from pipecat.observers.user_bot_latency_observer import UserBotLatencyObserver
from pipecat.services.llm_service import LLMService
from pipecat.services.stt_service import STTService
from pipecat.services.tts_service import TTSService

_PARTS = ((STTService, "stt"), (LLMService, "llm"), (TTSService, "tts"))


class PartsObserver(BaseObserver):
    """Reports how long each part of a pipeline took to its first output."""

    def __init__(self, report: Callable[[str, float], object]) -> None:
        """Observe a pipeline.

        Args:
            report: told the part ("stt", "llm", "tts") and seconds.
        """
        super().__init__(observe_every_push=False)
        self._report = report

    async def on_push_frame(self, data: FramePushed) -> None:
        """Look for measurements that a service pushes about itself."""
        if not isinstance(data.frame, MetricsFrame):
            return
        part = next((name for kind, name in _PARTS if isinstance(data.source, kind)), None)
        if part is None:  # the worker's own empty ones, at a pipeline's start
            return
        for measured in data.frame.data:
            if isinstance(measured, TTFBMetricsData):
                self._report(part, measured.value)


def observers(
    on_part: Callable[[str, float], object], on_answer: Callable[[float], object]
) -> list[BaseObserver]:
    """Make the observers of one call.

    Args:
        on_part: told the part and seconds to its first output.
        on_answer: told seconds from the caller's voice to the agent's.
    """
    latency = UserBotLatencyObserver()

    @latency.event_handler("on_latency_measured")
    async def on_latency_measured(_observer: object, seconds: float) -> None:
        on_answer(seconds)

    return [PartsObserver(on_part), latency]
