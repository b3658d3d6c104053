"""`voice-agent bench stt`: speech-to-text systems side by side, on the same clips and machine.

Every measurement is a line of `clips.jsonl` in the output folder the moment it is made; a run that
is started again takes up where the last one stopped. Failed ones are tried again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from voice_agent.bench.corpus import DEFAULT

BASELINE = "faster-whisper"


@dataclass(frozen=True, slots=True)
class Contender:
    """One system of the comparison: its name in the table, and the model that was asked for."""

    name: str
    model: str | None = None

    @property
    def label(self) -> str:
        """As it was written: "faster-whisper=small.en"."""
        return f"{self.name}={self.model}" if self.model else self.name


def contenders(written: str) -> list[Contender]:
    """Read `--stt`: names between commas, each maybe with `=MODEL`.

    Raises:
        EngineError: a name that no system has.
    """
    from voice_agent.alternatives import system

    found = []
    for part in filter(None, (p.strip() for p in written.split(","))):
        name, _, model = part.partition("=")
        found.append(Contender(system(name).name, model or None))
    return found


def run_stt(
    stt: str,
    *,
    manifest: Path = DEFAULT,
    out: Path,
    device: str = "auto",
    language: str | None = None,
    limit: int | None = None,
    live: int = 10,
    parallel: int = 1,
    urls: Sequence[str] = (),
    baseline: str | None = None,
) -> list[Any]:
    """Measure systems and write the report.

    Args:
        stt: names between commas, each maybe with `=MODEL`.
        manifest: JSON lines or a folder; see `voice_agent.bench.corpus`.
        out: folder of `clips.jsonl`, `stt.json`, `stt.md` and `stt.png`.
        device: "auto", "cpu", "cuda" or "cuda:N".
        language: only clips of this language.
        limit: no more clips than this.
        live: clips that are also played at real-time pace.
        parallel: clips at once.
        urls: `NAME=URL` of systems that are servers.
        baseline: model of the yardstick, faster-whisper in int8 on the CPU; None for that of
            faster-whisper in `stt`, and for no yardstick where it is not there.

    Returns:
        The rows of the table, `voice_agent.bench.stt_report.Row`.

    Raises:
        BadManifest: nothing to transcribe.
        EngineError: a name that no system has.
        ValueError: a `urls` entry that is not NAME=URL.
    """
    from rich.console import Console

    from voice_agent.alternatives import Choice, licence_notice
    from voice_agent.bench import corpus, stt_report

    addresses = _addresses(urls)
    chosen = contenders(stt)
    clips = corpus.read(manifest, language, limit)
    long = corpus.long_clip(clips)
    out.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    store = Store(out / "clips.jsonl")
    settings = {"manifest": str(manifest), "device": device, "parallel": parallel}
    rows, problems = [], {}
    for notice in filter(None, (licence_notice(c.name) for c in chosen)):
        console.print(notice, style="yellow", markup=False)
    for contender in chosen:
        choice = Choice(
            model=contender.model, device=device, language=clips[0].language,
            url=addresses.get(contender.name), slots=max(8, parallel),
        )  # fmt: skip
        tasks = _tasks(clips, long, live)
        problem = _fill(store, contender, choice, tasks, settings, parallel, console)
        if problem:
            problems[contender.label] = problem
            console.print(problem, style="red", markup=False)
        rows.append(stt_report.row(contender.label, contender.name, store, settings, clips, device))
    yard = _yardstick(store, chosen, long, clips, settings, device, baseline, console)
    rows = [replace(row, ratio=yard / row.long_s if yard and row.long_s else None) for row in rows]
    stt_report.write(out, rows, problems, clips=clips, live=live, parallel=parallel, yard_s=yard)
    return rows


class Store:
    """Measurements on disk, one JSON line each; a line that was cut off is measured again."""

    def __init__(self, file: Path) -> None:
        """Read what is there."""
        self._file = file
        self.lines: list[dict[str, Any]] = []
        if file.is_file():
            for line in file.read_text(encoding="utf-8").splitlines():
                try:
                    self.lines.append(json.loads(line))
                except json.JSONDecodeError:
                    continue  # the run was killed while it wrote

    def add(self, line: dict[str, Any]) -> None:
        """Append, and make sure that it is on disk."""
        self.lines.append(line)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def of(self, system: str, settings: dict[str, Any]) -> list[dict[str, Any]]:
        """What was measured of a system under these settings, the newest of each last."""
        return [x for x in self.lines if x["system"] == system and x["settings"] == settings]


def _addresses(urls: Sequence[str]) -> dict[str, str]:
    addresses = {}
    for entry in urls:
        name, equals, url = entry.partition("=")
        if not equals or not url:
            raise ValueError(f"--url {entry!r} is not NAME=URL, e.g. whisperx=http://host:8010")
        addresses[name] = url
    return addresses


def _tasks(clips: Sequence[Any], long: Any, live: int) -> list[Any]:
    from voice_agent.bench.systems import Task

    fast = [Task("fast", c.name, c, c.language) for c in clips]
    paced = [Task("live", c.name, c, c.language) for c in clips[:live]]
    return [Task("long", "30 s", None, clips[0].language, long), *fast, *paced]


def _fill(
    store: Store,
    contender: Contender,
    choice: Any,
    tasks: Sequence[Any],
    settings: dict[str, Any],
    parallel: int,
    console: Any,
) -> str | None:
    """Measure what is not in the store yet; returns why the system could not run, if so."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from voice_agent.bench.systems import as_json, run
    from voice_agent.engine.errors import EngineError

    lines = store.of(contender.label, settings)
    done = {(x["kind"], x["clip"]) for x in lines if x["is"] == "Measured" and not x["error"]}
    left = [t for t in tasks if (t.kind, t.name) not in done]
    if not left:
        return None
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(contender.label, total=len(left))
        try:
            for said in run(contender.name, choice, list(left), parallel):
                line = {"system": contender.label, "settings": settings, **as_json(said)}
                store.add(line)
                progress.advance(bar, line["is"] == "Measured")
        except (EngineError, RuntimeError) as error:
            return str(error)
    return None


def _yardstick(
    store: Store,
    chosen: Sequence[Contender],
    long: Any,
    clips: Sequence[Any],
    settings: dict[str, Any],
    device: str,
    model: str | None,
    console: Any,
) -> float | None:
    """Seconds of faster-whisper, int8 on this CPU, for the long clip."""
    from voice_agent.alternatives.loading import Choice
    from voice_agent.bench.systems import Task

    mine = next((c for c in chosen if c.name == BASELINE), None)
    if model is None and mine is None:
        return None
    if model is None and device == "cpu":
        assert mine is not None
        yard, under = mine, settings  # it has just been measured
    else:
        yard = Contender(BASELINE, model or (mine.model if mine else None))
        under = {**settings, "device": "cpu", "parallel": 1}
        task = Task("long", "30 s", None, clips[0].language, long)
        choice = Choice(model=yard.model, device="cpu")
        problem = _fill(store, yard, choice, [task], under, 1, console)
        if problem:
            console.print(f"the yardstick: {problem}", style="red", markup=False)
    lines = [x for x in store.of(yard.label, under) if x["is"] == "Measured" and not x["error"]]
    return next((float(x["final_s"]) for x in reversed(lines) if x["kind"] == "long"), None)


def stt(
    stt: Annotated[
        str,
        typer.Option(
            "--stt", metavar="A,B,C", show_default=False,
            help="Systems between commas, each maybe with =MODEL: nemotron,faster-whisper=small.en",
        ),
    ],
    manifest: Annotated[
        Path, typer.Option(help="JSON lines (audio, text, language, licence) or a folder.",
                           show_default="48 s of reading"),
    ] = DEFAULT,
    out: Annotated[Path, typer.Option(help="Folder of the report; a run resumes there.")] = Path(
        "out/bench-stt"
    ),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    language: Annotated[str | None, typer.Option(help="Only clips of this language.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="No more clips than this.")] = None,
    live: Annotated[
        int, typer.Option(min=0, help="Clips that are also played at real-time pace, for TTFS.")
    ] = 10,
    parallel: Annotated[int, typer.Option(min=1, help="Clips at once, for load.")] = 1,
    url: Annotated[
        list[str] | None, typer.Option(metavar="NAME=URL", help="A system's server. Repeatable.")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="faster-whisper model of the yardstick, int8 on the CPU",
                     show_default="that of faster-whisper in --stt"),
    ] = None,
) -> None:  # fmt: skip
    """Compare speech-to-text systems: errors, speed, latency and memory on the same clips."""
    from voice_agent.bench import stt_report

    try:
        rows = run_stt(
            stt,
            manifest=manifest,
            out=out,
            device=device,
            language=language,
            limit=limit,
            live=live,
            parallel=parallel,
            urls=url or (),
            baseline=baseline,
        )
    except ValueError as error:  # a manifest or an option, named in the message
        raise typer.BadParameter(str(error)) from error
    typer.echo(stt_report.table(rows))
    typer.echo(f"\n{out / 'stt.md'}, stt.json, stt.png")
    if not any(row.clips for row in rows):
        raise typer.Exit(1)


def rows_as_json(rows: Sequence[Any]) -> list[dict[str, Any]]:
    """Rows for `stt.json`."""
    return [asdict(row) for row in rows]
