"""The commands and their flags. What they do is in the module of the same name."""

from __future__ import annotations

import enum
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from voice_agent.cli.errors import EXIT_INTERRUPTED, EXIT_USAGE, sentence
from voice_agent.doctor.command import doctor

app = typer.Typer(
    name="voice-agent",
    help="A voice agent that runs on this machine: streaming speech recognition for NVIDIA "
    "Nemotron checkpoints, inside Pipecat.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


class Format(enum.StrEnum):
    """How a transcript is written."""

    txt = "txt"
    json = "json"
    srt = "srt"
    vtt = "vtt"


ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings file (.toml, .yaml)."),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME|PATH|ID",
        help="An embedded model's name, a .nemo file or its folder, or a Hugging Face id.",
        show_default="tiny-en",
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", help="auto, cpu, cuda or cuda:N.", show_default="auto"),
]
RightContextOption = Annotated[
    int | None,
    typer.Option(
        "--right-context",
        metavar="FRAMES",
        help="Look-ahead in frames of 80 ms, one that the model was trained for: 0, 1, 6 or 13 "
        "for Nemotron Speech. More is more accurate and slower.",
    ),
]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        help="float32, bfloat16 or float16: of the encoder.",
        show_default="float16 on a GPU, float32 on a CPU",
    ),
]
WeightsOption = Annotated[
    str | None,
    typer.Option("--weights", help="int8: the encoder's weights in 8 bits."),
]
KvOption = Annotated[
    str | None,
    typer.Option("--kv", help="int8: the attention's past in 8 bits; on a GPU."),
]
FinalPassOption = Annotated[
    str | None,
    typer.Option(
        help="What finals come from: stream; beam, that by beam search; full, a second pass at "
        "the widest look-ahead; or search, that by beam search.",
        show_default="the model's own",
    ),
]
LanguageModelOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="An n-gram model of the model's tokens (ARPA), for finals by search.",
        show_default="none",
    ),
]
SttOption = Annotated[
    str | None,
    typer.Option(
        "--stt",
        metavar="NAME",
        help="Another speech-to-text system, which takes --model as it knows it; voice-agent "
        "models lists them.",
        show_default="nemotron, this project's engine",
    ),
]
SttUrlOption = Annotated[
    str | None,
    typer.Option("--stt-url", metavar="URL", help="Address of that system, where it is a server."),
]
LanguageOption = Annotated[
    str | None,
    typer.Option("--language", metavar="CODE", help='What is spoken, such as "en" or "kn".'),
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Log what happens, on stderr.")
]


def _version(wanted: bool) -> None:
    if wanted:
        import voice_agent

        typer.echo(f"voice-agent {voice_agent.__version__}")
        raise typer.Exit()


@app.callback()
def voice_agent_command(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Take the options that stand before a command."""


@app.command()
def serve(
    config: ConfigOption = None,
    model: ModelOption = None,
    device: DeviceOption = None,
    right_context: RightContextOption = None,
    final_pass: FinalPassOption = None,
    language_model: LanguageModelOption = None,
    dtype: DtypeOption = None,
    weights: WeightsOption = None,
    kv: KvOption = None,
    stt: SttOption = None,
    stt_url: SttUrlOption = None,
    language: LanguageOption = None,
    llm_url: Annotated[
        str | None,
        typer.Option(help="Base URL of an OpenAI-compatible endpoint.", show_default="a stand-in"),
    ] = None,
    llm_model: Annotated[str | None, typer.Option(help="The model's name there.")] = None,
    tts: Annotated[
        str | None, typer.Option(help="espeak, kokoro, piper or nvidia.", show_default="espeak")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address.", show_default="127.0.0.1")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port; 0 picks one.", show_default="7860")
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Keys of clients.", show_default="serve this machine alone"
        ),
    ] = None,
    fd: Annotated[
        int | None,
        typer.Option(help="Serve on this inherited, listening socket instead of a port."),
    ] = None,
    transcription_only: Annotated[
        bool | None,
        typer.Option(
            "--transcription-only", help="No agent and no page: /v1 alone, without Pipecat."
        ),
    ] = None,
    front_ends: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Processes that talk to clients, a core each, beside one that owns the model.",
            show_default="all in one process",
        ),
    ] = None,
    verbose: VerboseOption = False,
) -> None:
    """Serve the agent: a page to talk to, WebRTC and a websocket."""
    from voice_agent.cli import serve as command

    code = command.run(
        config,
        {
            "language": language,
            "stt.name": stt,
            "stt.url": stt_url,
            "stt.model": model,
            "stt.device": device,
            "stt.right_context": right_context,
            "stt.final_pass": final_pass,
            "stt.language_model": language_model,
            "stt.dtype": dtype,
            "stt.weights": weights,
            "stt.kv": kv,
            "llm.url": llm_url,
            "llm.model": llm_model,
            "tts.name": tts,
            "server.host": host,
            "server.port": port,
            "server.keys": keys,
            "server.transcription_only": transcription_only,
            "server.front_ends": front_ends,
        },
        fd=fd,
        verbose=verbose,
    )
    raise typer.Exit(code)


@app.command()
def demo(
    config: ConfigOption = None,
    model: ModelOption = None,
    device: DeviceOption = None,
    right_context: RightContextOption = None,
    language: LanguageOption = None,
    clip: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Speech to play instead of the clip that we know."),
    ] = None,
    expect: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="What --clip says, to compare with what was heard."),
    ] = None,
    reply: Annotated[
        Path, typer.Option(metavar="FILE", help="Where the agent's answer is written.")
    ] = Path("out/demo-reply.wav"),
    verbose: VerboseOption = False,
) -> None:
    """Start a server, place one real call to it, and show what was heard and answered."""
    from voice_agent.cli import demo as command

    code = command.run(
        config,
        model=model,
        device=device,
        right_context=right_context,
        language=language,
        clip=clip,
        expect=expect,
        reply=reply,
        verbose=verbose,
    )
    raise typer.Exit(code)


@app.command()
def transcribe(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Audio files; - reads one from stdin.")
    ],
    config: ConfigOption = None,
    model: ModelOption = None,
    device: DeviceOption = None,
    right_context: RightContextOption = None,
    final_pass: FinalPassOption = None,
    language_model: LanguageModelOption = None,
    dtype: DtypeOption = None,
    weights: WeightsOption = None,
    kv: KvOption = None,
    stt: SttOption = None,
    stt_url: SttUrlOption = None,
    language: LanguageOption = None,
    format: Annotated[Format, typer.Option("--format", "-f", help="How to write it.")] = Format.txt,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="Write one file for each FILE there."
        ),
    ] = None,
    one_segment: Annotated[
        bool,
        typer.Option("--one-segment", help="Each file is one segment; the VAD is off."),
    ] = False,
    verbose: VerboseOption = False,
) -> None:
    """Transcribe audio files."""
    from voice_agent.cli import transcribe as command

    command.run(
        files,
        config,
        {
            "language": language,
            "stt.name": stt,
            "stt.url": stt_url,
            "stt.model": model,
            "stt.device": device,
            "stt.right_context": right_context,
            "stt.final_pass": final_pass,
            "stt.language_model": language_model,
            "stt.dtype": dtype,
            "stt.weights": weights,
            "stt.kv": kv,
        },
        format=format.value,
        output=output,
        one_segment=one_segment,
        verbose=verbose,
    )


@app.command()
def models() -> None:
    """List the models that are known by name, where they are, and how to get the rest."""
    from voice_agent.cli import models as command

    command.run()


app.command()(doctor)


@app.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
def bench(context: typer.Context) -> None:
    """Measure word error rate, the engine, the server; `bench --help` lists what."""
    # A sub-app would have to be imported to be listed.
    from voice_agent.bench import app as bench_app

    code = bench_app(args=context.args, prog_name="voice-agent bench", standalone_mode=False)
    raise typer.Exit(code or 0)


def main(args: Sequence[str] | None = None) -> None:
    """Run a command and exit: see `voice_agent.cli.errors` for the codes.

    Args:
        args: without the program's name; None for the process's own.

    Raises:
        SystemExit: always.
    """
    try:
        app(args=args, prog_name="voice-agent")
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        told = sentence(error)
        if told is None:
            raise
        print(f"voice-agent: {told}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
