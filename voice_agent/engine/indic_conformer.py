"""The recogniser for AI4Bharat's IndicConformer: Kannada and 21 other languages of India.

It is an offline model behind the streaming protocol: a growing segment is decoded again and
again, ever more rarely, and the words that two decodes agree on are its partials; the final is
one decode of the whole. Callers share one thread, which decodes them in batches. `voice_agent.
engine.indic` holds the parts.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from voice_agent.engine.indic.layout import EMBEDDED, Decoding, find, read
from voice_agent.engine.indic.segments import Schedule
from voice_agent.engine.recognizer import Deliver, OnEvent, StreamOptions, deliver_here

if TYPE_CHECKING:
    from voice_agent.engine.indic.backend import Backend
    from voice_agent.engine.indic.stream import IndicStream
    from voice_agent.engine.indic.worker import IndicStats


class IndicConformerRecognizer:
    """Weights, slots, and the thread that batches all callers.

    Attributes:
        name: what the model was asked for by.
        languages: codes that it writes, e.g. "kn".
        streaming: False: partials come from decoding again.
        right_contexts: none to choose: whole pieces are heard.
        device: where it computes.
        language: of streams that name none.
        schedule: when a growing segment is decoded again.
    """

    streaming = False
    right_contexts: tuple[int, ...] = ()

    def __init__(
        self,
        backend: Backend,
        *,
        name: str,
        language: str | None = None,
        slots: int = 64,
        batch: int = 32,
        batch_s: float = 120.0,
        schedule: Schedule | None = None,
    ) -> None:
        """Start the worker over a loaded backend.

        Args:
            backend: audio to tokens.
            name: for logs and metrics.
            language: default of a stream; None for Kannada where the model knows it, and else
                its first language.
            slots: streams at most.
            batch: pieces that are decoded together at most.
            batch_s: seconds of padded audio that are decoded together at most.
            schedule: when a growing segment is decoded again.

        Raises:
            ValueError: a language that the model does not know.
        """
        from voice_agent.engine.indic.worker import Worker

        self.name = name
        self.languages = tuple(backend.pieces)
        self.device = backend.device
        self.schedule = schedule or Schedule()
        default = "kn" if "kn" in self.languages else self.languages[0]
        self.language = self._language(language or default)
        self._worker = Worker(
            backend, slots=slots, batch=batch, batch_s=batch_s, name=f"indic-{name.split('/')[-1]}"
        )

    def _language(self, code: str) -> str:
        primary = code.replace("_", "-").split("-")[0].lower()
        if primary not in self.languages:
            raise ValueError(f"{self.name} writes {', '.join(self.languages)}, not {code!r}")
        return primary

    @property
    def stats(self) -> IndicStats:
        """Counters of the worker."""
        return self._worker.stats

    def open(
        self,
        on_event: OnEvent,
        *,
        deliver: Deliver = deliver_here,
        options: StreamOptions | None = None,
    ) -> IndicStream:
        """Claim a slot; see `Recognizer.open`."""
        options = options or StreamOptions()
        if options.extra:
            raise ValueError(f"{self.name} does not know the option {min(options.extra)!r}")
        if options.right_context is not None:
            raise ValueError(f"{self.name} hears whole segments: it has no right_context")
        language = self._language(options.language) if options.language else self.language
        return self._worker.open(on_event, deliver, language, options.partials, self.schedule)

    def close(self) -> None:
        """Stop the worker; see `Recognizer.close`."""
        self._worker.stop()


def load_indic_conformer(
    model: str = EMBEDDED,
    *,
    device: str = "auto",
    language: str | None = None,
    decoding: Decoding = "ctc",
    slots: int = 64,
    threads: int | None = None,
    schedule: Schedule | None = None,
) -> IndicConformerRecognizer:
    """Load a model and start its thread. Slow (seconds): not for an event loop.

    Args:
        model: "tiny-kn", a directory in IndicConformer's layout, a Hugging Face id such as
            "ai4bharat/indic-conformer-600m-multilingual", or one of AI4Bharat's `.nemo` files.
        device: "auto", "cpu", "cuda", "cuda:N" or "tensorrt".
        language: of streams that name none.
        decoding: "ctc", or "rnnt" (slower, a token at a time).
        slots: streams at most.
        threads: of ONNX Runtime on a CPU; None for one with the embedded model, and else its
            default.
        schedule: when a growing segment is decoded again.

    Raises:
        ModelNotFound: no such model, or files are missing; the message says how to get them.
        CorruptCheckpoint: a file is damaged.
        UnsupportedCheckpoint: tables that do not fit each other.
        EngineError: the device cannot be used.
        ValueError: a language or decoding that the model does not know.
    """
    if decoding not in ("ctc", "rnnt"):
        raise ValueError(f"decoding {decoding!r} is unknown; use ctc or rnnt")
    backend: Backend
    if model.endswith(".nemo"):
        from voice_agent.engine.indic.nemo_file import NemoBackend

        if decoding == "rnnt":
            raise ValueError(f"{model}: of a .nemo file the CTC head alone is served; use ctc")
        path = Path(model).expanduser()
        backend = NemoBackend(path, name=model, device=device, language=language)
    else:
        from voice_agent.engine.indic.backend import OnnxBackend

        layout = read(model, find(model), decoding)
        if threads is None and model == EMBEDDED:
            threads = 1
        backend = OnnxBackend(layout, device=device, decoding=decoding, threads=threads)
    return IndicConformerRecognizer(
        backend, name=model, language=language, slots=slots, schedule=schedule
    )
