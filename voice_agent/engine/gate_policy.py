"""When to divert a segment to another language's recogniser: numbers in, decisions out.

A segment starts with the default language's recogniser. The policy says after how many seconds of
speech the identifier is to be asked, takes its posteriors, and decides:

    undecided ─ a language passes `threshold` ─► decided ─ another passes it by `hysteresis`,
        │                                           │      in `confirmations` checks running ─┐
        └──────────── end of the segment ───────────┴──── final decision on the whole ◄───────┘

Before the first decision all speech so far is judged; afterwards a sliding window, so that a
caller who changes language in mid-segment is noticed. Speech too short to tell goes by what this
caller spoke before. What the identifier calls "other", and what no threshold is passed by, stays
with the default. Nothing here hears, waits or reads a clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Reason = Literal["evidence", "recheck", "final", "prior", "default"]
Partials = Literal["tentative", "hold"]


@dataclass(frozen=True, slots=True)
class GateSettings:
    """What the gate goes by.

    The defaults are for `tiny-lid`, found with `voice-agent bench lid --thresholds` (docs/gate.md).

    Attributes:
        languages: codes that have a recogniser; the first is the default.
        checks_s: seconds of speech at which the first decision is sought.
        threshold: posterior that decides.
        hysteresis: by how much more a language must win that replaces another.
        recheck_s: seconds of speech between checks after the last of `checks_s`, or after a
            decision; 0 for none.
        window_s: seconds of audio at the end that a recheck is to hear.
        confirmations: rechecks running that must agree before a decision is reversed.
        final_threshold: posterior that decides at the end, on the whole segment.
        prior_weight: how much the caller's past counts with no speech at all; it fades to
            nothing at the last of `checks_s`.
        memory: share of the past that one more segment leaves.
        partials: of the default language, before the first decision: "tentative" lets them
            through without a language, "hold" keeps them back.
        patience_s: seconds that a final which is ready waits for the final decision at most.
    """

    languages: tuple[str, ...] = ("en", "kn")
    checks_s: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    threshold: float = 0.9
    hysteresis: float = 0.02
    recheck_s: float = 1.0
    window_s: float = 2.0
    confirmations: int = 2
    final_threshold: float = 0.8
    prior_weight: float = 1.0
    memory: float = 0.6
    partials: Partials = "tentative"
    patience_s: float = 0.25

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ValueError: naming the setting.
        """
        if len(self.languages) < 2 or len(set(self.languages)) != len(self.languages):
            raise ValueError(f"languages must be two or more, each once, got {self.languages}")
        if not self.checks_s or list(self.checks_s) != sorted(set(self.checks_s)):
            raise ValueError(f"checks_s must rise, got {self.checks_s}")
        if self.checks_s[0] <= 0:
            raise ValueError(f"checks_s must be positive, got {self.checks_s[0]}")
        for name in ("threshold", "final_threshold"):
            if not 0.5 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must be 0.5 or more, below 1, got {getattr(self, name)}")
        if not 0.0 <= self.hysteresis < 1.0 - self.threshold:
            raise ValueError(
                f"threshold {self.threshold} and hysteresis {self.hysteresis} must stay below 1"
            )
        if self.recheck_s < 0 or self.window_s <= 0 or self.confirmations < 1:
            raise ValueError(
                "recheck_s, window_s and confirmations must not be negative or nothing"
            )
        if self.prior_weight < 0 or not 0.0 <= self.memory < 1.0:
            raise ValueError("prior_weight must not be negative, memory from 0 to below 1")
        if self.partials not in ("tentative", "hold"):
            raise ValueError(f"partials must be tentative or hold, got {self.partials!r}")
        if self.patience_s < 0:
            raise ValueError(f"patience_s must not be negative, got {self.patience_s}")

    @property
    def default(self) -> str:
        """The language whose recogniser starts every segment."""
        return self.languages[0]


@dataclass(slots=True)
class CallerPrior:
    """What a caller spoke before: a fading count of languages, one caller each.

    Attributes:
        settings: the gate's.
        counts: by language; each segment adds one, and what was there keeps a share `memory`.
    """

    settings: GateSettings
    counts: dict[str, float] = field(default_factory=dict)

    def update(self, language: str) -> None:
        """Count a segment whose language is known from speech, not from this prior."""
        for code in self.settings.languages:
            kept = self.settings.memory * self.counts.get(code, 0.0)
            self.counts[code] = kept + (code == language)

    def chance(self, language: str) -> float:
        """Probability of a language before anything is heard; even without a past."""
        total = sum(self.counts.values())
        return (self.counts.get(language, 0.0) + 1.0) / (total + len(self.settings.languages))

    @property
    def best(self) -> str | None:
        """The language that most of the recent past was in; None without a past or a majority."""
        if not self.counts:
            return None
        best = max(self.settings.languages, key=self.chance)
        return best if self.chance(best) > 0.5 else None


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision of the gate, as it is reported.

    Attributes:
        language: what the segment is taken for from now on.
        posterior: the identifier's and the prior's together; the prior's alone for "prior".
        speech_s: seconds of speech that it rests on.
        reason: what it rests on.
        diverts: whether another recogniser than the one at work has to take over.
        reversed: whether it replaces another decision of the same segment.
    """

    language: str
    posterior: float
    speech_s: float
    reason: Reason
    diverts: bool
    reversed: bool


@dataclass(frozen=True, slots=True)
class Check:
    """The next question to the identifier.

    Attributes:
        at_s: seconds of speech at which to ask.
        window_s: seconds of audio at the end of the segment to give it; None for all.
    """

    at_s: float
    window_s: float | None


class SegmentPolicy:
    """The gate's mind during one segment."""

    def __init__(self, settings: GateSettings, prior: CallerPrior) -> None:
        self.settings, self.prior = settings, prior
        self.decided: str | None = None
        self._asked_s = 0.0
        self._rival: str | None = None
        self._agreed = 0

    @property
    def language(self) -> str:
        """Whose recogniser is at work."""
        return self.decided or self.settings.default

    def next_check(self) -> Check | None:
        """When to ask the identifier next, and about which audio; None: not before the end."""
        s = self.settings
        if self.decided is None:
            for at_s in s.checks_s:
                if at_s > self._asked_s:
                    return Check(at_s, None)
        if not s.recheck_s:
            return None
        return Check(self._asked_s + s.recheck_s, s.window_s)

    def hear(self, posteriors: Mapping[str, float], speech_s: float) -> Decision | None:
        """Take the identifier's answer to `next_check()`.

        Args:
            posteriors: by language; what has no recogniser counts for none.
            speech_s: seconds of speech in the segment so far.

        Returns:
            A decision where this answer makes one, which for the default language diverts
            nothing; else None.
        """
        # The next check counts from here, even where the answer came late.
        self._asked_s = max(speech_s, self._asked_s)
        language, posterior = self._best(posteriors, speech_s)
        s = self.settings
        if self.decided is None:
            if posterior < s.threshold:
                return None
            return self._decide(language, posterior, speech_s, "evidence")
        if language == self.decided or posterior < s.threshold + s.hysteresis:
            self._rival, self._agreed = None, 0
            return None
        self._agreed = self._agreed + 1 if language == self._rival else 1
        self._rival = language
        if self._agreed < s.confirmations:
            return None
        return self._decide(language, posterior, speech_s, "recheck")

    def finish(self, posteriors: Mapping[str, float] | None, speech_s: float) -> Decision:
        """Decide for good, on the whole segment, and remember it for the caller.

        Args:
            posteriors: of the whole segment; None where there was no speech to ask about, or the
                identifier failed.
            speech_s: seconds of speech in it.
        """
        s = self.settings
        if posteriors is None or speech_s < s.checks_s[0]:
            past = self.prior.best
            # Without any speech, a noise set the VAD off: what the caller speaks says nothing.
            if self.decided is None and past is not None and speech_s > 0.0:
                return self._decide(past, self.prior.chance(past), speech_s, "prior")
            if posteriors is None:
                return self._decide(
                    self.language, self.prior.chance(self.language), speech_s, "default"
                )
        language, posterior = self._best(posteriors, speech_s)
        needed = s.final_threshold
        if self.decided is not None and language != self.decided:
            needed = min(needed + s.hysteresis, 0.99)
        if posterior >= needed:
            decision = self._decide(language, posterior, speech_s, "final")
        else:
            share = self._weighed(posteriors, speech_s).get(self.language, 0.0)
            reason: Reason = "final" if self.decided else "default"
            decision = self._decide(self.language, share, speech_s, reason)
        if decision.reason == "final":
            self.prior.update(decision.language)
        return decision

    def _best(self, posteriors: Mapping[str, float], speech_s: float) -> tuple[str, float]:
        weighed = self._weighed(posteriors, speech_s)
        language = max(self.settings.languages, key=lambda code: weighed[code])
        return language, weighed[language]

    def _weighed(self, posteriors: Mapping[str, float], speech_s: float) -> dict[str, float]:
        """Posteriors of the served languages, leaning to the caller's past while speech is short.

        "other" keeps its share: evidence for an unserved language is none for a served one.
        """
        s = self.settings
        fading = max(0.0, 1.0 - speech_s / s.checks_s[-1]) * s.prior_weight
        even = 1.0 / len(s.languages)
        lean = {code: (self.prior.chance(code) / even) ** fading for code in s.languages}
        if not all(map(math.isfinite, posteriors.values())):
            raise ValueError(f"posteriors must be finite, got {dict(posteriors)}")
        raw = {code: max(0.0, posteriors.get(code, 0.0)) for code in s.languages}
        other = max(0.0, 1.0 - sum(raw.values()))
        joint = {code: raw[code] * lean[code] for code in s.languages}
        total = sum(joint.values()) + other
        return {code: p / total for code, p in joint.items()} if total else raw

    def _decide(self, language: str, posterior: float, speech_s: float, reason: Reason) -> Decision:
        diverts = language != self.language
        replaced = self.decided is not None and self.decided != language
        self.decided, self._rival, self._agreed = language, None, 0
        return Decision(language, posterior, speech_s, reason, diverts, replaced)
