"""NeMo-Speech.cpp: a running `nemo-speech serve`, over its realtime websocket.

Messages: docs/api.md of NVIDIA/NeMo-Speech.cpp. A `delta` extends the text of the utterance that
is being heard; `completed` replaces it; `committed` follows the last `completed` of a segment.
"""

from __future__ import annotations

import json
from typing import Any

from voice_agent.alternatives.http import SpeechServer
from voice_agent.alternatives.loading import Choice
from voice_agent.alternatives.realtime import SocketSession
from voice_agent.alternatives.worker import Decoded, Heard, WorkerRecognizer
from voice_agent.engine.recognizer import SAMPLE_RATE, StreamOptions, Word

DEFAULT_URL = "http://localhost:8080"
NEVER_MS = 3_600_000
"""End-of-utterance silence for the server: our VAD ends segments, so its own must not."""


class _Session(SocketSession):
    system = "nemo-speech-cpp"
    start = "nemo-speech serve --asr-model MODEL.gguf"

    def __init__(self, *args: Any) -> None:
        self._done: list[str] = []
        self._now = ""
        self._words: list[Word] = []
        super().__init__(*args)

    def hello(self, options: StreamOptions) -> list[str]:
        session: dict[str, object] = {
            "sample_rate": SAMPLE_RATE, "word_timestamps": True, "endpointing_ms": NEVER_MS,
        }  # fmt: skip
        if options.language:
            session["language"] = options.language
        return [json.dumps({"type": "session.update", "session": session})]

    def audio(self, pcm16: bytes) -> bytes:
        return pcm16

    def goodbye(self) -> str:
        return json.dumps({"type": "input_audio_buffer.commit"})

    def hear(self, event: dict[str, Any]) -> bool:
        match event["type"]:
            case "conversation.item.input_audio_transcription.delta":
                self._now += event["delta"]
            case "conversation.item.input_audio_transcription.completed":
                self._done.append(event["transcript"].strip())
                self._now = ""
                self._words += [
                    Word(w["word"], w["start"], w["end"], w["confidence"])
                    for w in event.get("words", ())
                ]
            case "input_audio_buffer.committed":
                return True
            case _:
                return False
        text = " ".join(part for part in (*self._done, self._now.strip()) if part)
        self.decoded = Decoded(text, tuple(self._words))
        return False


def load(choice: Choice) -> WorkerRecognizer:
    """Connect to a server.

    Raises:
        NoServer: nothing answers there, or its model is not loaded yet.
    """
    url = (choice.url or DEFAULT_URL).rstrip("/")
    server = SpeechServer(_Session.system, url, start=_Session.start, api_key=choice.api_key)
    server.check("/ready")
    server.close()
    socket_url = "ws" + url.removeprefix("http") + "/v1/realtime"

    def open_session(options: StreamOptions, heard: Heard) -> SocketSession:
        return _Session(socket_url, options, heard, choice.api_key)

    return WorkerRecognizer(
        "nemo-speech-cpp", open_session, streaming=True, slots=choice.slots, workers=choice.slots
    )
