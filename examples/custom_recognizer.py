"""Your own speech-to-text in the agent: here one that writes how high a voice is.

python examples/custom_recognizer.py    # then open http://localhost:7860, or use any other client

Replace `PitchMeter` by a model that transcribes a whole segment. `redecoding` makes partials of
it by asking again as the segment grows, and `WorkerRecognizer` adds the threads, streams and
errors; a model that streams itself takes the place of `redecoding` as a `Session`
(voice_agent/alternatives/worker.py).
"""

import sys

import numpy as np

from voice_agent.alternatives.redecode import redecoding
from voice_agent.alternatives.worker import Decoded, WorkerRecognizer
from voice_agent.config import Settings, load_settings
from voice_agent.engine.recognizer import SAMPLE_RATE, StreamOptions
from voice_agent.server.listening import bind
from voice_agent.server.serve import serve

LOWEST_HZ, HIGHEST_HZ = 60, 400


class PitchMeter:
    """By autocorrelation; a voice repeats itself with its pitch."""

    def __call__(self, pcm: np.ndarray, options: StreamOptions, *, final: bool) -> Decoded:
        """float32, shape (n,), 16 kHz mono: the segment so far. Runs on a worker's thread."""
        window = pcm[-SAMPLE_RATE:]
        spectrum = np.fft.rfft(window, 2 * len(window))
        likeness = np.fft.irfft(np.abs(spectrum) ** 2)[: len(window)]
        shortest, longest = SAMPLE_RATE // HIGHEST_HZ, SAMPLE_RATE // LOWEST_HZ
        if len(window) <= longest:
            return Decoded("")
        period = shortest + int(likeness[shortest:longest].argmax())
        return Decoded(f"a voice of {round(SAMPLE_RATE / period)} hertz", language="en")


def load(settings: Settings) -> WorkerRecognizer:
    """Called once, on a thread; reading weights may take its time."""
    return WorkerRecognizer(
        "pitch-meter",
        redecoding(PitchMeter()),
        languages=("en",),
        streaming=False,  # partials come from decoding again
        slots=settings.slots,
    )


def main(port: str = "7860") -> int:
    settings = load_settings(overrides={"server.port": int(port)})
    sock = bind(settings.server.host, settings.server.port)
    address = f"http://localhost:{sock.getsockname()[1]}"
    return serve(
        settings,
        sock,
        load=load,
        on_ready=lambda recognizer: print(f"{recognizer.name}: {address}", flush=True),
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
