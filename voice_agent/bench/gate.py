"""`voice-agent bench gate`: what the language gate costs English, and how fast Kannada comes.

Segments are fed at real-time pace, 80 ms every 80 ms, one after the other, in one process:

    default language   each segment twice, once straight into its recogniser and once through the
                       gate, in an order drawn by lot; differences are between the two of a pair,
                       with a 95 % bootstrap interval of their median
    other languages    through the gate, by length of the segment; only those that the gate took
                       for what they are, the share of which is the first thing told

A segment ends with the 0.2 s of silence that a VAD waits for (`vad.stop_s`). A first partial is
timed from the segment's first sample, a final from its last, the silence's. The p99 of the slower
path's finals and the silence is what a service over the gate publishes as `ttfs_p99_latency`.
"""

from __future__ import annotations

import json
import queue
import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import numpy as np

    from voice_agent.bench.gate_speech import Utterance
    from voice_agent.engine.gate import GatedRecognizer
    from voice_agent.engine.recognizer import Recognizer

STOP_S = 0.2
FINAL_LIMIT_S = 60.0
RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Heard:
    """What became of a segment.

    Attributes:
        language: of its final.
        partial_s: first sample to the first partial with words, of the final's language where the
            final's recogniser took over; None where there was none.
        final_s: last sample to the final.
        decided_s: first sample to the first decision; None where there was none.
        audio_s: its length.
    """

    language: str | None
    partial_s: float | None
    final_s: float
    decided_s: float | None
    audio_s: float


@dataclass(frozen=True, slots=True)
class Paired:
    """The default language's segments with the gate off and on; seconds.

    Attributes:
        what: "first partial" or "final".
        segments: pairs.
        off_p50_s, on_p50_s, off_p99_s, on_p99_s: percentiles.
        difference_s: median of on - off within pairs.
        low_s, high_s: its 95 % interval.
    """

    what: str
    segments: int
    off_p50_s: float
    on_p50_s: float
    off_p99_s: float
    on_p99_s: float
    difference_s: float
    low_s: float
    high_s: float


@dataclass(frozen=True, slots=True)
class Diverted:
    """Another language's segments of one length; seconds, None where none was diverted.

    Attributes:
        language: spoken.
        audio_s: length of the segments.
        segments: how many were played.
        diverted: how many had their final in the language.
        partial_p50_s: first sample to the first partial in the language, where there was one.
        final_p50_s, final_p99_s: last sample to the final.
    """

    language: str
    audio_s: float
    segments: int
    diverted: int
    partial_p50_s: float | None
    final_p50_s: float | None
    final_p99_s: float | None


def gate(
    manifest: Annotated[
        Path | None,
        typer.Option(help="JSON lines or a folder.", show_default="sentences by espeak-ng"),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="CODE=MODEL", help="Repeatable; the default first.",
                     show_default="en=tiny-en, kn=tiny-kn"),
    ] = None,
    identifier: Annotated[
        str, typer.Option(metavar="NAME[=MODEL]", help="embedded, ambernet, ecapa or whisper.")
    ] = "embedded",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    pairs: Annotated[
        int, typer.Option(min=2, help="Segments of the default language, each played twice.")
    ] = 30,
    lengths: Annotated[
        str, typer.Option(help="Seconds of the other languages' segments, between commas.")
    ] = "1,2,4,8,16",
    repeats: Annotated[int, typer.Option(min=1, help="Segments of each such length.")] = 5,
    out: Annotated[Path | None, typer.Option(help="Write the rows as JSON.")] = None,
) -> None:  # fmt: skip
    """Latency of the default language with the gate off and on, and of the others by length."""
    from rich.console import Console

    from voice_agent.bench import gate_speech
    from voice_agent.bench.provenance import command
    from voice_agent.bench.stt_report import machine
    from voice_agent.engine.gate import load_gate

    name, _, file = identifier.partition("=")
    try:
        models = dict(_pair(entry) for entry in model or ("en=tiny-en", "kn=tiny-kn"))
        sizes = [float(part) for part in lengths.split(",")]
        utterances = gate_speech.read(manifest, tuple(models))
        gated = load_gate(models, identifier=name, identifier_model=file or None, device=device)
    except ValueError as error:  # a manifest, a number or a language, named in the message
        raise typer.BadParameter(str(error)) from error
    try:
        with Console(stderr=True).status("playing segments at real-time pace"):
            same = pair_up(gated, utterances, pairs)
            others = [
                diverted(gated, utterances, code, size, repeats)
                for code in gated.languages[1:]
                for size in sizes
            ]
    finally:
        gated.close()
    finals = [[on.final_s for _, on in same], [h.final_s for _, slow in others for h in slow]]
    report = {
        "command": command(),
        "gate": gated.name,
        "default": gated.default,
        "speech": manifest.name if manifest else gate_speech.SPOKEN,
        "machine": machine(),
        "paired": [asdict(row) for row in paired(same)],
        "diverted": [asdict(row) for row, _ in others],
        "ttfs_p99_s": max(_percentile(path, 99) for path in finals if path) + STOP_S,
    }
    typer.echo(f"{gated.name}; speech: {report['speech']}\n\n{markdown(report)}")
    if out is not None:
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def markdown(report: Mapping[str, Any]) -> str:
    """What is told of a run; its report as it was recorded."""
    rows = [Paired(**row) for row in report["paired"]]
    others = [Diverted(**row) for row in report["diverted"]]
    conditions = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
    return (
        f"{table(report['default'], rows, others)}\n\n"
        f"`ttfs_p99_latency` to publish: {report['ttfs_p99_s']:.2f} s, the VAD's {STOP_S:g} s "
        f"among it.\n\n({conditions})"
    )


def _pair(entry: str) -> tuple[str, str]:
    code, equals, model = entry.partition("=")
    if not equals or not code or not model:
        raise ValueError(f"--model {entry!r} is not CODE=MODEL, e.g. kn=tiny-kn")
    return code, model


def pair_up(
    gated: GatedRecognizer, utterances: Sequence[Utterance], pairs: int
) -> list[tuple[Heard, Heard]]:
    """Play the default language's utterances with the gate off and on; (off, on) of each."""
    own = [u.pcm for u in utterances if u.language == gated.default]
    if not own:
        raise typer.BadParameter(f"there is no speech in {gated.default!r} to measure")
    plain, lot = gated.recognizers[gated.default], random.Random(0)
    found = []
    for number in range(pairs):
        pcm = own[number % len(own)]
        if lot.random() < 0.5:
            off = play(plain, pcm, gated.default)
            on = play(gated, pcm)
        else:
            on = play(gated, pcm)
            off = play(plain, pcm, gated.default)
        found.append((off, on))
    return found


def diverted(
    gated: GatedRecognizer,
    utterances: Sequence[Utterance],
    language: str,
    audio_s: float,
    repeats: int,
) -> tuple[Diverted, list[Heard]]:
    """Play segments of one length through the gate; the row, and those that were diverted."""
    cuts = stretches([u.pcm for u in utterances if u.language == language], audio_s)
    played = [play(gated, pcm) for _, pcm in zip(range(repeats), cuts, strict=False)]
    slow = [h for h in played if h.language == language]
    partials = [h.partial_s for h in slow if h.partial_s is not None]
    finals = [h.final_s for h in slow]
    row = Diverted(
        language,
        audio_s,
        len(played),
        len(slow),
        statistics.median(partials) if partials else None,
        statistics.median(finals) if finals else None,
        _percentile(finals, 99) if finals else None,
    )
    return row, slow


def stretches(clips: Sequence[np.ndarray], seconds: float) -> Iterator[np.ndarray]:
    """Speech of one length, without end: clips after each other, from another one each time."""
    import numpy as np

    from voice_agent.engine.recognizer import SAMPLE_RATE

    wanted = round(seconds * SAMPLE_RATE)
    first = 0
    while clips:
        pieces, held, number = [], 0, first
        while held < wanted:
            pieces.append(clips[number % len(clips)])
            held += len(pieces[-1])
            number += 1
        yield np.concatenate(pieces)[:wanted]
        first += 1


def play(recognizer: Recognizer, pcm: np.ndarray, language: str | None = None) -> Heard:
    """Feed one segment at real-time pace and time what comes.

    Args:
        recognizer: loaded.
        pcm: float32, shape (n,), 16 kHz mono.
        language: of the stream; None has the gate at work.

    Raises:
        EngineError: the recogniser failed.
        TimeoutError: no final within a minute.
    """
    import numpy as np

    from voice_agent.bench.gate_speech import PIECE
    from voice_agent.engine.gate import LanguageDecided
    from voice_agent.engine.recognizer import SAMPLE_RATE, Failed, Final, Partial, StreamOptions

    events: queue.SimpleQueue[tuple[float, Any]] = queue.SimpleQueue()
    stream = recognizer.open(
        lambda event: events.put((time.monotonic(), event)),
        options=StreamOptions(language=language),
    )
    pcm = np.concatenate([pcm, np.zeros(round(STOP_S * SAMPLE_RATE), np.float32)])
    partials: list[tuple[float, str | None]] = []
    decided_s = None
    try:
        began = time.monotonic()
        for start in range(0, len(pcm), PIECE):
            piece = pcm[start : start + PIECE]
            # A microphone hands a piece over when its last sample has been heard.
            time.sleep(max(0.0, began + (start + len(piece)) / SAMPLE_RATE - time.monotonic()))
            stream.feed(piece)
        over = time.monotonic()
        stream.finish()
        while True:
            try:
                at, event = events.get(timeout=FINAL_LIMIT_S)
            except queue.Empty:
                raise TimeoutError(f"no final within {FINAL_LIMIT_S:.0f} s") from None
            match event:
                case LanguageDecided() if decided_s is None:
                    decided_s = at - began
                case Partial() if event.text:
                    partials.append((at - began, event.language))
                case Failed(error=error):
                    raise error
                case Final():
                    break
    finally:
        stream.close()
    # Before the decision, the default recogniser's partials have no language yet.
    moved = language is None and event.language != getattr(recognizer, "default", event.language)
    kept = [s for s, code in partials if not moved or code == event.language]
    seconds = len(pcm) / SAMPLE_RATE
    return Heard(event.language, kept[0] if kept else None, at - over, decided_s, seconds)


def paired(found: Sequence[tuple[Heard, Heard]]) -> list[Paired]:
    """Add pairs up; of those where one half had no partial, only the finals."""
    rows = []
    for what in ("first partial", "final"):
        times = [
            (off.partial_s, on.partial_s) if what == "first partial" else (off.final_s, on.final_s)
            for off, on in found
        ]
        both = [(a, b) for a, b in times if a is not None and b is not None]
        if both:
            rows.append(_paired(what, both))
    return rows


def _paired(what: str, both: Sequence[tuple[float, float]]) -> Paired:
    import numpy as np

    off, on = (np.array(side) for side in zip(*both, strict=True))
    difference = on - off
    picks = np.random.default_rng(0).integers(0, len(both), (RESAMPLES, len(both)))
    low, high = np.percentile(np.median(difference[picks], axis=1), [2.5, 97.5])
    return Paired(
        what,
        len(both),
        _percentile(off, 50),
        _percentile(on, 50),
        _percentile(off, 99),
        _percentile(on, 99),
        float(np.median(difference)),
        float(low),
        float(high),
    )


def _percentile(values: Any, q: float) -> float:
    import numpy as np

    return float(np.percentile(values, q))


def table(default: str, rows: Sequence[Paired], others: Sequence[Diverted]) -> str:
    """Both tables in Markdown, in milliseconds."""
    text = [
        f"| {default}, ms | pairs | off p50 | on p50 | off p99 | on p99 | on - off [95 %] |",
        "|---" * 7 + "|",
    ]
    for row in rows:
        text.append(
            f"| {row.what} | {row.segments} | {_ms(row.off_p50_s)} | {_ms(row.on_p50_s)} | "
            f"{_ms(row.off_p99_s)} | {_ms(row.on_p99_s)} | {1000 * row.difference_s:+.1f} "
            f"[{1000 * row.low_s:+.1f}, {1000 * row.high_s:+.1f}] |"
        )
    text += [
        "",
        "| spoken | segment | diverted | first partial p50 | final p50 | final p99 |",
        "|---" * 6 + "|",
    ]
    for other in others:
        text.append(
            f"| {other.language} | {other.audio_s:g} s | {other.diverted} of {other.segments} | "
            f"{_ms(other.partial_p50_s)} | {_ms(other.final_p50_s)} | {_ms(other.final_p99_s)} |"
        )
    return "\n".join(text)


def _ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{1000 * seconds:.0f}"
