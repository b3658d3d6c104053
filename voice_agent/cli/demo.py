"""`voice-agent demo`: what it shows on the screen, and its exit code."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from voice_agent.cli import logs
from voice_agent.cli.errors import EXIT_FAILED, UsageFault

if TYPE_CHECKING:
    from voice_agent.demo.call import Heard, HeardFinal
    from voice_agent.demo.clip import Clip
    from voice_agent.demo.server import ServerProcess

READY_LIMIT_S = 600.0
"""Seconds for a start; a model that is fetched first takes minutes."""

_STILL_WAITING_S = 10.0  # between lines that say so, where no spinner turns


def run(
    config: Path | None,
    *,
    model: str | None,
    device: str | None,
    right_context: int | None,
    language: str | None,
    clip: str | None,
    expect: str | None,
    reply: Path,
    verbose: bool,
) -> int:
    """Start a server, call it, judge the call.

    Args:
        config: settings file of the server.
        model: recogniser of the server.
        device: where it runs.
        right_context: its look-ahead.
        language: that the clip is in.
        clip: recording to play; None for the one that we know.
        expect: what `clip` says.
        reply: where the agent's voice is written.
        verbose: log what happens.

    Returns:
        0 if the words and the reply came, 1 otherwise.
    """
    logs.set_up(verbose)
    if expect is not None and clip is None:
        raise UsageFault("--expect says what --clip says; give both")
    if reply.is_dir():
        raise UsageFault(f"--reply {reply} is a folder; name a WAV file")
    reply.parent.mkdir(parents=True, exist_ok=True)  # before the call, whose answer it is to hold
    console = Console(highlight=False, soft_wrap=True)
    with console.status("importing aiortc, reading the clip"):
        from voice_agent.demo.clip import known_clip, load_clip
        from voice_agent.demo.server import ServerProcess

        played = known_clip() if clip is None else load_clip(clip, expect)
    flags = {
        "--config": config,
        "--model": model,
        "--device": device,
        "--right-context": right_context,
        "--language": language,
    }
    given = [text for flag, value in flags.items() if value is not None for text in (flag, value)]

    console.print("[dim]starting a server: voice-agent serve[/dim]")
    started = time.monotonic()
    with ServerProcess([str(text) for text in given]) as server:
        name = _wait(server, console)
        console.print(
            f"[dim]{server.url} is ready with {escape(name)} "
            f"after {time.monotonic() - started:.1f} s[/dim]"
        )
        console.print(
            f"[dim]calling it over WebRTC and playing {played.name}, {played.seconds:.1f} s, "
            "as fast as it was spoken[/dim]"
        )
        heard = asyncio.run(_call(server.url, played, console))
    _write_reply(reply, heard)
    return _judge(console, played, heard, reply, server.exit_code)


def _wait(server: ServerProcess, console: Console) -> str:
    """Show what the server waits for, until it is ready; the model's name."""
    began = told = time.monotonic()
    with console.status("") as spinner:

        def show(status: str) -> None:
            nonlocal told
            now = time.monotonic()
            spinner.update(f"{server.url}: {escape(status)}")
            if not console.is_terminal and now - told >= _STILL_WAITING_S:
                console.print(f"{escape(status)} ({now - began:.0f} s)")
                told = now

        return server.wait_until_ready(READY_LIMIT_S, show)


async def _call(url: str, clip: Clip, console: Console) -> Heard:
    from voice_agent.demo.call import Listener, place_call

    began = time.monotonic()

    def stamp() -> str:
        return f"[dim]{time.monotonic() - began:5.1f} s[/dim]"

    def final(heard: HeardFinal) -> None:
        console.print(
            f"{stamp()} [bold]you   [/bold] {escape(heard.text)} "
            f"[dim]({heard.language or 'language unknown'}, final "
            f"{_ms(heard.after_speech_s)} after speech)[/dim]"
        )

    return await place_call(
        url,
        clip,
        Listener(
            on_connected=lambda: console.print(f"{stamp()} connected"),
            on_partial=lambda text: console.print(f"{stamp()} [dim]      … {escape(text)}[/dim]"),
            on_final=final,
            on_said=lambda text: console.print(
                f"{stamp()} [bold cyan]agent [/bold cyan] {escape(text)}"
            ),
            on_voice=lambda seconds: console.print(
                f"{stamp()} [cyan]agent  speaks[/cyan] [dim](voice to voice {_ms(seconds)})[/dim]"
            ),
        ),
    )


def _ms(seconds: float | None) -> str:
    return "?" if seconds is None else f"{seconds * 1000:.0f} ms"


def _write_reply(path: Path, heard: Heard) -> None:
    if not heard.reply.size:
        return
    import soundfile

    from voice_agent.demo.clip import CLIP_RATE

    soundfile.write(path, heard.reply, CLIP_RATE, subtype="PCM_16", format="WAV")


def _judge(console: Console, clip: Clip, heard: Heard, reply: Path, server_exit: int | None) -> int:
    from voice_agent.demo.verdict import complaints, word_error_rate

    text = " ".join(final.text for final in heard.finals)
    wrong = complaints(clip, heard)
    if server_exit != 0:
        wrong.append(f"the server ended with exit code {server_exit} instead of 0")
    console.print()
    if clip.text is not None and text:
        console.print(f"said   {clip.text}", markup=False)
        console.print(f"heard  {text}", markup=False)
        console.print(f"       word error rate {word_error_rate(clip.text, text):.0%}")
    console.print(
        f"       {heard.partials} partials, {len(heard.finals)} finals; "
        f"reply of {heard.voiced_s:.1f} s" + (f" in {reply}" if heard.reply.size else "")
    )
    if wrong:
        console.print(f"[bold red]The call was not as it should be:[/bold red] {'; '.join(wrong)}.")
        return EXIT_FAILED
    console.print("[bold green]The call was as it should be.[/bold green]")
    return 0
