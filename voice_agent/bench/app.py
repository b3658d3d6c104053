"""The commands under `voice-agent bench`; each imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from voice_agent.bench.calls import calls
from voice_agent.bench.engine import engine
from voice_agent.bench.gate import gate
from voice_agent.bench.lid import lid
from voice_agent.bench.server import server
from voice_agent.bench.stt import stt
from voice_agent.bench.ttfs import ttfs

app = typer.Typer(help="Measure, then claim.", no_args_is_help=True, add_completion=False)


@app.callback()
def bench() -> None:
    """Measure, then claim."""


@app.command()
def wer(
    manifest: Annotated[
        Path, typer.Option(help="JSON lines with audio, text, lang and source.", show_default=False)
    ],
    model: Annotated[str, typer.Option(help="Name, path or Hugging Face id.")] = "tiny-en",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    weights: Annotated[
        Literal["int8"] | None, typer.Option(help="8-bit weights, of this project's engine.")
    ] = None,
    right_context: Annotated[
        list[int] | None,
        typer.Option("--right-context", help="Repeat for several; all of the model's by default."),
    ] = None,
    full: Annotated[
        bool, typer.Option(help="Also measure finals of a full second pass (final_pass='full').")
    ] = True,
    search: Annotated[
        bool,
        typer.Option("--search", help="And by, and without, beam search."),
    ] = False,
    language_model: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An ARPA file beside that search.")
    ] = None,
    fusion: Annotated[
        tuple[float, float, float] | None,
        typer.Option(
            metavar="LM INTERNAL BONUS",
            help="How much it counts, and the recogniser's own, and for each token.",
            show_default="the engine's",
        ),
    ] = None,
    language: Annotated[str, typer.Option(help="Only clips of this language.")] = "en",
    by_source: Annotated[bool, typer.Option("--by-source", help="A row for each source.")] = False,
    live: Annotated[
        int, typer.Option(min=0, help="Clips also played at real-time pace, for time to final.")
    ] = 8,
    out: Annotated[Path | None, typer.Option(help="Write the rows as JSON.")] = None,
) -> None:
    """Word error rate and time to final by right context, streamed and with a second pass.

    Rates have 95 % bootstrap intervals over clips.
    """
    from voice_agent.bench.wer import run

    if language_model is not None and not search:
        raise typer.BadParameter("--language-model is for finals by search; add --search")
    if fusion is not None and language_model is None:
        raise typer.BadParameter("--fusion says how much a --language-model counts; name one")
    run(
        manifest,
        model,
        device,
        right_context,
        full,
        language,
        by_source,
        out,
        live,
        weights,
        search,
        language_model,
        fusion,
    )


app.command()(engine)
app.command()(calls)
app.command()(gate)
app.command()(lid)
app.command()(server)
app.command()(stt)
app.command()(ttfs)
