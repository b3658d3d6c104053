"""`voice-agent bench lid`: how well and how fast language identifiers tell languages apart.

What is measured is what the gate needs: after so many seconds of *speech*, which of the gate's
languages is the likeliest, everything else being "other". An excerpt begins every 3 s of a clip
and ends where its speech is enough (`gate_speech.excerpts`).

    accuracy   the share of excerpts whose likeliest language is the right one
    AUC        of a language against all else, by its posterior: the chance that an excerpt in it
               gets a higher one than an excerpt that is not
    ms         to identify one excerpt, the median; and for a second of audio
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from voice_agent.bench.gate_speech import Utterance
    from voice_agent.bench.gate_thresholds import Decided
    from voice_agent.engine.lid import LanguageIdentifier

SPEECH_S = (0.25, 0.5, 1.0, 1.5, 2.0)
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Answer:
    """An identifier's answer about one excerpt.

    Attributes:
        language: that is spoken.
        posteriors: of the gate's languages and "other".
        audio_s: of the excerpt.
        took_s: to identify it.
    """

    language: str
    posteriors: Mapping[str, float]
    audio_s: float
    took_s: float

    def called(self, languages: Sequence[str]) -> str:
        """What it should be called: "other" stands for all that is not named."""
        return self.language if self.language in languages else OTHER

    def right(self, languages: Sequence[str]) -> bool:
        """Whether the likeliest is that."""
        best = max(self.posteriors, key=lambda code: self.posteriors[code])
        return best == self.called(languages)


@dataclass(frozen=True, slots=True)
class Row:
    """One identifier, language and amount of speech; None where there was no excerpt of a kind.

    Attributes:
        backend: as it was asked for.
        identifier: its name.
        language: spoken; "other" for all that the gate does not serve.
        speech_s: heard.
        excerpts: how many.
        accuracy: see the module docstring.
        auc: of this language against all else; None for "other".
        ms: median, to identify one.
        ms_a_second: of audio.
    """

    backend: str
    identifier: str
    language: str
    speech_s: float
    excerpts: int
    accuracy: float
    auc: float | None
    ms: float
    ms_a_second: float


def lid(
    manifest: Annotated[
        Path | None,
        typer.Option(help="JSON lines or a folder.", show_default="sentences by espeak-ng"),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=MODEL]", help="Repeatable. embedded, ambernet, ecapa, whisper.",
                     show_default="all that can run"),
    ] = None,
    languages: Annotated[
        str, typer.Option(help="The gate's languages, between commas, its default first.")
    ] = "en,kn",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    thresholds: Annotated[
        bool, typer.Option("--thresholds", help="Also what the gate would decide, by threshold.")
    ] = False,
    segment_s: Annotated[
        float, typer.Option(min=0.5, help="Length of the segments that --thresholds is told for.")
    ] = 4.0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for lid.json and the curves, lid.png.")
    ] = None,
) -> None:  # fmt: skip
    """Accuracy, ROC and latency of language identifiers by seconds of speech."""
    from voice_agent.bench import gate_speech
    from voice_agent.bench.provenance import command
    from voice_agent.bench.stt_report import machine
    from voice_agent.engine.errors import ModelNotFound
    from voice_agent.engine.lid import BACKENDS, load_language_identifier

    served = tuple(code.strip() for code in languages.split(","))
    try:
        utterances = gate_speech.read(manifest)
    except ValueError as error:  # a manifest, named in the message
        raise typer.BadParameter(str(error)) from error
    speech = manifest.name if manifest else gate_speech.SPOKEN
    typer.echo(f"speech: {speech}, {len(utterances)} clips\n")
    rows: list[Row] = []
    decisions: list[Decided] = []
    curves: dict[str, dict[float, list[Answer]]] = {}
    for asked in backend or BACKENDS:
        name, _, model = asked.partition("=")
        try:
            identifier = load_language_identifier(name, model=model or None, device=device)
        except ModelNotFound as error:
            if backend:
                raise
            typer.echo(f"{name} cannot run here: {error}\n", err=True)
            continue
        curves[asked] = ask(identifier, utterances, served)
        rows += rows_of(asked, identifier.name, curves[asked], served)
        if thresholds:
            from voice_agent.bench import gate_thresholds

            found = gate_thresholds.search(identifier, utterances, served, segment_s)
            typer.echo(
                f"What the gate decides by {identifier.name}, segments of {segment_s:g} s:\n"
            )
            typer.echo(f"{gate_thresholds.table(found)}\n")
            decisions += found
    conditions = machine()
    typer.echo(f"{table(rows)}\n\nA cell: right answers, of how many excerpts, AUC.")
    typer.echo(f"\n({', '.join(f'{key} {value}' for key, value in conditions.items())})")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        report = {
            "command": command(),
            "speech": speech,
            "clips": Counter(utterance.language for utterance in utterances),
            "machine": conditions,
            "rows": [asdict(row) for row in rows],
            "segment_s": segment_s,
            "decisions": [asdict(row) for row in decisions],
        }
        (out / "lid.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        draw(out / "lid.png", curves, served)
        typer.echo(f"{out / 'lid.json'}, lid.png")


def ask(
    identifier: LanguageIdentifier, utterances: Sequence[Utterance], languages: tuple[str, ...]
) -> dict[float, list[Answer]]:
    """Ask about every excerpt, by seconds of speech."""
    from voice_agent.bench.gate_speech import excerpts
    from voice_agent.engine.recognizer import SAMPLE_RATE

    answers: dict[float, list[Answer]] = {}
    for speech_s in SPEECH_S:
        found = answers[speech_s] = []
        for utterance in utterances:
            for pcm in excerpts(utterance.pcm, speech_s):
                began = time.perf_counter()
                scores = identifier.identify(pcm)
                took_s = time.perf_counter() - began
                named = scores.among(languages)
                found.append(Answer(utterance.language, named, len(pcm) / SAMPLE_RATE, took_s))
    return answers


def rows_of(
    backend: str,
    identifier: str,
    answers: Mapping[float, Sequence[Answer]],
    languages: tuple[str, ...],
) -> list[Row]:
    """Add answers up, by language and seconds of speech."""
    import statistics

    rows = []
    for language in (*languages, OTHER):
        for speech_s, found in answers.items():
            own = [a for a in found if a.called(languages) == language]
            if not own:
                continue
            rows.append(
                Row(
                    backend,
                    identifier,
                    language,
                    speech_s,
                    len(own),
                    sum(a.right(languages) for a in own) / len(own),
                    auc(*split(found, language)) if language in languages else None,
                    1000 * statistics.median(a.took_s for a in own),
                    1000 * statistics.median(a.took_s / a.audio_s for a in own),
                )
            )
    return rows


def split(answers: Sequence[Answer], language: str) -> tuple[list[float], list[float]]:
    """Posteriors of a language where it is spoken, and where it is not."""
    own = [a.posteriors[language] for a in answers if a.language == language]
    return own, [a.posteriors[language] for a in answers if a.language != language]


def auc(positive: Sequence[float], negative: Sequence[float]) -> float | None:
    """Area under the ROC curve: the chance that a positive outranks a negative; ties are halves.

    Returns:
        0 to 1; None where either is empty.
    """
    if not positive or not negative:
        return None
    above = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    return above / (len(positive) * len(negative))


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown: a line for each language, a column for each amount of speech."""
    lines: dict[tuple[str, str], dict[float, Row]] = defaultdict(dict)
    for row in rows:
        lines[row.backend, row.language][row.speech_s] = row
    text = [
        "| backend | spoken | "
        + " | ".join(f"{s:g} s" for s in SPEECH_S)
        + " | ms at 2 s | ms/s |",
        "|---" * (len(SPEECH_S) + 4) + "|",
    ]
    for (backend, language), cells in lines.items():
        last = cells[max(cells)]
        shown = " | ".join(_cell(cells.get(s)) for s in SPEECH_S)
        text.append(
            f"| {backend} | {language} | {shown} | {last.ms:.1f} | {last.ms_a_second:.2f} |"
        )
    return "\n".join(text)


def _cell(row: Row | None) -> str:
    if row is None:
        return "–"
    area = "" if row.auc is None else f", {row.auc:.3f}"
    return f"{100 * row.accuracy:.0f} % of {row.excerpts}{area}"


def draw(
    file: Path, curves: Mapping[str, Mapping[float, Sequence[Answer]]], languages: Any
) -> None:
    """ROC curves: a panel for each identifier and language, a line for each amount of speech."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(languages), 4 * max(1, len(curves))), layout="constrained")
    panels = figure.subplots(max(1, len(curves)), len(languages), squeeze=False)
    for line, (backend, answers) in zip(panels, curves.items(), strict=False):
        for axes, language in zip(line, languages, strict=True):
            for speech_s, found in answers.items():
                own, rest = split(found, language)
                if own and rest:
                    cuts = np.unique([0.0, *own, *rest, 1.1])[::-1]
                    hits = [np.mean(np.array(own) >= cut) for cut in cuts]
                    alarms = [np.mean(np.array(rest) >= cut) for cut in cuts]
                    axes.plot(alarms, hits, label=f"{speech_s:g} s, {auc(own, rest):.3f}")
            axes.set_title(f"{backend}: {language}")
            axes.set_xlabel("of other speech, called so")
            axes.set_ylabel("of its own speech, called so")
            axes.grid(alpha=0.3)
            axes.legend(title="speech, AUC")
    figure.savefig(file, dpi=120)
