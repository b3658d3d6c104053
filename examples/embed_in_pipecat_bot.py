"""Our recogniser inside your own Pipecat bot: here on a recording, printing what it hears.

python examples/embed_in_pipecat_bot.py recording.wav
"""

import asyncio
import sys

import soundfile
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import EndFrame, InputAudioRawFrame, TranscriptionFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.audio.vad_processor import VADProcessor
from pipecat.workers.runner import WorkerRunner

from voice_agent.processors import AudioChunker
from voice_agent.services import NemotronSTTService


async def main(path: str, model: str = "tiny-en") -> None:
    vad = VADProcessor(vad_analyzer=SileroVADAnalyzer())
    # In a bot with callers, transport.input() comes first; LLM, TTS and output follow.
    pipeline = Pipeline([AudioChunker(), vad, NemotronSTTService(model=model)])
    worker = PipelineWorker(pipeline, params=PipelineParams(audio_in_sample_rate=16_000))
    worker.set_reached_downstream_filter((TranscriptionFrame,))

    @worker.event_handler("on_frame_reached_downstream")
    async def on_transcription(_worker: PipelineWorker, frame: TranscriptionFrame) -> None:
        print(frame.text)

    pcm, rate = soundfile.read(path, dtype="int16", always_2d=True)
    await worker.queue_frame(InputAudioRawFrame(pcm.tobytes(), rate, pcm.shape[1]))
    await worker.queue_frame(EndFrame())
    await (runner := WorkerRunner()).add_workers(worker)
    await runner.run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
