"""Transformers' own Nemotron streaming, both generations, as a plain comparison to our engine.

`generate` takes a generator of mel chunks: the first of 1 + 8 * right frames, later ones of
8 * (right + 1), and keeps its streaming state on the model object. So one segment runs at a
time, on a thread that waits inside the generator for audio, and the recogniser has one slot.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from voice_agent.alternatives.errors import SystemFailed
from voice_agent.alternatives.loading import Choice, need, torch_device, weights
from voice_agent.alternatives.worker import Decoded, Heard, WorkerRecognizer
from voice_agent.engine.errors import UnsupportedCheckpoint
from voice_agent.engine.recognizer import SAMPLE_RATE, StreamOptions

DEFAULT_MODEL = "nvidia/nemotron-speech-streaming-en-0.6b"
_CLASSES = {
    "nemotron_asr_streaming": "NemotronAsrStreamingForRNNT",
    "nemotron3_5_asr": "Nemotron3_5AsrForRNNT",
}


class _Cancelled(Exception):
    """The segment is not wanted any more."""


class _Session:
    """One segment: one call of `generate` on a thread of its own."""

    def __init__(self, model: Any, processor: Any, options: StreamOptions, heard: Heard) -> None:
        self._model, self._processor, self._heard = model, processor, heard
        self._right = (
            options.right_context
            if options.right_context is not None
            else processor.default_num_lookahead_tokens
        )
        self._options = options
        self._audio: queue.SimpleQueue[np.ndarray | None | _Cancelled] = queue.SimpleQueue()
        self._tokens: list[int] = []
        self._problem: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="transformers", daemon=True)
        self._thread.start()

    def feed(self, pcm: np.ndarray) -> None:
        self._audio.put(pcm)

    def finish(self, rest: np.ndarray) -> Decoded:
        self._audio.put(rest)
        self._audio.put(None)
        self._thread.join()
        if self._problem is not None:
            raise SystemFailed("nemotron-transformers", self._problem) from self._problem
        return Decoded(self._text())

    def cancel(self) -> None:
        self._audio.put(_Cancelled())
        self._thread.join()

    # The streamer that `generate` writes to: ids of every step, blanks among them.

    def put(self, ids: Any) -> None:
        new = [int(i) for i in ids.flatten() if int(i) != self._processor.blank_token_id]
        if new:
            self._tokens += new
            self._heard(Decoded(self._text()))

    def end(self) -> None:
        pass

    def _text(self) -> str:
        return self._processor.decode(self._tokens, skip_special_tokens=True).strip()

    def _run(self) -> None:
        import torch

        prompt = {}
        if hasattr(self._processor, "prompt_dictionary"):
            prompt["prompt_ids"] = self._processor._resolve_prompt_ids(
                self._options.language or "auto", 1
            ).to(self._model.device)
        try:
            with torch.inference_mode():
                self._model.generate(
                    input_features=self._mels(), num_lookahead_tokens=self._right,
                    streamer=self, **prompt,
                )  # fmt: skip
        except _Cancelled:
            pass
        except Exception as error:  # told by finish() on the worker's thread
            self._problem = error

    def _mels(self) -> Iterator[Any]:
        """Mel chunks of the sizes that the model wants; waits for audio."""
        extract = self._processor.feature_extractor
        hop, n_fft = extract.hop_length, extract.n_fft
        factor = self._model.config.encoder_config.subsampling_factor
        pcm, over, frame, extra = np.empty(0, np.float32), False, 0, 1
        while True:
            frames = 1 + factor * self._right if frame == 0 else factor * (self._right + 1)
            # Frame f is centred on sample f * hop; its window reaches n_fft / 2 to both sides.
            first = frame * hop - n_fft // 2
            last = (frame + frames - 1) * hop + n_fft // 2
            while pcm.size < last and not over:
                piece = self._audio.get()
                if isinstance(piece, _Cancelled):
                    raise piece
                if piece is None:
                    over = True
                else:
                    pcm = np.concatenate((pcm, piece))
            if over and frame * hop >= pcm.size:
                # One chunk of silence more than the audio fills, for a token that comes late.
                if not extra:
                    return
                extra -= 1
            window = pcm[max(0, first) : last]
            window = np.pad(window, (max(0, -first), max(0, last - max(first, 0) - window.size)))
            mel = extract(window, sampling_rate=SAMPLE_RATE, center=False, return_tensors="pt")
            yield mel.input_features[:, :frames]
            frame += frames


def load(choice: Choice) -> WorkerRecognizer:
    """Load a checkpoint in Hugging Face's layout.

    Raises:
        MissingExtra: transformers is not installed, or too old to know Nemotron.
        ModelNotFound: no such folder, and it cannot be fetched.
        UnsupportedCheckpoint: another kind of model.
    """
    library = need(
        "nemotron-transformers", "transformers", package="transformers>=5.13",
        extra="transformers",
    )  # fmt: skip
    name, device = choice.model or DEFAULT_MODEL, torch_device(choice)
    with weights(name, f"hf download {name}"):
        kind = library.AutoConfig.from_pretrained(name).model_type
        if kind not in _CLASSES:
            raise UnsupportedCheckpoint(name, f"is a {kind}, not one of {', '.join(_CLASSES)}")
        processor = library.AutoProcessor.from_pretrained(name)
        model = getattr(library, _CLASSES[kind]).from_pretrained(name)
    model.to(device).eval()

    def open_session(options: StreamOptions, heard: Heard) -> _Session:
        return _Session(model, processor, options, heard)

    return WorkerRecognizer(
        f"nemotron-transformers {name}", open_session, streaming=True, slots=1,
        languages=("en",) if kind == "nemotron_asr_streaming" else (),
        right_contexts=tuple(processor.supported_num_lookahead_tokens),
    )  # fmt: skip
