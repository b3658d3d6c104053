"""`voice-agent models`: what is there, where, and how to get the rest; what --stt knows."""

from __future__ import annotations

from rich.console import Console

from voice_agent.alternatives.registry import SYSTEMS
from voice_agent.config import DEFAULT_SYSTEM
from voice_agent.models import ModelStatus, describe


def run() -> None:
    """Print every known model, and every other system."""
    console = Console(soft_wrap=True, highlight=False)
    for status in describe():
        _print(console, status)
    console.print(
        "Besides these, --model takes a path to a .nemo file, a folder that holds one, or any "
        "Hugging Face id (owner/name)."
    )
    console.print("\n[bold]Other systems[/bold], for --stt:")
    for system in SYSTEMS.values():
        if system.name != DEFAULT_SYSTEM:
            extra = f"pip install 'voice-agent[{system.extra}]'" if system.extra else "no extra"
            limit = "" if system.commercial else f"; {system.licence}: no commercial use"
            console.print(f"    {system.name}: {system.how} ({extra}{limit})", markup=False)


def _print(console: Console, status: ModelStatus) -> None:
    info = status.info
    languages = ", ".join(info.languages)
    console.print(f"[bold]{info.name}[/bold]  ({info.kind}, {languages})")
    console.print(f"    {info.summary}")
    if status.path is not None:
        console.print(f"    here: {status.path}", markup=False)
    else:
        console.print(f"    not here; to get it: {status.how_to_get}", markup=False)
