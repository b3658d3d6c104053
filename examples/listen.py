"""Transcripts over a websocket: send a recording to a running server, print what it heard.

voice-agent serve &
python examples/listen.py recording.wav
"""

import asyncio
import sys

import soundfile

from voice_agent.client import Listening
from voice_agent.wire import Results


async def main(path: str, url: str = "ws://localhost:7860") -> None:
    pcm, rate = soundfile.read(path, dtype="int16", always_2d=True)
    async with Listening(url, sample_rate=rate, channels=pcm.shape[1]) as stream:
        for start in range(0, len(pcm), rate // 10):  # 100 ms, as from a microphone
            await stream.send(pcm[start : start + rate // 10].tobytes())
        stream.end()
        async for message in stream:
            if isinstance(message, Results) and message.is_final:
                print(message.channel.alternatives[0].transcript)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
