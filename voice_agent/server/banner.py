"""The lines that a start prints: what was picked, on which device, why, and how to change it."""

from __future__ import annotations

import socket

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from voice_agent.alternatives.registry import licence_notice
from voice_agent.config import DEFAULT_SYSTEM, Settings
from voice_agent.engine.recognizer import Recognizer
from voice_agent.models import KNOWN

NEMOTRON = "nvidia/nemotron-speech-streaming-en-0.6b"
"""What somebody who wants more than the demonstration model would start with."""


def url_of(sock: socket.socket, *, tls: bool = False) -> str:
    """The address that a browser on this machine opens."""
    host, port = sock.getsockname()[:2]
    if host in ("127.0.0.1", "0.0.0.0", "::", "::1"):
        # Browsers give pages the microphone on https and on localhost alone.
        host = "localhost"
    elif ":" in host:
        host = f"[{host}]"
    return f"{'https' if tls else 'http'}://{host}:{port}"


def print_ready(
    console: Console,
    settings: Settings,
    recognizer: Recognizer,
    sock: socket.socket,
    loaded_in_s: float,
) -> None:
    """Say what is running.

    Args:
        console: where.
        settings: of the whole agent.
        recognizer: that was loaded.
        sock: that is listened on.
        loaded_in_s: seconds that loading took.
    """
    table = Table.grid(padding=(0, 2))
    for name, what in _rows(settings, recognizer):
        table.add_row(f"[bold]{name}[/bold]", escape(what))
    console.print(table)
    tls = settings.server.tls_certificate is not None
    url = url_of(sock, tls=tls)
    if not tls and not _is_loopback(settings.server.host):
        console.print(
            "Browsers of other machines give the page their microphone over https alone: from a "
            "proxy in front of this server, or with server.tls_certificate.",
            soft_wrap=True,
        )
    console.print(
        f"Ready after {loaded_in_s:.1f} s. Open [bold cyan]{url}[/bold cyan] and talk "
        f"(websocket: {url.replace('http', 'ws', 1)}/ws). Ctrl-C stops.",
        soft_wrap=True,
    )


def _rows(settings: Settings, recognizer: Recognizer) -> list[tuple[str, str]]:
    stt, llm, tts = settings.stt, settings.llm, settings.tts
    rows = [("model", f"{recognizer.name} on {_device(settings, recognizer)}")]
    if stt.name != DEFAULT_SYSTEM:
        rows.append(("", f"{stt.name}, chosen with stt.name; voice-agent models lists others"))
        if (notice := licence_notice(stt.name)) is not None:
            rows.append(("", notice))
    elif _is_embedded(stt.model):
        rows.append(
            (
                "",
                "a small demonstration model that came with the package: it mishears. For NVIDIA "
                f"Nemotron: voice-agent serve --model {NEMOTRON}",
            )
        )
    else:
        rows.append(("", "chosen with stt.model; voice-agent models lists others"))
    if llm.url is None:
        rows.append(
            (
                "llm",
                "the built-in stand-in, which answers from what it heard; --llm-url and "
                "--llm-model name an OpenAI-compatible endpoint",
            )
        )
    else:
        rows.append(("llm", f"{llm.model} at {llm.url}"))
    rows.append(("tts", f"{tts.name}; --tts changes it"))
    sessions = min(settings.server.max_sessions, settings.slots)
    rows.append(("sessions", f"{sessions} at once (server.max_sessions)"))
    if settings.server.keys is None:
        rows.append(("open to", "this machine alone; --keys names a file of keys for others"))
    else:
        rows.append(("open to", f"clients with a key of {settings.server.keys}"))
    return rows


def _device(settings: Settings, recognizer: Recognizer) -> str:
    device = getattr(recognizer, "device", "an unnamed device")
    if settings.stt.device != "auto":
        return f"{device}, as asked for"
    if str(device).startswith("cuda"):
        return f"{device}, because torch sees a CUDA GPU; --device cpu overrides"
    return f"{device}, because torch sees no CUDA GPU; --device cuda insists on one"


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _is_embedded(model: str) -> bool:
    known = KNOWN.get(model)
    return known is not None and known.kind == "embedded"
