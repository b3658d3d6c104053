"""Transcribe with OpenAI's own client: only the base URL is ours.

voice-agent serve &
python examples/openai_client.py recording.wav           # the file, a segment at a time
python examples/openai_client.py recording.wav --live    # the same as if it were spoken now
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import os

import soundfile
import soxr
from openai import AsyncOpenAI

REALTIME_RATE = 24_000  # samples a second, as OpenAI's realtime protocol has it
CHUNK_S = 0.08


async def file(client: AsyncOpenAI, path: str) -> None:
    with open(path, "rb") as recording:  # noqa: ASYNC230 - nothing else runs here
        stream = await client.audio.transcriptions.create(
            model="whisper-1", file=recording, stream=True
        )
        async for event in stream:
            if event.type == "transcript.text.delta":
                print(event.delta, end="", flush=True)
    print()


async def live(client: AsyncOpenAI, path: str) -> None:
    samples, rate = soundfile.read(path, dtype="int16", always_2d=True)
    pcm = soxr.resample(samples.mean(axis=1), rate, REALTIME_RATE).astype("<i2")
    chunk = round(CHUNK_S * REALTIME_RATE)
    by_hand = {"type": "transcription", "audio": {"input": {"turn_detection": None}}}
    async with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        await connection.session.update(session=by_hand)

        async def speak() -> None:
            for start in range(0, len(pcm), chunk):
                audio = base64.b64encode(pcm[start : start + chunk].tobytes()).decode()
                await connection.input_audio_buffer.append(audio=audio)
                await asyncio.sleep(CHUNK_S)
            await connection.input_audio_buffer.commit()

        speaking = asyncio.create_task(speak())
        async for event in connection:
            if event.type == "conversation.item.input_audio_transcription.delta":
                print(event.delta, end="", flush=True)
            elif event.type == "conversation.item.input_audio_transcription.completed":
                break
            elif event.type == "error":
                raise SystemExit(event.error.message)
        await speaking
    print()


async def main() -> None:
    parser = argparse.ArgumentParser(description="Transcribe with OpenAI's client.")
    parser.add_argument("recording")
    parser.add_argument("--url", default="http://localhost:7860/v1")
    parser.add_argument("--live", action="store_true")
    given = parser.parse_args()
    key = os.environ.get("VOICE_AGENT_KEY", "none")  # any will do where the server wants none
    async with AsyncOpenAI(base_url=given.url, api_key=key) as client:
        await (live if given.live else file)(client, given.recording)


if __name__ == "__main__":
    asyncio.run(main())
