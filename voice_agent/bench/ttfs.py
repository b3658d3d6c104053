"""`voice-agent bench ttfs`: how long after speech its final transcription is there.

TTFS of a segment: seconds from the end of speech to the moment when `NemotronSTTService` pushes
the segment's finalised transcription. The end of speech is Pipecat's: the VAD's stop less the
`stop_secs` of silence that it waited for. So TTFS holds those, the VAD's own steps, the rest of
an 80 ms chunk, and the engine's flush; it is what Pipecat reports as the TTFB of an STT service,
and its p99 is the `ttfs_p99_latency` that turn strategies wait for.

Recordings are played at real-time pace, each with a second of silence behind it, through the head
of a call's pipeline: AudioChunker, Silero, the service. One call, nothing else in the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from voice_agent.bench.corpus import DEFAULT

if TYPE_CHECKING:
    import numpy as np

    from voice_agent.engine.recognizer import Recognizer

STOP_S = 0.2
_SILENCE_S = 1.0
_PIECE_S = 0.02  # as WebRTC delivers
_RATE = 16_000


class NothingHeard(ValueError):
    """The recordings were played, and no segment had words."""


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured, with the conditions that it holds under.

    Attributes:
        model: name of the recogniser.
        device: that it computes on.
        right_context: encoder frames of look-ahead; None for the recogniser's default.
        stop_s: silence that the VAD waits for.
        segments: how many were measured.
        p50_s, p95_s, p99_s: seconds.
        machine: read, never typed.
    """

    model: str
    device: str
    right_context: int | None
    stop_s: float
    segments: int
    p50_s: float
    p95_s: float
    p99_s: float
    machine: dict[str, str]

    def __str__(self) -> str:
        context = "default" if self.right_context is None else str(self.right_context)
        conditions = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        return (
            f"TTFS of {self.model} on {self.device}, right context {context}, VAD stop "
            f"{self.stop_s:g} s, {self.segments} segments at real-time pace\n"
            f"p50 {self.p50_s:.3f} s   p95 {self.p95_s:.3f} s   p99 {self.p99_s:.3f} s\n"
            f"({conditions})"
        )


def ttfs(
    manifest: Annotated[
        Path, typer.Option(help="JSON lines or a folder.", show_default="48 s of reading")
    ] = DEFAULT,
    model: Annotated[str, typer.Option(help="Name, path or Hugging Face id.")] = "tiny-en",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    right_context: Annotated[
        int | None, typer.Option(help="Encoder frames of look-ahead; the model's by default.")
    ] = None,
    segments: Annotated[int, typer.Option(min=1, help="How many to measure.")] = 100,
) -> None:
    """Seconds from the end of speech to the final transcription, in a live pipeline."""
    from rich.console import Console

    from voice_agent.bench import corpus
    from voice_agent.bench.stt_report import machine
    from voice_agent.engine import load_recognizer

    try:
        pcm = [clip.pcm() for clip in corpus.read(manifest)]
        recognizer = load_recognizer(model, device=device, slots=1)
        with Console(stderr=True).status("playing recordings at real-time pace"):
            seconds = asyncio.run(measure(recognizer, pcm, segments, right_context))
    except ValueError as error:  # a manifest or an option, named in the message
        raise typer.BadParameter(str(error)) from error
    typer.echo(
        row(seconds, machine(), model=model, device=str(recognizer.device), context=right_context)
    )


def row(
    seconds: Sequence[float],
    machine: dict[str, str],
    *,
    model: str,
    device: str,
    context: int | None,
) -> Row:
    """Percentiles of what was measured.

    Args:
        seconds: one TTFS a segment.
        machine: what they hold for.
        model: for the row.
        device: for the row.
        context: for the row.
    """
    import numpy as np

    p50, p95, p99 = (float(p) for p in np.percentile(seconds, [50, 95, 99]))
    return Row(model, device, context, STOP_S, len(seconds), p50, p95, p99, machine)


async def measure(
    recognizer: Recognizer, clips: Sequence[np.ndarray], segments: int, right_context: int | None
) -> list[float]:
    """Play recordings, over and over, until enough segments have had their final.

    Args:
        recognizer: loaded.
        clips: float32, 16 kHz mono, shape (n,) each.
        segments: how many to measure.
        right_context: encoder frames of look-ahead; None for the recogniser's default.

    Returns:
        One TTFS a segment, in seconds.

    Raises:
        NothingHeard: all recordings were played once, and no segment had words.
        EngineError: the recogniser failed.
    """
    from pipecat.workers.runner import WorkerRunner

    found: list[float] = []
    worker = _pipeline(recognizer, right_context, found)
    failed: list[str] = []

    @worker.event_handler("on_pipeline_error")
    async def on_error(_worker: Any, frame: Any) -> None:
        failed.append(frame.error)

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    try:
        await _play(worker, clips, lambda: len(found) >= segments or bool(failed), found)
    finally:
        await worker.cancel()
        await running
    if failed:
        from voice_agent.engine.errors import EngineError

        raise EngineError(failed[0])
    return found[:segments]


def _pipeline(recognizer: Recognizer, right_context: int | None, found: list[float]) -> Any:
    from pipecat.audio.vad.silero import SileroVADAnalyzer
    from pipecat.audio.vad.vad_analyzer import VADParams
    from pipecat.frames.frames import Frame, MetricsFrame
    from pipecat.metrics.metrics import TTFBMetricsData
    from pipecat.pipeline.pipeline import Pipeline
    from pipecat.pipeline.worker import PipelineParams, PipelineWorker
    from pipecat.processors.audio.vad_processor import VADProcessor
    from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

    from voice_agent.processors import AudioChunker
    from voice_agent.services import NemotronSTTService

    class Ears(FrameProcessor):
        """The end of the pipeline: the service's own metric is read here."""

        async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            await super().process_frame(frame, direction)
            if isinstance(frame, MetricsFrame):
                data = [d for d in frame.data if isinstance(d, TTFBMetricsData)]
                # A zero announces the metric when the pipeline starts.
                found.extend(d.value for d in data if d.value > 0)
            await self.push_frame(frame, direction)

    settings = NemotronSTTService.Settings(right_context=right_context)
    vad = SileroVADAnalyzer(sample_rate=_RATE, params=VADParams(stop_secs=STOP_S))
    return PipelineWorker(
        Pipeline(
            [
                AudioChunker(),
                VADProcessor(vad_analyzer=vad),
                NemotronSTTService(recognizer=recognizer, settings=settings),
                Ears(),
            ]
        ),
        params=PipelineParams(audio_in_sample_rate=_RATE, enable_metrics=True),
        cancel_on_idle_timeout=False,
        enable_rtvi=False,
    )


async def _play(
    worker: Any, clips: Sequence[np.ndarray], enough: Callable[[], bool], found: list[float]
) -> None:
    from pipecat.frames.frames import InputAudioRawFrame

    loop = asyncio.get_running_loop()
    due = loop.time()
    for number, clip in enumerate(cycle(clips)):
        if number == len(clips) and not found:
            raise NothingHeard("the recordings were played, and the model heard no words in them")
        for piece in _pieces(clip):
            if enough():
                return
            await worker.queue_frame(InputAudioRawFrame(piece, _RATE, 1))
            due += _PIECE_S
            await asyncio.sleep(max(0.0, due - loop.time()))


def _pieces(clip: np.ndarray) -> Iterator[bytes]:
    """A recording and the silence behind it, as 16-bit PCM in pieces of 20 ms."""
    import numpy as np

    padded = np.concatenate([clip, np.zeros(round(_SILENCE_S * _RATE), np.float32)])
    pcm = (np.clip(padded, -1, 1) * 32767).astype("<i2")
    step = round(_PIECE_S * _RATE)
    for at in range(0, pcm.size, step):
        yield pcm[at : at + step].tobytes()
