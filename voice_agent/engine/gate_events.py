"""What the language gate tells besides partials and finals, in order with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from voice_agent.engine.gate_policy import Decision, Reason


@dataclass(frozen=True, slots=True)
class LanguageDecided:
    """A segment was taken for a language; later events of the segment follow it.

    A segment has none of these where nothing in it told its language (silence, noise, a language
    that no recogniser serves), and more than one where the gate thought better of it.

    Attributes:
        language: BCP-47 code.
        posterior: of the language, by the identifier and the caller's past together.
        speech_s: seconds of speech that it rests on.
        reason: "evidence" while the segment grows, "recheck" where the caller changed language
            in it, "final" on the whole of it, "prior" where it was too short to tell.
        recognizer: name of the one that writes the segment from now on. Its language is another
            one where the decided one's could not be had, which a `GateTrouble` before says.
        reversed: whether it replaces another decision of the same segment.
    """

    language: str
    posterior: float
    speech_s: float
    reason: Reason
    recognizer: str
    reversed: bool

    @classmethod
    def of(cls, decision: Decision, recognizer: str) -> LanguageDecided:
        """The event of a decision, once it is known who writes the segment."""
        d = decision
        return cls(d.language, d.posterior, d.speech_s, d.reason, recognizer, d.reversed)


@dataclass(frozen=True, slots=True)
class GateTrouble:
    """The gate could not do its work on a segment, which goes on all the same.

    Attributes:
        problem: one sentence: what failed, and what was done instead.
    """

    problem: str


GateEvent = LanguageDecided | GateTrouble
OnGateEvent = Callable[[GateEvent], None]
