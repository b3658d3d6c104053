"""A Pipecat STT service as a recogniser, so that `transcribe` and `bench` reach it like any other.

The service runs in a small pipeline on an event loop of its own. A segment is what a VAD would
make of it: started-speaking, audio, stopped-speaking; its final is the service's finalised
transcription. A pipeline that has finished its segment is connected and ready: the next segment
takes it again, so only the first of a stream waits for a handshake.

    worker thread                          loop thread
    feed(pcm), finish() ──run_coroutine──► pipeline: [service, ears]
    Decoded  ◄──────────────future──────── TranscriptionFrame
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy as np

from voice_agent.alternatives import vendors
from voice_agent.alternatives.errors import SystemFailed
from voice_agent.alternatives.loading import Choice
from voice_agent.alternatives.worker import Decoded, Heard, WorkerRecognizer
from voice_agent.engine.recognizer import SAMPLE_RATE, StreamOptions

if TYPE_CHECKING:
    from pipecat.frames.frames import Frame
    from pipecat.services.stt_service import STTService

START_S = 20.0
FINAL_S = 30.0
QUIET_S = 2.0
"""Seconds after the end of speech in which a service that heard nothing says nothing at all."""

TAIL = np.zeros(SAMPLE_RATE // 10, np.float32)
"""Silence after the last sample. A microphone does not stop with the segment, and services count
on that: what their resamplers hold back (75 ms in OpenAI's) would be lost without it."""

BuildService = Callable[[StreamOptions], "STTService"]


class _Call:
    """One pipeline around one service; lives on the loop."""

    def __init__(self, system: str, service: STTService, finalises: bool) -> None:
        self.system, self.service, self.finalises = system, service, finalises
        self.patience_s = QUIET_S
        self.heard: Heard = lambda decoded: None
        self.finals: list[str] = []
        self.language: str | None = None
        self.problem: str | None = None
        self.news = asyncio.Event()  # a final, or a problem
        self.finalised = False

    async def start(self) -> None:
        from pipecat.pipeline.pipeline import Pipeline
        from pipecat.pipeline.worker import PipelineParams, PipelineWorker
        from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
        from pipecat.workers.runner import WorkerRunner

        call = self

        class Ears(FrameProcessor):
            """The end of the pipeline: transcriptions stop here."""

            async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
                await super().process_frame(frame, direction)
                call.hear(frame)
                await self.push_frame(frame, direction)

        self.worker = PipelineWorker(
            Pipeline([self.service, Ears()]),
            params=PipelineParams(audio_in_sample_rate=SAMPLE_RATE),
            cancel_on_idle_timeout=False,
            enable_rtvi=False,
        )
        started = asyncio.Event()

        @self.worker.event_handler("on_pipeline_started")
        async def on_started(worker: Any, frame: Any) -> None:
            started.set()

        @self.worker.event_handler("on_pipeline_error")
        async def on_error(worker: Any, frame: Any) -> None:
            self.problem = str(frame.error)
            self.news.set()

        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(self.worker)
        self.running = asyncio.create_task(runner.run())
        await asyncio.wait_for(started.wait(), START_S)

    def hear(self, frame: Frame) -> None:
        from pipecat.frames.frames import (
            InterimTranscriptionFrame,
            STTMetadataFrame,
            TranscriptionFrame,
        )

        if isinstance(frame, STTMetadataFrame):
            self.patience_s = max(QUIET_S, frame.ttfs_p99_latency or 0.0)
        elif isinstance(frame, TranscriptionFrame):
            self.language = str(frame.language).split("-")[0] if frame.language else None
            self.finals.append(frame.text.strip())
            self.finalised = self.finalised or frame.finalized or not self.finalises
            self.news.set()
        elif isinstance(frame, InterimTranscriptionFrame):
            self.heard(Decoded(" ".join([*self.finals, frame.text.strip()]).strip()))

    async def begin(self, heard: Heard) -> None:
        from pipecat.frames.frames import VADUserStartedSpeakingFrame

        self.heard, self.finals, self.language, self.finalised = heard, [], None, False
        self.news.clear()
        await self.worker.queue_frame(VADUserStartedSpeakingFrame())

    async def feed(self, pcm: bytes) -> None:
        from pipecat.frames.frames import InputAudioRawFrame

        await self.worker.queue_frame(
            InputAudioRawFrame(audio=pcm, sample_rate=SAMPLE_RATE, num_channels=1)
        )

    async def finish(self) -> Decoded:
        from pipecat.frames.frames import VADUserStoppedSpeakingFrame

        await self.worker.queue_frame(VADUserStoppedSpeakingFrame())
        try:
            async with asyncio.timeout(FINAL_S):
                while not self.finalised and self.problem is None:
                    async with asyncio.timeout(self.patience_s):
                        await self.news.wait()
                    self.news.clear()
        except TimeoutError:
            pass  # nothing more was said
        self.heard = lambda decoded: None
        if self.problem is not None:
            raise SystemFailed(self.system, self.problem)
        return Decoded(" ".join(f for f in self.finals if f), language=self.language)

    async def stop(self) -> None:
        await self.worker.cancel()
        await asyncio.gather(self.running, return_exceptions=True)


class _Bridge:
    """The loop, and the pipelines that wait on it for a segment."""

    def __init__(self, system: str, build: BuildService, finalises: bool) -> None:
        self._system, self._build, self._finalises = system, build, finalises
        self.loop = asyncio.new_event_loop()
        self._idle: dict[str, list[_Call]] = {}  # by language
        self._calls: set[_Call] = set()
        self._thread = threading.Thread(target=self.loop.run_forever, name=f"{system}-loop")
        self._thread.daemon = True
        self._thread.start()

    def wait(self, coroutine: Any) -> Any:
        """Run on the loop and wait here."""
        future: Future[Any] = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        return future.result()

    def open_session(self, options: StreamOptions, heard: Heard) -> _Session:
        key = options.language or ""
        return _Session(self, key, self.wait(self._take(key, options, heard)))

    async def _take(self, key: str, options: StreamOptions, heard: Heard) -> _Call:
        waiting = self._idle.setdefault(key, [])
        if waiting:
            call = waiting.pop()
        else:
            call = _Call(self._system, self._build(options), self._finalises)
            try:
                await call.start()
            except TimeoutError as error:
                raise SystemFailed(self._system, "its pipeline did not start") from error
            self._calls.add(call)
        await call.begin(heard)
        return call

    async def drop(self, call: _Call) -> None:
        self._calls.discard(call)
        await call.stop()

    def put_back(self, key: str, call: _Call) -> None:
        self.loop.call_soon_threadsafe(self._idle[key].append, call)

    def close(self) -> None:
        async def stop_all() -> None:
            await asyncio.gather(*(call.stop() for call in self._calls))

        self.wait(stop_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class _Session:
    """One segment; see `voice_agent.alternatives.worker.Session`."""

    def __init__(self, bridge: _Bridge, key: str, call: _Call) -> None:
        self._bridge, self._key, self._call = bridge, key, call

    def feed(self, pcm: np.ndarray) -> None:
        samples = (np.clip(pcm, -1, 1) * 32767).astype("<i2").tobytes()
        self._bridge.wait(self._call.feed(samples))

    def finish(self, rest: np.ndarray) -> Decoded:
        self.feed(np.concatenate((rest, TAIL)))
        try:
            decoded = self._bridge.wait(self._call.finish())
        except SystemFailed:
            self._bridge.wait(self._bridge.drop(self._call))
            raise
        self._bridge.put_back(self._key, self._call)
        return decoded

    def cancel(self) -> None:
        # What was sent cannot be unsaid: the pipeline goes with its segment.
        self._bridge.wait(self._bridge.drop(self._call))


def recognizer_over(
    system: str,
    build: BuildService,
    *,
    finalises: bool = True,
    streaming: bool = True,
    slots: int = 8,
) -> WorkerRecognizer:
    """A recogniser over a Pipecat STT service.

    Args:
        system: its name.
        build: makes a service for a stream's options; called on the loop, once a pipeline.
        finalises: whether the service marks its last transcription of a segment as finalised;
            otherwise the first one after the end of speech is taken for it.
        streaming: whether the service sends interim transcriptions.
        slots: streams at once.
    """
    bridge = _Bridge(system, build, finalises)
    return WorkerRecognizer(
        system, bridge.open_session, streaming=streaming, slots=slots, workers=slots,
        on_close=bridge.close,
    )  # fmt: skip


def _load(
    system: str, vendor: Callable[[Choice], STTService], choice: Choice, *, finalises: bool = True
) -> WorkerRecognizer:
    from dataclasses import replace

    vendor(choice)  # what is missing is said now, not at the first segment

    def build(options: StreamOptions) -> STTService:
        return vendor(replace(choice, language=options.language or choice.language))

    return recognizer_over(system, build, finalises=finalises, slots=choice.slots)


def load_sarvam(choice: Choice) -> WorkerRecognizer:
    """Sarvam as a recogniser; raises what `vendors.sarvam` raises."""
    return _load("sarvam", vendors.sarvam, choice)


def load_deepgram(choice: Choice) -> WorkerRecognizer:
    """Deepgram as a recogniser; raises what `vendors.deepgram` raises."""
    return _load("deepgram", vendors.deepgram, choice)


def load_openai_realtime(choice: Choice) -> WorkerRecognizer:
    """OpenAI's realtime transcription as a recogniser; raises what its vendor function raises."""
    # One commit, one transcription: Pipecat's service does not mark it.
    return _load("openai-realtime", vendors.openai_realtime, choice, finalises=False)
