"""How often a gate decided what, over all callers since it was made."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

from voice_agent.engine.gate_events import GateEvent, LanguageDecided
from voice_agent.engine.gate_policy import Reason


@dataclass(frozen=True, slots=True)
class Kind:
    """Decisions that are counted together; the fields are `LanguageDecided`'s."""

    language: str
    recognizer: str
    reason: Reason
    reversed: bool


@dataclass(frozen=True, slots=True)
class Sum:
    """Decisions of one kind.

    Attributes:
        count: how many.
        posterior: the sum of their posteriors.
        speech_s: the sum of the seconds of speech that they rest on.
    """

    count: int = 0
    posterior: float = 0.0
    speech_s: float = 0.0


class GateTally:
    """Counts what gates tell. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._decisions: dict[Kind, Sum] = {}
        self._troubles = 0

    def __call__(self, event: GateEvent) -> None:
        """Count an event; it fits `GatedRecognizer.observers`."""
        with self._lock:
            if not isinstance(event, LanguageDecided):
                self._troubles += 1
                return
            kind = Kind(event.language, event.recognizer, event.reason, event.reversed)
            so_far = self._decisions.get(kind, Sum())
            self._decisions[kind] = replace(
                so_far,
                count=so_far.count + 1,
                posterior=so_far.posterior + event.posterior,
                speech_s=so_far.speech_s + event.speech_s,
            )

    def decisions(self) -> dict[Kind, Sum]:
        """Sums by kind, as of now."""
        with self._lock:
            return dict(self._decisions)

    def troubles(self) -> int:
        """How many `GateTrouble` there were."""
        with self._lock:
            return self._troubles
