"""Transcribe a recording with the engine alone: no server, no Pipecat.

    python examples/transcribe_file.py speech.wav

The stream takes 16 kHz mono audio in pieces of any length; here they come from a file, in a
program of yours from a microphone or a socket.
"""

from __future__ import annotations

import queue
import sys

import soundfile
import soxr

from voice_agent.engine import Event, Failed, Final, Partial, load_recognizer


def transcribe(file: str, model: str = "tiny-en") -> Final:
    """Feed a file to a recogniser, print partials, return the final."""
    samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    pcm = soxr.resample(samples.mean(axis=1), rate, 16_000)

    recognizer = load_recognizer(model)
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    stream = recognizer.open(events.put)
    for start in range(0, pcm.size, 1280):  # 80 ms
        stream.feed(pcm[start : start + 1280])
    stream.finish()
    try:
        while True:
            match events.get():
                case Partial(text=text):
                    print("...", text)
                case Final() as final:
                    return final
                case Failed(error=error):
                    raise error
    finally:
        recognizer.close()


if __name__ == "__main__":
    result = transcribe(*sys.argv[1:3])
    print(result.text)
    for word in result.words:
        print(f"{word.start_s:7.2f} {word.end_s:7.2f} {word.confidence:5.2f}  {word.word}")
