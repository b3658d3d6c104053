"""A Pipecat STT service over any `Recognizer`: what every recogniser's service has in common.

One 80 ms piece of audio, on the event loop: `process_audio_frame` makes it 16 kHz mono,
`run_stt` hands it to the stream and yields None. The recogniser's own thread does the work; its
events come back over the loop (`CallStream`), and one task turns them into frames.

Segments are cut by the VAD, wherever in the pipeline it stands:

    silence          audio goes round in the pre-roll; the recogniser hears nothing and costs
                     nothing
    VAD start        the stream gets the pre-roll, then the live audio
    VAD stop         `finish()`; what comes after it is pre-roll again, so it belongs to the
                     next segment and no sample is heard twice
    Partial          InterimTranscriptionFrame
    Final            one TranscriptionFrame, finalised through Pipecat's request/confirm
                     handshake; nothing at all where nothing was said
    Failed           a permanent error: the pipeline ends the call under
                     `ProcessorUnusablePolicy.END`
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import numpy as np
from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    Frame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    SpeechControlParamsFrame,
    StartFrame,
    STTMuteFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.settings import STTSettings
from pipecat.services.stt_service import STTService
from pipecat.transcriptions.language import Language
from pipecat.utils.time import time_now_iso8601
from pipecat.utils.tracing.service_decorators import traced_stt

from voice_agent.audio import SAMPLE_RATE, AudioFormatError, MonoResampler, PreRoll
from voice_agent.engine.errors import EngineError
from voice_agent.engine.recognizer import (
    Failed,
    Final,
    Partial,
    Recognizer,
    StreamOptions,
)
from voice_agent.services.call_stream import CallStream

PRE_ROLL_S = 0.5
"""Seconds kept from before VAD start: its 0.2 s of proof, and 0.3 s for the first consonant."""

FINAL_TIMEOUT_S = 30.0
"""Seconds after which a recogniser that owes a final is given up as stuck."""

NO_VAD_WARNING_S = 10.0
"""Seconds of audio without a single VAD frame after which the missing VAD is reported."""


@dataclass
class RecognizerSTTSettings(STTSettings):
    """What can change while the pipeline runs: `language` (and in subclasses more).

    A change reopens the stream and so takes effect with the next segment.
    """


class RecognizerSTTService(STTService):
    """Transcribes VAD segments with a recogniser that is shared by all calls.

    Needs a VAD in the pipeline: a `VADProcessor` before it (best), or a `vad_analyzer` in the
    user aggregator.
    """

    Settings = RecognizerSTTSettings
    _settings: RecognizerSTTSettings

    def __init__(
        self,
        *,
        recognizer: Recognizer | None = None,
        pre_roll_s: float = PRE_ROLL_S,
        final_timeout_s: float = FINAL_TIMEOUT_S,
        settings: RecognizerSTTSettings | None = None,
        **kwargs: Any,
    ) -> None:
        """Initialise the service; nothing is loaded or opened before the pipeline starts.

        Args:
            recognizer: loaded weights, not closed by this service. None where a subclass
                overrides `load_recognizer`.
            pre_roll_s: seconds from before VAD start that belong to the segment.
            final_timeout_s: seconds without an owed final after which the service gives up.
            settings: settings to change from their defaults.
            **kwargs: for `STTService`, e.g. `ttfs_p99_latency` measured for this deployment.
        """
        defaults = self.default_settings()
        if settings is not None:
            defaults.apply_update(settings)
        super().__init__(sample_rate=SAMPLE_RATE, settings=defaults, **kwargs)
        self._recognizer = recognizer
        self._stream = CallStream(final_timeout_s)
        # Settings since the stream was opened, with the values that it has.
        self._stale: dict[str, Any] = {}
        self._consumer: asyncio.Task | None = None
        self._pre_roll = PreRoll(pre_roll_s)
        self._resampler = MonoResampler()
        self._refused = ""
        self._last_interim = ""
        self._samples_without_vad: int | None = 0  # None once a VAD has been seen

    def can_generate_metrics(self) -> bool:
        """Whether this service reports metrics: it does (TTFB and usage)."""
        return True

    # What a subclass may override

    @classmethod
    def default_settings(cls) -> RecognizerSTTSettings:
        """Settings with every field given, before the caller's are applied."""
        return cls.Settings(model=None, language=None)

    async def load_recognizer(self) -> Recognizer:
        """Return the recogniser, loading it off the event loop if need be.

        Raises:
            ModelError: the model cannot be had.
        """
        if self._recognizer is None:
            raise ValueError(f"{type(self).__name__} needs a recognizer=")
        return self._recognizer

    def stream_options(self) -> StreamOptions:
        """Options for the next stream, from the current settings."""
        language = self._settings.language
        return StreamOptions(language=str(language) if language else None)

    def stream_settings(self) -> frozenset[str]:
        """Names of the settings that a new stream takes up."""
        return frozenset({"language"})

    async def on_other_event(self, event: Any) -> None:
        """Take an event that the protocol does not have, of a recogniser that has more to tell.

        Args:
            event: in its order among the others.
        """

    # Lifecycle

    async def start(self, frame: StartFrame) -> None:
        """Take a stream for this call; failing that, report a permanent error."""
        await super().start(frame)
        if self._consumer is None:
            self._consumer = self.create_task(self._consume(), name="events")
        # Raises nothing: Pipecat would log and swallow it, and run on deaf.
        await self._open_stream()

    async def stop(self, frame: EndFrame) -> None:
        """Push every final that is still owed, then let the stream go."""
        self._stream.finish()
        await self._stream.wait_until_settled()
        await super().stop(frame)
        await self._release()

    async def cancel(self, frame: CancelFrame) -> None:
        """Let the stream go at once, with whatever was being said."""
        await super().cancel(frame)
        await self._release()

    async def cleanup(self) -> None:
        """Let the stream go, if neither stop() nor cancel() ran."""
        await super().cleanup()
        await self._release()

    async def _release(self) -> None:
        self._stream.close()
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            await self.cancel_task(consumer)

    async def _open_stream(self) -> None:
        """Take a stream; where that fails, report a permanent error."""
        try:
            self._recognizer = await self.load_recognizer()
            self._stream.open(self._recognizer, self.stream_options())
        except Exception as error:
            await self._give_up(error)

    async def _give_up(self, error: Exception) -> None:
        self._stream.close()
        await self.push_error(
            f"{self.name} cannot transcribe: {error}",
            exception=error,
            force_treat_as_permanent=True,
        )

    # Audio in

    async def process_audio_frame(
        self, frame: InputAudioRawFrame, direction: FrameDirection
    ) -> None:
        """Bring the frame to 16 kHz mono, then as Pipecat does.

        Transports deliver what the pipeline asked for, but a protobuf websocket client's audio
        is passed on at the rate at which it was sent.
        """
        try:
            samples = self._resampler.process(frame.audio, frame.sample_rate, frame.num_channels)
        except AudioFormatError as error:
            await self._refuse_audio(error)
            return
        if samples.size:  # else the resampler has kept it all for the next frame
            mono = copy.copy(frame)
            mono.audio = samples.tobytes()
            mono.sample_rate, mono.num_channels = SAMPLE_RATE, 1
            mono.num_frames = samples.size
            await super().process_audio_frame(mono, direction)

    async def _refuse_audio(self, error: AudioFormatError) -> None:
        if str(error) != self._refused:  # once, not fifty times a second
            self._refused = str(error)
            await self.push_error(f"{self.name} dropped audio: {error}", exception=error)

    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame | None, None]:
        """Hand audio to the stream, or to the pre-roll. Never waits.

        Args:
            audio: 16 kHz mono int16 samples, any number.

        Yields:
            None: transcripts come later, from the recogniser's thread.
        """
        samples = np.frombuffer(audio, dtype=np.int16)
        if self._stream.in_segment:
            await self._feed(samples)
        else:
            self._pre_roll.push(samples)
            await self._notice_missing_vad(samples.size)
        yield None

    async def _feed(self, samples: np.ndarray) -> None:
        try:
            self._stream.feed(samples)
        except EngineError as error:
            await self._give_up(error)
        else:
            super()._record_stt_audio_usage(samples.tobytes())

    def _record_stt_audio_usage(self, audio: bytes | bytearray) -> None:
        """Count nothing here: Pipecat calls this for silence too, which nobody transcribes."""

    async def _notice_missing_vad(self, samples: int) -> None:
        if self._samples_without_vad is None:
            return
        self._samples_without_vad += samples
        if self._samples_without_vad > NO_VAD_WARNING_S * SAMPLE_RATE:
            self._samples_without_vad = None
            await self.push_error(
                f"{self.name} has heard {NO_VAD_WARNING_S:.0f} s of audio and of no VAD; put a "
                "VADProcessor before it, or a vad_analyzer into the user aggregator"
            )

    # Segments

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """As Pipecat does; when muting, also forget the pre-roll, which would be stale."""
        await super().process_frame(frame, direction)
        if isinstance(frame, STTMuteFrame) and frame.mute:
            self._pre_roll.take()
        elif isinstance(frame, SpeechControlParamsFrame) and frame.vad_params is not None:
            await self._meet_vad(frame.vad_params.start_secs)

    async def _meet_vad(self, start_s: float) -> None:
        """A VAD tells, when the pipeline starts, how long it takes to notice speech."""
        self._samples_without_vad = None
        if self._pre_roll.seconds < start_s:
            await self.push_error(
                f"{self.name} cuts first words: its pre_roll_s is {self._pre_roll.seconds:g}, and "
                f"the VAD notices speech after {start_s:g} s; give it a longer pre_roll_s"
            )

    async def _handle_vad_user_started_speaking(self, frame: VADUserStartedSpeakingFrame) -> None:
        await super()._handle_vad_user_started_speaking(frame)
        self._samples_without_vad = None
        if self._stream.begin():
            self._last_interim = ""
            await self._feed(self._pre_roll.take())

    async def _handle_vad_user_stopped_speaking(self, frame: VADUserStoppedSpeakingFrame) -> None:
        await super()._handle_vad_user_stopped_speaking(frame)
        if self._stream.finish():
            self.request_finalize()

    # Events out

    async def _consume(self) -> None:
        """Turn the stream's events into frames, in order, for as long as the call lasts."""
        while True:
            event = await self._stream.next_event()
            match event:
                case Partial():
                    await self._push_interim(event)
                case Final():
                    await self._push_final(event)
                    self._stream.settle()
                    await self._reopen_if_idle()
                case Failed(error=error):
                    await self._give_up(error)
                case _:
                    await self.on_other_event(event)

    async def _push_interim(self, event: Partial) -> None:
        # Recognisers may repeat a partial when only its times moved.
        if not event.text or event.text == self._last_interim:
            return
        self._last_interim = event.text
        language = self._language(event)
        await self._handle_transcription(event.text, False, language)
        await self.push_frame(
            InterimTranscriptionFrame(
                event.text, self._user_id, time_now_iso8601(), language, result=event
            )
        )

    async def _push_final(self, final: Final) -> None:
        self._last_interim = ""
        await self.emit_stt_usage_metrics()
        if not final.text:
            # Unconfirmed on purpose: the pending flag would mark the next segment's transcript.
            return
        if self._stream.finals_owed <= 1:
            # While another final is owed, this one does not end what the user is saying. And if
            # the user has begun again, Pipecat has dropped the request, so this does nothing.
            self.confirm_finalize()
        language = self._language(final)
        await self._handle_transcription(final.text, True, language)
        frame = TranscriptionFrame(
            final.text, self._user_id, time_now_iso8601(), language, result=final
        )
        # The user's next word interrupts the agent, and must not drop the last one from a queue.
        frame.interruptible = False
        await self.push_frame(frame)

    @traced_stt
    async def _handle_transcription(
        self, transcript: str, is_final: bool, language: Language | None = None
    ) -> None:
        """Mark the transcript in the trace; the decorator does it."""

    def _language(self, event: Partial | Final) -> Language | None:
        code = event.language or self._settings.language
        try:
            return Language(str(code)) if code else None
        except ValueError:
            return None

    # Settings

    async def _update_settings(self, delta: Any) -> dict[str, Any]:
        changed = await super()._update_settings(delta)
        handled = self.stream_settings()
        self._warn_unhandled_updated_settings(changed.keys() - handled)
        # Of several changes to one setting, the first knows what the stream has.
        self._stale = {k: v for k, v in changed.items() if k in handled} | self._stale
        await self._reopen_if_idle()
        return changed

    async def _reopen_if_idle(self) -> None:
        """Take a stream with the new options, once no segment needs the old one.

        Options that the recogniser refuses are reported, and those before them restored.
        """
        stream = self._stream
        if not self._stale or not stream.is_open or stream.in_segment or stream.finals_owed:
            return
        before, self._stale = self._stale, {}
        stream.close()
        try:
            assert self._recognizer is not None, "a stream was open"
            stream.open(self._recognizer, self.stream_options())
        except ValueError as error:
            for name, value in before.items():
                setattr(self._settings, name, value)
            await self.push_error(f"{self.name} keeps its settings: {error}", exception=error)
            await self._open_stream()
        except EngineError as error:
            await self._give_up(error)
