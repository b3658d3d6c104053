"""Several languages by ear, as one Pipecat STT service.

    stt = LanguageGate(models={"en": "tiny-en", "kn": "tiny-kn"})
    pipeline = Pipeline([transport.input(), VADProcessor(vad_analyzer=...), stt, ...])

Each segment's transcription carries the language that it was said in. `voice_agent.engine.gate`
does the work; here are its frames. Besides transcriptions, a client gets each decision, and each
trouble that the gate has, as an RTVI server message:

    {"type": "language", "language": "kn", "posterior": 0.97, "speech_s": 0.6,
     "reason": "evidence", "recognizer": "tiny-kn", "reversed": false}
    {"type": "gate_trouble", "problem": "tiny-kn cannot take over (all 8 slots ...)"}

Interim transcriptions before the first decision of a segment have no language.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from pipecat.processors.frameworks.rtvi import RTVIServerMessageFrame

from voice_agent.engine.gate import (
    GatedRecognizer,
    GateEvent,
    GateSettings,
    GateTrouble,
    LanguageDecided,
    load_gate,
)
from voice_agent.engine.lid import LanguageIdentifier
from voice_agent.engine.recognizer import Recognizer
from voice_agent.services.recognizer_stt import RecognizerSTTService, RecognizerSTTSettings
from voice_agent.services.shared import share

DEFAULT_MODELS = {"en": "tiny-en", "kn": "tiny-kn"}

LANGUAGE_GATE_TTFS_P99 = 0.5
"""Seconds from the end of speech to the final, for 99 of 100 segments; turns wait for no longer.

What `voice-agent bench gate` printed for the slower path, with the models that ship, rounded up
(docs/gate.md). Measure your own and pass `ttfs_p99_latency`.
"""


class LanguageGate(RecognizerSTTService):
    """Transcribes each segment with the recogniser of the language that is heard in it.

    A `language` in the settings switches the gate off: that language's recogniser writes all.

    Event handlers:

    - on_language_decided: a segment was taken for a language (`LanguageDecided`).
    - on_gate_trouble: the gate could not do its work on a segment (`GateTrouble`).

    Example::

        @stt.event_handler("on_language_decided")
        async def on_language_decided(stt, decision):
            print(decision.language, decision.posterior)
    """

    def __init__(
        self,
        *,
        recognizer: GatedRecognizer | None = None,
        models: Mapping[str, str | Recognizer] = DEFAULT_MODELS,
        identifier: str | LanguageIdentifier = "embedded",
        device: str = "auto",
        gate: GateSettings | None = None,
        settings: RecognizerSTTSettings | None = None,
        **kwargs: Any,
    ) -> None:
        """Initialise the service; loading waits until the pipeline starts.

        Args:
            recognizer: recognisers and identifier that are loaded already; the four arguments
                after it are then not used.
            models: by language, the default first: as `load_recognizer` takes them, or
                recognisers that are loaded, which this service does not close.
            identifier: "embedded", "ambernet", "ecapa", "whisper", or one that is loaded.
            device: "auto", "cpu", "cuda" or "cuda:N".
            gate: thresholds, and what becomes of partials before a decision.
            settings: settings to change from their defaults.
            **kwargs: for `RecognizerSTTService` and `STTService`.
        """
        kwargs.setdefault("ttfs_p99_latency", LANGUAGE_GATE_TTFS_P99)
        super().__init__(recognizer=recognizer, settings=settings, **kwargs)
        self._load = partial(
            load_gate, dict(models), identifier=identifier, device=device, settings=gate
        )
        self._key = ("gate", tuple(models.items()), identifier, device, gate)
        names = (model if isinstance(model, str) else model.name for model in models.values())
        self._settings.model = recognizer.name if recognizer is not None else " + ".join(names)
        self._sync_model_name_to_metrics()
        self._register_event_handler("on_language_decided")
        self._register_event_handler("on_gate_trouble")

    async def load_recognizer(self) -> Recognizer:
        """Return the gate that was given, or the process's own with these parts."""
        if self._recognizer is None:
            return await share(self._key, self._load)
        return self._recognizer

    async def on_other_event(self, event: Any) -> None:
        """Tell the client and the event handlers what the gate did."""
        match event:
            case LanguageDecided():
                await self.push_frame(RTVIServerMessageFrame(data=message_of(event)))
                await self._call_event_handler("on_language_decided", event)
            case GateTrouble():
                await self.push_frame(RTVIServerMessageFrame(data=message_of(event)))
                await self._call_event_handler("on_gate_trouble", event)


def message_of(event: GateEvent) -> dict[str, Any]:
    """The message of the module docstring."""
    kind = "language" if isinstance(event, LanguageDecided) else "gate_trouble"
    return {"type": kind, **asdict(event)}
