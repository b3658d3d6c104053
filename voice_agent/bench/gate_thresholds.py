"""What the gate would decide on recorded speech, by its thresholds: how its defaults were found.

The gate's own policy is led through each segment with the identifier's own answers; nothing is
transcribed. A clip is cut into segments of a few seconds, as callers speak.
"""

from __future__ import annotations

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

Hear = Callable[[int, int], Mapping[str, float]]
"""Posteriors of samples start to stop of one segment."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one segment.

    Attributes:
        spoken: its language.
        final: that the gate took it for in the end.
        strayed: whether it was ever with a language other than the spoken one and the default.
        decided_s: seconds of speech when it was first taken for the spoken language; None if never
            before its end.
    """

    spoken: str
    final: str
    strayed: bool
    decided_s: float | None


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
    return Outcome(spoken, final.language, strayed, decided_s)


def table(
    identifier: LanguageIdentifier,
    utterances: Sequence[Utterance],
    languages: tuple[str, ...],
    segment_s: float,
) -> str:
    """Decisions by `threshold`, then by `final_threshold`, in Markdown."""
    cut = [
        (spoken, pcm, _remembering(identifier, pcm))
        for spoken, pcm in segments(utterances, segment_s)
    ]
    base = GateSettings(languages=languages)
    lines = [
        f"What the gate decides by {identifier.name}, segments of {segment_s:g} s:",
        "",
        "| threshold | final | spoken | segments | end where they belong | diverted wrongly | "
        "speech at decision |",
        "|---" * 7 + "|",
    ]
    sweep = [
        replace(base, threshold=t, hysteresis=min(base.hysteresis, 0.99 - t)) for t in THRESHOLDS
    ]
    sweep += [replace(base, final_threshold=t) for t in FINAL_THRESHOLDS]
    for settings in dict.fromkeys(sweep):
        outcomes = [lead(spoken, pcm, settings, hear) for spoken, pcm, hear in cut]
        for spoken in (*languages, "other"):
            own = [
                o for o in outcomes if (o.spoken if o.spoken in languages else "other") == spoken
            ]
            if own:
                lines.append(_line(settings, spoken, own))
    return "\n".join(lines)


def _line(settings: GateSettings, spoken: str, own: Sequence[Outcome]) -> str:
    home = settings.default if spoken == "other" else spoken
    right = sum(o.final == home for o in own) / len(own)
    strayed = sum(o.strayed for o in own)
    times = [o.decided_s for o in own if o.decided_s is not None]
    median = f"{statistics.median(times):.2f} s" if times and spoken != "other" else "–"
    return (
        f"| {settings.threshold:g} | {settings.final_threshold:g} | {spoken} | {len(own)} | "
        f"{100 * right:.1f} % | {100 * strayed / len(own):.1f} % | {median} |"
    )


def _remembering(identifier: LanguageIdentifier, pcm: np.ndarray) -> Hear:
    """Ask about each stretch once, for all thresholds ask about the same ones."""
    known: dict[tuple[int, int], Mapping[str, float]] = {}

    def hear(start: int, stop: int) -> Mapping[str, float]:
        if (start, stop) not in known:
            known[start, stop] = identifier.identify(pcm[start:stop]).posteriors
        return known[start, stop]

    return hear
