"""One call's pipeline, built from `Settings` for any Pipecat transport.

    transport.input ─► AudioChunker ─► VADProcessor ─► STT ─► LanguageFollower ─► Captions ─►
    user aggregator (turns) ─► LLM ─► TTS ─► transport.output ─► assistant aggregator

The VAD stands before the recogniser, so that its frames arrive in order with the audio and do
not wait for anything downstream. Weights are loaded once per process (`load_shared_recognizer`)
before any call; what a call needs besides them, `build_worker` loads on a thread. Importing this
module takes seconds, so a server does that on a thread, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pipecat.audio.turn.smart_turn.base_smart_turn import SmartTurnParams
from pipecat.audio.turn.smart_turn.local_smart_turn_v3 import LocalSmartTurnAnalyzerV3
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADAnalyzer, VADParams
from pipecat.frames.frames import TTSSpeakFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker, ProcessorUnusablePolicy
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.processors.audio.vad_processor import VADProcessor
from pipecat.turns.user_start import VADUserTurnStartStrategy
from pipecat.turns.user_stop import (
    BaseUserTurnStopStrategy,
    SpeechTimeoutUserTurnStopStrategy,
    TurnAnalyzerUserTurnStopStrategy,
)
from pipecat.turns.user_turn_strategies import UserTurnStrategies

from voice_agent.audio import SAMPLE_RATE
from voice_agent.config import DEFAULT_LANGUAGE, DEFAULT_SYSTEM, Settings
from voice_agent.engine.gate import GatedRecognizer
from voice_agent.engine.recognizer import Recognizer
from voice_agent.processors import AudioChunker, Captions, LanguageFollower
from voice_agent.recognizers import load_recognizer, load_shared_recognizer
from voice_agent.services import (
    LanguageGate,
    NemotronSTTService,
    RecognizerSTTService,
    build_llm,
    build_tts,
    llm_delta,
    tts_delta,
)

if TYPE_CHECKING:
    from pipecat.observers.base_observer import BaseObserver
    from pipecat.services.llm_service import LLMService
    from pipecat.services.stt_service import STTService
    from pipecat.services.tts_service import TTSService
    from pipecat.transports.base_transport import BaseTransport

__all__ = ["AUDIO_OUT_SAMPLE_RATE", "build_worker", "load_recognizer", "load_shared_recognizer"]

AUDIO_OUT_SAMPLE_RATE = 24_000
"""Samples a second that the agent speaks in; transports resample to what they send."""


async def build_worker(
    transport: BaseTransport,
    settings: Settings,
    recognizer: Recognizer,
    *,
    stt: STTService | None = None,
    observers: Sequence[BaseObserver] = (),
    conversation_id: str | None = None,
) -> PipelineWorker:
    """Build the pipeline of one call, ready for `WorkerRunner.add_workers`.

    The worker greets when the transport's client connects (if `settings.greeting` is set) and
    cancels itself when that client leaves. A processor that can no longer work, such as a
    recogniser whose engine died, ends the call.

    Args:
        transport: where audio comes from and goes to: SmallWebRTC, websocket or any other.
        settings: the agent's settings.
        recognizer: what `load_shared_recognizer` returned; stays open after the call.
        stt: another STT service to use in place of `NemotronSTTService` over `recognizer`.
        observers: Pipecat observers to attach.
        conversation_id: a name for this call in traces.

    Returns:
        The worker, not yet running.

    Raises:
        ConfigError: an LLM or TTS that cannot be built from the settings, and why.
    """
    parts = await asyncio.to_thread(_build_parts, settings)
    users, assistants = LLMContextAggregatorPair(
        LLMContext(),
        user_params=LLMUserAggregatorParams(
            user_turn_strategies=parts.turns,
            user_turn_stop_timeout=_turn_timeout_s(settings),
        ),
    )
    worker = PipelineWorker(
        Pipeline(
            [
                transport.input(),
                AudioChunker(),
                VADProcessor(vad_analyzer=parts.vad),
                stt or _stt_service(settings, recognizer),
                _language_follower(settings),
                Captions(),
                users,
                parts.llm,
                parts.tts,
                transport.output(),
                assistants,
            ]
        ),
        params=PipelineParams(
            audio_in_sample_rate=SAMPLE_RATE,
            audio_out_sample_rate=AUDIO_OUT_SAMPLE_RATE,
            enable_metrics=True,
            enable_usage_metrics=True,
        ),
        observers=list(observers),
        enable_tracing=settings.tracing.url is not None,
        conversation_id=conversation_id,
        idle_timeout_secs=settings.server.idle_timeout_s,
        processor_unusable_policy=ProcessorUnusablePolicy.END,
    )
    _follow_client(transport, worker, settings.greeting)
    return worker


@dataclass(frozen=True, slots=True)
class _Parts:
    """What takes a file or a big import to make."""

    vad: VADAnalyzer
    turns: UserTurnStrategies
    llm: LLMService[Any]
    tts: TTSService


def _build_parts(settings: Settings) -> _Parts:
    """On a thread."""
    vad = settings.vad
    return _Parts(
        SileroVADAnalyzer(
            sample_rate=SAMPLE_RATE,
            params=VADParams(
                confidence=vad.confidence,
                start_secs=vad.start_s,
                stop_secs=vad.stop_s,
                min_volume=vad.min_volume,
            ),
        ),
        _turn_strategies(settings),
        build_llm(settings.llm, settings.spoken_language),
        build_tts(settings.tts, settings.spoken_language or DEFAULT_LANGUAGE),
    )


def _turn_strategies(settings: Settings) -> UserTurnStrategies:
    stop: BaseUserTurnStopStrategy
    if settings.turn.smart:
        analyzer = LocalSmartTurnAnalyzerV3(
            params=SmartTurnParams(stop_secs=settings.turn.incomplete_pause_s)
        )
        stop = TurnAnalyzerUserTurnStopStrategy(turn_analyzer=analyzer)
    else:
        stop = SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=settings.turn.pause_s)
    # By voice alone. Pipecat's default also takes any interim for the start of a turn, so what
    # a recogniser imagines in noise would cut the agent off.
    return UserTurnStrategies(start=[VADUserTurnStartStrategy()], stop=[stop])


def _turn_timeout_s(settings: Settings) -> float:
    """Seconds after which a turn ends whatever its strategy thinks: later than any of them."""
    pause_s = settings.turn.incomplete_pause_s if settings.turn.smart else settings.turn.pause_s
    return max(5.0, pause_s + 2.0)


def _stt_service(settings: Settings, recognizer: Recognizer) -> STTService:
    language, pre_roll_s = settings.spoken_language, settings.vad.pre_roll_s
    if isinstance(recognizer, GatedRecognizer):
        return LanguageGate(recognizer=recognizer, pre_roll_s=pre_roll_s)
    if settings.stt.name != DEFAULT_SYSTEM:
        return RecognizerSTTService(
            recognizer=recognizer,
            pre_roll_s=pre_roll_s,
            settings=RecognizerSTTService.Settings(language=language),
        )
    return NemotronSTTService(
        recognizer=recognizer,
        pre_roll_s=pre_roll_s,
        settings=NemotronSTTService.Settings(
            language=language,
            right_context=settings.stt.right_context,
            final_pass=settings.stt.final_pass,
        ),
    )


def _language_follower(settings: Settings) -> LanguageFollower:
    return LanguageFollower(
        settings.spoken_language,
        for_llm=partial(llm_delta, settings.llm),
        for_tts=partial(tts_delta, settings.tts),
    )


def _follow_client(transport: BaseTransport, worker: PipelineWorker, greeting: str | None) -> None:
    """Greet whoever comes, and end when they leave."""

    @transport.event_handler("on_client_connected")
    async def on_client_connected(_transport: BaseTransport, _client: Any) -> None:
        if greeting is not None:
            await worker.queue_frame(TTSSpeakFrame(greeting))

    @transport.event_handler("on_client_disconnected")
    async def on_client_disconnected(_transport: BaseTransport, _client: Any) -> None:
        await worker.cancel(reason="the client left")
