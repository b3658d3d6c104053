"""WhisperX behind the HTTP API of its containers: `POST /transcribe`, form `file`, `language`.

That is the API of the WhisperX containers for DGX Spark and of most others: the answer holds
WhisperX's own `segments` (text, start, end, and words with start, end and score) and `language`.
"""

from __future__ import annotations

import numpy as np

from voice_agent.alternatives.http import SpeechServer
from voice_agent.alternatives.languages import primary
from voice_agent.alternatives.loading import Choice
from voice_agent.alternatives.redecode import redecoding
from voice_agent.alternatives.worker import Decoded, WorkerRecognizer
from voice_agent.engine.recognizer import StreamOptions, Word

DEFAULT_URL = "http://localhost:8010"
START = "docker compose -f docker/compose.yaml --profile whisperx up"


def load(choice: Choice) -> WorkerRecognizer:
    """Connect to a WhisperX server.

    Raises:
        NoServer: nothing answers there.
    """
    server = SpeechServer(
        "whisperx", choice.url or DEFAULT_URL, start=START, api_key=choice.api_key
    )
    server.check("/health")

    def decode(pcm: np.ndarray, options: StreamOptions, *, final: bool) -> Decoded:
        said = server.post("/transcribe", pcm, {"language": primary(options.language) or "auto"})
        segments = said.get("segments") or []
        # WhisperX aligns no words that hold only digits or symbols: they have no times.
        words = tuple(
            Word(w["word"], w["start"], w["end"], w.get("score", 1.0))
            for segment in segments
            for w in segment.get("words", ())
            if "start" in w and "end" in w
        )
        text = " ".join(segment["text"].strip() for segment in segments)
        return Decoded(text, words, said.get("language"))

    # No partials: each would pay for alignment, and most containers for speaker turns, again.
    return WorkerRecognizer(
        "whisperx", redecoding(decode, None), streaming=False, slots=choice.slots,
        workers=choice.slots, on_close=server.close,
    )  # fmt: skip
