"""`voice-agent demo`: what it shows on the screen, and its exit code."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from voice_agent.cli import logs
from voice_agent.cli.errors import EXIT_FAILED, UsageFault

if TYPE_CHECKING:
    from voice_agent.demo.call import Heard, HeardFinal
    from voice_agent.demo.clip import Clip

READY_LIMIT_S = 600.0
"""Seconds for a start; a model that is fetched first takes minutes."""


def run(
    config: Path | None,
    *,
    model: str | None,
    device: str | None,
    right_context: int | None,
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
    console = Console(highlight=False)
    with console.status("importing aiortc, reading the clip"):
        from voice_agent.demo.clip import known_clip, load_clip
        from voice_agent.demo.server import ServerProcess

        played = known_clip() if clip is None else load_clip(clip, expect)
    flags = {
        "--config": config,
        "--model": model,
        "--device": device,
        "--right-context": right_context,
    }
    given = [text for flag, value in flags.items() if value is not None for text in (flag, value)]

    console.print("[dim]starting a server: voice-agent serve[/dim]")
    started = time.monotonic()
    with ServerProcess([str(text) for text in given]) as server:
        with console.status("") as status:
            name = server.wait_until_ready(
                READY_LIMIT_S, lambda text: status.update(f"{server.url}: {text}")
            )
        console.print(
            f"[dim]{server.url} is ready with {name} after {time.monotonic() - started:.1f} s[/dim]"
        )
        console.print(
            f"[dim]calling it over WebRTC and playing {played.name}, {played.seconds:.1f} s, "
            "as fast as it was spoken[/dim]"
        )
        heard = asyncio.run(_call(server.url, played, console))
    _write_reply(reply, heard)
    return _judge(console, played, heard, reply, server.exit_code)


async def _call(url: str, clip: Clip, console: Console) -> Heard:
    from voice_agent.demo.call import Listener, place_call

    began = time.monotonic()

    def stamp() -> str:
        return f"[dim]{time.monotonic() - began:5.1f} s[/dim]"

    def final(heard: HeardFinal) -> None:
        console.print(
            f"{stamp()} [bold]you   [/bold] {heard.text} "
            f"[dim]({heard.language or 'language unknown'}, final "
            f"{_ms(heard.after_speech_s)} after speech)[/dim]",
            soft_wrap=True,
        )

    return await place_call(
        url,
        clip,
        Listener(
            on_connected=lambda: console.print(f"{stamp()} connected"),
            on_partial=lambda text: console.print(
                f"{stamp()} [dim]      … {text}[/dim]", soft_wrap=True
            ),
            on_final=final,
            on_said=lambda text: console.print(
                f"{stamp()} [bold cyan]agent [/bold cyan] {text}", soft_wrap=True
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

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, heard.reply, CLIP_RATE, subtype="PCM_16")


def _judge(console: Console, clip: Clip, heard: Heard, reply: Path, server_exit: int | None) -> int:
    from voice_agent.demo.verdict import complaints, share_heard

    text = " ".join(final.text for final in heard.finals)
    wrong = complaints(clip, heard)
    if server_exit != 0:
        wrong.append(f"the server ended with exit code {server_exit} instead of 0")
    console.print()
    if clip.text is not None and text:
        console.print(f"said   {clip.text}", soft_wrap=True)
        console.print(f"heard  {text}", soft_wrap=True)
        console.print(f"       {share_heard(clip.text, text):.0%} of the words, in order")
    console.print(
        f"       {heard.partials} partials, {len(heard.finals)} finals; "
        f"reply of {heard.voiced_s:.1f} s" + (f" in {reply}" if heard.reply.size else "")
    )
    if wrong:
        console.print(f"[bold red]The call was not as it should be:[/bold red] {'; '.join(wrong)}.")
        return EXIT_FAILED
    console.print("[bold green]The call was as it should be.[/bold green]")
    return 0
