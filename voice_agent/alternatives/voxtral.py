"""Voxtral Realtime: a running vLLM over its realtime websocket, or transformers in this process.

vLLM (`/v1/realtime`) streams: each `transcription.delta` extends the text, `transcription.done`
holds all of it. Transformers runs here as a model for whole segments.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np

from voice_agent.alternatives.http import SpeechServer
from voice_agent.alternatives.loading import Choice, need, torch_device, weights
from voice_agent.alternatives.realtime import SocketSession
from voice_agent.alternatives.redecode import redecoding
from voice_agent.alternatives.worker import Decoded, Heard, WorkerRecognizer
from voice_agent.engine.recognizer import SAMPLE_RATE, StreamOptions

DEFAULT_MODEL = "mistralai/Voxtral-Mini-4B-Realtime-2602"
LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "it", "ja", "ko", "nl", "pt", "ru", "zh")


class _Session(SocketSession):
    system = "voxtral"
    start = f"vllm serve {DEFAULT_MODEL}"

    def __init__(self, model: str, *args: Any) -> None:
        self._model = model
        super().__init__(*args)

    def hello(self, options: StreamOptions) -> list[str]:
        # The first commit starts the generation; audio feeds it from then on.
        return [
            json.dumps({"type": "session.update", "model": self._model}),
            json.dumps({"type": "input_audio_buffer.commit", "final": False}),
        ]

    def audio(self, pcm16: bytes) -> str:
        audio = base64.b64encode(pcm16).decode()
        return json.dumps({"type": "input_audio_buffer.append", "audio": audio})

    def goodbye(self) -> str:
        return json.dumps({"type": "input_audio_buffer.commit", "final": True})

    def hear(self, event: dict[str, Any]) -> bool:
        match event["type"]:
            case "transcription.delta":
                self.decoded = Decoded((self.decoded.text + event["delta"]).lstrip())
            case "transcription.done":
                self.decoded = Decoded(event["text"].strip())
                return True
        return False


def load(choice: Choice) -> WorkerRecognizer:
    """Connect to vLLM at `choice.url`, or load the model here where no address is given.

    Raises:
        NoServer: nothing answers at the address.
        MissingExtra: transformers or mistral-common is not installed.
        ModelNotFound: no such folder, and it cannot be fetched.
    """
    return _remote(choice, choice.url) if choice.url else _local(choice)


def _remote(choice: Choice, url: str) -> WorkerRecognizer:
    url = url.rstrip("/")
    server = SpeechServer(_Session.system, url, start=_Session.start, api_key=choice.api_key)
    server.check("/health")
    server.close()
    socket_url = "ws" + url.removeprefix("http") + "/v1/realtime"

    def open_session(options: StreamOptions, heard: Heard) -> SocketSession:
        return _Session(choice.model or DEFAULT_MODEL, socket_url, options, heard, choice.api_key)

    return WorkerRecognizer(
        "voxtral", open_session, languages=LANGUAGES, streaming=True, slots=choice.slots,
        workers=choice.slots,
    )  # fmt: skip


def _local(choice: Choice) -> WorkerRecognizer:
    library = need("voxtral", "transformers", package="transformers", extra="voxtral")
    need("voxtral", "mistral_common", package="mistral-common", extra="voxtral")
    import torch

    name, device = choice.model or DEFAULT_MODEL, torch_device(choice)
    with weights(name, f"hf download {name}"):
        processor = library.AutoProcessor.from_pretrained(name)
        model = library.VoxtralRealtimeForConditionalGeneration.from_pretrained(
            name, dtype=torch.float32 if device == "cpu" else torch.bfloat16
        )
    model.to(device).eval()

    def decode(pcm: np.ndarray, options: StreamOptions, *, final: bool) -> Decoded:
        inputs = processor(pcm, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        inputs = inputs.to(device, model.dtype)
        with torch.inference_mode():
            tokens = model.generate(**inputs)
        said = tokens[0, inputs.input_ids.shape[1] :]
        return Decoded(processor.decode(said, skip_special_tokens=True).strip())

    return WorkerRecognizer(
        f"voxtral {name}", redecoding(decode), languages=LANGUAGES, streaming=False,
        slots=choice.slots,
    )  # fmt: skip
