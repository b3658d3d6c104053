"""What the gate would decide on recorded speech, by its thresholds: how its defaults were found.

The gate's own policy is led through each segment with the identifier's own answers; nothing is
transcribed. A clip is cut into segments of a few seconds, as callers speak.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from voice_agent.bench.gate_speech import PIECE, Utterance
from voice_agent.engine.gate_policy import CallerPrior, GateSettings, SegmentPolicy
from voice_agent.engine.gate_segment import HEARD_S
from voice_agent.engine.lid import LanguageIdentifier, SpeechMeter
from voice_agent.engine.recognizer import SAMPLE_RATE

THRESHOLDS = (0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)
FINAL_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
HYSTERESIS = (0.0, 0.02, 0.05, 0.09)
WINDOWS_S = (1.0, 2.0, 3.0)
CONFIRMATIONS = (1, 2, 3)
SWITCH_S = 3.0
MOST_WRONG = 0.005
OTHER = "other"

Hear = Callable[[int, int], Mapping[str, float]]
"""Posteriors of samples start to stop of one segment."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one segment.

    Attributes:
        final: language that the gate took it for in the end.
        right: whether that is the spoken one, or the default where nobody serves that.
        strayed: whether it was ever with a language other than the spoken one and the default.
        decided_s: seconds of speech when it was first taken for the spoken language; None if never
            before its end.
    """

    final: str
    right: bool
    strayed: bool
    decided_s: float | None


@dataclass(frozen=True, slots=True)
class Decided:
    """What became of a group of segments under some settings.

    Attributes:
        threshold, final_threshold, hysteresis, window_s, confirmations: the settings'.
        group: language spoken; "other" for what the gate does not serve, "en>kn" for a change.
        segments: how many.
        right: that ended where they belong: what nobody serves, with the default language.
        strayed: that were ever with another language, other than the default.
        decided_p50_s: seconds of speech at the first right decision before the end, the median;
            None where there was none, and for "other".
    """

    threshold: float
    final_threshold: float
    hysteresis: float
    window_s: float
    confirmations: int
    group: str
    segments: int
    right: int
    strayed: int
    decided_p50_s: float | None

    @classmethod
    def of(cls, settings: GateSettings, group: str, own: Sequence[Outcome]) -> Decided:
        """Add outcomes up."""
        times = [o.decided_s for o in own if o.decided_s is not None]
        return cls(
            settings.threshold,
            settings.final_threshold,
            settings.hysteresis,
            settings.window_s,
            settings.confirmations,
            group,
            len(own),
            sum(o.right for o in own),
            sum(o.strayed for o in own),
            statistics.median(times) if times and group != OTHER else None,
        )

    @property
    def settings(self) -> tuple[float, ...]:
        """What was set."""
        return (
            self.threshold,
            self.final_threshold,
            self.hysteresis,
            self.window_s,
            self.confirmations,
        )


def segments(utterances: Sequence[Utterance], segment_s: float) -> Iterator[tuple[str, np.ndarray]]:
    """Cut clips into segments; a rest of less than a second goes to the last."""
    size = round(segment_s * SAMPLE_RATE)
    for utterance in utterances:
        cuts = list(range(0, max(1, len(utterance.pcm) - SAMPLE_RATE), size))
        for start, stop in zip(cuts, [*cuts[1:], len(utterance.pcm)], strict=True):
            yield utterance.language, utterance.pcm[start:stop]


def lead(spoken: str, pcm: np.ndarray, settings: GateSettings, hear: Hear) -> Outcome:
    """Lead the policy through one segment of a caller without a past."""
    policy = SegmentPolicy(settings, CallerPrior(settings))
    home = spoken if spoken in settings.languages else settings.default
    meter = SpeechMeter()
    strayed, decided_s = False, None
    for stop in range(PIECE, len(pcm) + 1, PIECE):
        meter.append(pcm[stop - PIECE : stop])
        check = policy.next_check()
        if check is None or (speech_s := meter.seconds()) < check.at_s:
            continue
        start = max(0, stop - round((check.window_s or HEARD_S) * SAMPLE_RATE))
        decision = policy.hear(hear(start, stop), speech_s)
        if decision is not None:
            strayed |= decision.language not in (home, settings.default)
            if decision.language == home and decided_s is None:
                decided_s = decision.speech_s
    meter.append(pcm[len(pcm) // PIECE * PIECE :])
    start = max(0, len(pcm) - round(HEARD_S * SAMPLE_RATE))
    speech_s = meter.seconds()
    final = policy.finish(hear(start, len(pcm)) if speech_s else None, speech_s)
    strayed |= final.language not in (home, settings.default)
    return Outcome(final.language, final.language == home, strayed, decided_s)


def search(
    identifier: LanguageIdentifier,
    utterances: Sequence[Utterance],
    languages: tuple[str, ...],
    segment_s: float,
) -> list[Decided]:
    """Lead the gate through all segments with each setting of the sweep."""
    cut = [
        (code if code in languages else OTHER, code, pcm)
        for code, pcm in segments(utterances, segment_s)
    ]
    cut += switched(utterances, languages)
    asked = [(*segment, _remembering(identifier, segment[2])) for segment in cut]
    found = []
    for settings in sweep(GateSettings(languages=languages)):
        outcomes: dict[str, list[Outcome]] = {}
        for group, home, pcm, hear in asked:
            outcomes.setdefault(group, []).append(lead(home, pcm, settings, hear))
        found += [Decided.of(settings, group, own) for group, own in outcomes.items()]
    return found


def sweep(base: GateSettings) -> list[GateSettings]:
    """Settings to try: the defaults, and each of what decides by itself away from its default."""
    tried = [base]
    tried += [
        replace(base, threshold=t, hysteresis=min(base.hysteresis, 0.99 - t)) for t in THRESHOLDS
    ]
    tried += [replace(base, final_threshold=t) for t in FINAL_THRESHOLDS]
    tried += [replace(base, hysteresis=h) for h in HYSTERESIS]
    tried += [replace(base, window_s=s) for s in WINDOWS_S]
    tried += [replace(base, confirmations=n) for n in CONFIRMATIONS]
    return list(dict.fromkeys(tried))


def switched(
    utterances: Sequence[Utterance], languages: tuple[str, ...]
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Segments whose speaker changes language without a pause: ("en>kn", "kn", both).

    Each clip of the default language with one of every other; its last seconds, then the other's
    first, which are what counts at the end.
    """
    size = round(SWITCH_S * SAMPLE_RATE)
    clips = {code: [u.pcm for u in utterances if u.language == code] for code in languages}
    default, *others = languages
    for code in others:
        for before, after in zip(clips[default], clips[code], strict=False):
            yield f"{default}>{code}", code, np.concatenate([before[-size:], after[: 2 * size]])


def best(found: Sequence[Decided], default: str) -> Decided | None:
    """How the defaults were chosen from what was found.

    Of settings that divert at most 1 in 200 of the default language's segments wrongly: those that
    find most of the other languages, of those the ones that leave most of what nobody serves
    alone, of those the one that decides soonest. Equal ones give way to the defaults.

    Args:
        found: of `search`; of several runs, one after the other.
        default: the gate's default language.

    Returns:
        Their row for the default language; None where there is none.
    """
    by_settings: dict[tuple[float, ...], list[Decided]] = {}
    for row in found:
        by_settings.setdefault(row.settings, []).append(row)

    def rank(rows: Sequence[Decided]) -> tuple[float, ...]:
        own = [row for row in rows if row.group == default]
        other = [row for row in rows if row.group == OTHER]
        wanted = [row for row in rows if row.group not in (default, OTHER)]
        wrong = sum(row.strayed for row in own) / max(1, sum(row.segments for row in own))
        return (
            -max(0.0, wrong - MOST_WRONG),
            sum(row.right for row in wanted),
            -sum(row.strayed for row in other),
            -sum(
                math.inf if row.decided_p50_s is None else row.decided_p50_s for row in own + wanted
            ),
        )

    if not by_settings:
        return None
    winner = max(by_settings.values(), key=rank)  # the defaults come first, and win a tie
    return next((row for row in winner if row.group == default), None)


def table(found: Sequence[Decided]) -> str:
    """Decisions by settings, in Markdown."""
    lines = [
        "| threshold | final | hysteresis | window | confirmations | spoken | segments | "
        "end where they belong | diverted wrongly | speech at decision |",
        "|---" * 10 + "|",
    ]
    for row in found:
        median = "–" if row.decided_p50_s is None else f"{row.decided_p50_s:.2f} s"
        lines.append(
            f"| {row.threshold:g} | {row.final_threshold:g} | {row.hysteresis:.2g} | "
            f"{row.window_s:g} s | {row.confirmations} | {row.group} | {row.segments} | "
            f"{100 * row.right / row.segments:.1f} % | {100 * row.strayed / row.segments:.1f} % | "
            f"{median} |"
        )
    return "\n".join(lines)


def _remembering(identifier: LanguageIdentifier, pcm: np.ndarray) -> Hear:
    """Ask about each stretch once, for all thresholds ask about the same ones."""
    known: dict[tuple[int, int], Mapping[str, float]] = {}

    def hear(start: int, stop: int) -> Mapping[str, float]:
        if (start, stop) not in known:
            known[start, stop] = identifier.identify(pcm[start:stop]).posteriors
        return known[start, stop]

    return hear
