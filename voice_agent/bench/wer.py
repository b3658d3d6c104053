"""Word error rate of a recogniser on a manifest, through the public API.

WER = (substitutions + deletions + insertions) / reference words, pooled over clips (jiwer). The
interval is a percentile bootstrap over clips: clips, not words, are what was sampled. Before
comparison both texts are lower-cased, and everything but letters, digits and apostrophes counts
as a space.
"""

from __future__ import annotations

import json
import queue
import re
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from voice_agent.engine.recognizer import (
    SEARCHES,
    Event,
    Failed,
    Final,
    FinalPass,
    Recognizer,
    StreamOptions,
)

RESAMPLES = 1000
IN_FLIGHT = 4  # clips decoded side by side
PIECE = 320  # samples that a live clip is fed by, 20 ms


@dataclass(frozen=True, slots=True)
class Clip:
    """One line of a manifest."""

    path: Path
    text: str
    source: str


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table, with the conditions that it holds under.

    Attributes:
        model: as it was asked for.
        weights: "int8", or None for the floating-point ones.
        right_context: of the streaming; None for a model without one.
        final_pass: "stream", "beam", "full" or "search".
        source: of the clips, or "all".
        clips: that were transcribed.
        words: of their texts.
        wer: pooled over clips.
        low: lower end of the interval.
        high: upper end of the interval.
        rtf: seconds for a second of audio, clips fed at once.
        language_model: beside the search, where there is one.
        final_p50_ms: from `finish()` to the final, of clips played at real-time pace.
        final_p95_ms: the same. None where none were played.
    """

    model: str
    weights: str | None
    right_context: int | None
    final_pass: str
    source: str
    clips: int
    words: int
    wer: float
    low: float
    high: float
    rtf: float
    language_model: str | None = None
    final_p50_ms: float | None = None
    final_p95_ms: float | None = None


def normalise(text: str) -> str:
    """Lower case; letters, digits and apostrophes stay, the rest becomes one space."""
    return " ".join(re.sub(r"[^\w']|_", " ", text.lower().replace("’", "'")).split())


def read_manifest(path: Path, language: str | None) -> list[Clip]:
    """Clips with text, in the manifest's order.

    Raises:
        ValueError: not a manifest, or nothing in it has text in this language.
    """
    clips = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
            if row.get("text") and (language is None or row.get("lang", language) == language):
                # Of "corpus via package; remark" or "repository data/file" the corpus alone.
                source = re.split(" via |;| data/", str(row.get("source", "")))[0]
                clips.append(Clip(path.parent / row["audio"], normalise(row["text"]), source))
        except (json.JSONDecodeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}, line {number}: not a manifest line ({error!r})") from error
    if not clips:
        raise ValueError(f"{path}: no clip has text in language {language!r}")
    return clips


def load(clip: Clip) -> np.ndarray:
    """Read a clip as float32 at 16 kHz, mono."""
    import soundfile

    audio, rate = soundfile.read(clip.path, dtype="float32", always_2d=True)
    mono = audio.mean(axis=1)
    if rate == 16_000:
        return mono
    import soxr  # which a machine for benchmarks may lack

    return soxr.resample(mono, rate, 16_000).astype(np.float32)


def transcribe_clip(recognizer: Recognizer, audio: np.ndarray, options: StreamOptions) -> Final:
    """Transcribe audio as one segment and wait for its final.

    Raises:
        EngineError: the recogniser failed.
    """
    ends: queue.SimpleQueue[Final | Failed] = queue.SimpleQueue()

    def heard(event: Event) -> None:
        if isinstance(event, Final | Failed):
            ends.put(event)

    stream = recognizer.open(heard, options=options)
    try:
        stream.feed(audio)
        stream.finish()
        end = ends.get()
    finally:
        stream.close()
    if isinstance(end, Failed):
        raise end.error
    return end


def measure(
    recognizer: Recognizer, clips: Sequence[Clip], options: StreamOptions
) -> tuple[list[str], float]:
    """Transcribe every clip, `IN_FLIGHT` side by side.

    Returns:
        The texts, in order, and the real-time factor of the whole: seconds for a second of audio.
    """

    def one(clip: Clip) -> tuple[str, float]:
        audio = load(clip)
        return transcribe_clip(recognizer, audio, options).text, len(audio) / 16_000

    began = time.monotonic()
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        results = list(pool.map(one, clips))
    took = time.monotonic() - began
    return [normalise(text) for text, _ in results], took / sum(s for _, s in results)


def time_to_final(
    recognizer: Recognizer, clips: Sequence[Clip], options: StreamOptions
) -> list[float]:
    """Play clips at real-time pace, `IN_FLIGHT` side by side.

    Returns:
        Milliseconds from `finish()` to the final's arrival, of each.

    Raises:
        EngineError: the recogniser failed.
    """

    def one(clip: Clip) -> float:
        audio = load(clip)
        ends: queue.SimpleQueue[tuple[float, Final | Failed]] = queue.SimpleQueue()

        def heard(event: Event) -> None:
            if isinstance(event, Final | Failed):
                ends.put((time.monotonic(), event))

        stream = recognizer.open(heard, options=options)
        try:
            due = time.monotonic()
            for at in range(0, len(audio), PIECE):
                piece = audio[at : at + PIECE]
                due += len(piece) / 16_000  # a microphone has it when it has been said
                time.sleep(max(0.0, due - time.monotonic()))
                stream.feed(piece)
            finished = time.monotonic()
            stream.finish()
            arrived, end = ends.get()
        finally:
            stream.close()
        if isinstance(end, Failed):
            raise end.error
        return 1000 * (arrived - finished)

    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        return list(pool.map(one, clips))


def interval(errors: Sequence[int], words: Sequence[int], seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap of pooled WER over clips."""
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(errors), (RESAMPLES, len(errors)))
    rates = np.asarray(errors)[picks].sum(1) / np.asarray(words)[picks].sum(1)
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(low), float(high)


def rows_of(
    clips: Sequence[Clip], texts: Sequence[str], by_source: bool, **conditions: Any
) -> Iterable[Row]:
    """Score texts against clips: a row for all, and one for each source if asked."""
    import jiwer

    scores = [jiwer.process_words(c.text, t) for c, t in zip(clips, texts, strict=True)]
    errors = [s.substitutions + s.deletions + s.insertions for s in scores]
    words = [len(c.text.split()) for c in clips]
    groups = {"all": list(range(len(clips)))}
    if by_source:
        for source in sorted({c.source for c in clips}):
            groups[source] = [i for i, c in enumerate(clips) if c.source == source]
    for source, members in groups.items():
        group_errors, group_words = [errors[i] for i in members], [words[i] for i in members]
        low, high = interval(group_errors, group_words)
        yield Row(
            source=source,
            clips=len(members),
            words=sum(group_words),
            wer=sum(group_errors) / sum(group_words),
            low=low,
            high=high,
            **conditions,
        )


def run(
    manifest: Path,
    model: str,
    device: str,
    right_contexts: Sequence[int] | None,
    full: bool,
    language: str,
    by_source: bool,
    out: Path | None,
    live: int = 0,
    weights: Literal["int8"] | None = None,
    search: bool = False,
    language_model: Path | None = None,
    fusion: tuple[float, float, float] | None = None,
) -> list[Row]:
    """Measure and print; see `voice-agent bench wer --help`."""
    from rich.console import Console

    from voice_agent.engine import load_recognizer
    from voice_agent.engine.fusion import Weights

    console = Console(stderr=True)
    clips = read_manifest(manifest, language)
    recognizer = load_recognizer(
        model,
        device=device,
        weights=weights,
        language_model=language_model,
        fusion=Weights(*fusion) if fusion else None,
    )
    rows: list[Row] = []
    print("| right context | final | clips | words | WER % [95 %] | RTF | time to final, ms "
          "p50 / p95 | source |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|")
    rights = right_contexts or list(recognizer.right_contexts)
    default: FinalPass = getattr(recognizer, "final_pass", "stream")
    passes: list[tuple[int | None, FinalPass]] = [(r, default) for r in rights or (None,)]
    others: list[FinalPass] = ["full"] if full else []
    if search:
        others += ["stream", "beam", "search"]
    passes += [(min(rights), final) for final in others if rights and final != default]
    for right, final_pass in passes:
        with console.status(f"{len(clips)} clips at right context {right}, {final_pass} final"):
            options = StreamOptions(right_context=right, partials=False, final_pass=final_pass)
            texts, rtf = measure(recognizer, clips, options)
            finals = time_to_final(recognizer, clips[:live], options) if live else []
        lm = language_model.name if language_model and final_pass in SEARCHES else None
        p50, p95 = (float(np.percentile(finals, q)) if finals else None for q in (50, 95))
        for row in rows_of(
            clips,
            texts,
            by_source,
            model=model,
            weights=weights,
            right_context=right,
            final_pass=final_pass,
            rtf=rtf,
            language_model=lm,
            final_p50_ms=p50,
            final_p95_ms=p95,
        ):
            rows.append(row)
            print(
                f"| {right} | {', '.join([final_pass, *([lm] if lm else [])])} | {row.clips} | "
                f"{row.words} | {100 * row.wer:.1f} "
                f"[{100 * row.low:.1f}, {100 * row.high:.1f}] | {row.rtf:.3f} | "
                f"{'-' if p50 is None else f'{p50:.0f} / {p95:.0f}'} | {row.source} |",
                flush=True,
            )
    recognizer.close()
    if out:
        out.write_text(json.dumps([asdict(r) for r in rows], indent=2) + "\n")
    return rows
