"""Parakeet and Nemotron on Riva, a speech NIM or NeMo-Speech.cpp's `riva_server`, over gRPC.

Pipecat's own `NvidiaSTTService` speaks the same protocol but waits for the server's endpointing;
here the end of the VAD segment ends the stream, so the final comes at once. For NVIDIA's hosted
endpoint take that service.
"""

from __future__ import annotations

import queue
import threading
from typing import Any

import numpy as np

from voice_agent.alternatives.errors import NoServer, SystemFailed
from voice_agent.alternatives.languages import primary
from voice_agent.alternatives.loading import Choice, need
from voice_agent.alternatives.worker import Decoded, Heard, WorkerRecognizer
from voice_agent.engine.recognizer import SAMPLE_RATE, StreamOptions, Word

DEFAULT_URL = "localhost:50051"
START = "docker compose -f docker/compose.yaml --profile nim up"
FINAL_S = 60.0

# Riva wants a region; these are its models' own for languages that callers name without one.
_REGIONS = {"en": "en-US", "es": "es-US", "pt": "pt-BR", "zh": "zh-CN", "hi": "hi-IN",
            "kn": "kn-IN", "ja": "ja-JP", "ko": "ko-KR", "ar": "ar-AR"}  # fmt: skip


class _Session:
    """One segment on one StreamingRecognize call."""

    def __init__(self, client: Any, model: str, options: StreamOptions, heard: Heard) -> None:
        self._audio: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._heard = heard
        self._done: list[str] = []
        self._words: list[Word] = []
        self._problem: Exception | None = None
        language = options.language or "en"
        if language == primary(language):
            language = _REGIONS.get(language, f"{language}-{language.upper()}")
        config = client.module.StreamingRecognitionConfig(
            config=client.module.RecognitionConfig(
                encoding=client.module.AudioEncoding.LINEAR_PCM, sample_rate_hertz=SAMPLE_RATE,
                audio_channel_count=1, language_code=language, max_alternatives=1, model=model,
                enable_automatic_punctuation=True, enable_word_time_offsets=True,
            ),
            interim_results=options.partials,
        )  # fmt: skip
        pieces = iter(self._audio.get, None)
        self._answers = client.streaming_response_generator(pieces, config)
        self._thread = threading.Thread(target=self._listen, name="riva-events", daemon=True)
        self._thread.start()

    def feed(self, pcm: np.ndarray) -> None:
        self._audio.put((np.clip(pcm, -1, 1) * 32767).astype("<i2").tobytes())

    def finish(self, rest: np.ndarray) -> Decoded:
        if rest.size:
            self.feed(rest)
        self._audio.put(None)
        self._thread.join(FINAL_S)
        if self._thread.is_alive():
            raise SystemFailed("riva", f"no final came within {FINAL_S:.0f} s")
        if self._problem is not None:
            details = getattr(self._problem, "details", lambda: None)()
            raise SystemFailed("riva", details or self._problem) from self._problem
        return Decoded(" ".join(self._done), tuple(self._words))

    def cancel(self) -> None:
        self._heard = lambda decoded: None
        self._audio.put(None)

    def _listen(self) -> None:
        try:
            for answer in self._answers:
                interim = ""
                for result in answer.results:
                    if not result.alternatives:
                        continue
                    best = result.alternatives[0]
                    if result.is_final:
                        self._done.append(best.transcript.strip())
                        self._words += [
                            Word(w.word, w.start_time / 1000, w.end_time / 1000, w.confidence)
                            for w in best.words
                        ]
                    else:
                        interim += best.transcript
                text = " ".join(part for part in (*self._done, interim.strip()) if part)
                if interim:
                    self._heard(Decoded(text))
        except Exception as error:  # grpc.RpcError; told by finish() on the worker's thread
            self._problem = error


def load(choice: Choice) -> WorkerRecognizer:
    """Connect to a server.

    Raises:
        MissingExtra: nvidia-riva-client is not installed.
        NoServer: nothing answers there.
    """
    module = need("riva", "riva.client", package="nvidia-riva-client", extra="riva")
    import grpc

    url = choice.url or DEFAULT_URL
    address = url.removeprefix("https://").removeprefix("http://").rstrip("/")
    key = [["authorization", f"Bearer {choice.api_key}"]] if choice.api_key else None
    auth = module.Auth(uri=address, use_ssl=url.startswith("https://"), metadata_args=key)
    try:
        grpc.channel_ready_future(auth.channel).result(timeout=5.0)
    except grpc.FutureTimeoutError as error:
        auth.channel.close()
        raise NoServer("riva", url, START) from error
    client = module.ASRService(auth)
    client.module = module

    def open_session(options: StreamOptions, heard: Heard) -> _Session:
        return _Session(client, choice.model or "", options, heard)

    return WorkerRecognizer(
        "riva", open_session, streaming=True, slots=choice.slots, workers=choice.slots,
        on_close=auth.channel.close,
    )  # fmt: skip
