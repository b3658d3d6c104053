"""A server of a model of the real size with random weights: what it says means nothing.

    python -m voice_agent.bench.shaped (--port N | --fd N)

Settings come from the environment, as for `voice-agent serve`; `stt.model` names the shape
(`voice_agent.bench.shapes`). Used by `voice-agent bench server --shape`.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import socket
import sys

from voice_agent.config import Settings, load_settings
from voice_agent.engine.recognizer import Recognizer

LOAD = "voice_agent.bench.shaped:load"


def load(settings: Settings) -> Recognizer:
    """Load random weights of the shape that `stt.model` names.

    Raises:
        ValueError: no such shape.
        EngineError: the device cannot be used.
    """
    import torch

    from voice_agent.bench.shapes import random_checkpoint
    from voice_agent.engine.loading import pick_device
    from voice_agent.engine.nemotron import NemotronRecognizer
    from voice_agent.engine.runner import EngineRunner
    from voice_agent.engine.text import Tokenizer

    device = pick_device(settings.stt.device)
    checkpoint = random_checkpoint(settings.stt.model)
    # Half of the tokens begin a word, as with the real tokenizer.
    surfaces = tuple(
        f"{' ' if i % 2 else ''}w{i}" for i in range(checkpoint.config.decoder.vocab_size)
    )
    checkpoint = dataclasses.replace(checkpoint, tokenizer=Tokenizer(surfaces))
    runner = EngineRunner(
        checkpoint,
        slots=settings.slots,
        device=device,
        dtype=torch.float16 if device.type == "cuda" else torch.float32,
    )
    return NemotronRecognizer(
        checkpoint,
        runner,
        slots=settings.slots,
        device=str(device),
        right_context=settings.stt.right_context,
        languages=("en",),
    )


def main() -> int:
    """Serve until SIGTERM; returns the exit code."""
    from voice_agent.cli import logs
    from voice_agent.processes.supervisor import Supervisor
    from voice_agent.server.listening import bind, bind_shared
    from voice_agent.server.serve import serve

    parser = argparse.ArgumentParser(description="Serve random weights.")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--port", type=int)
    where.add_argument("--fd", type=int)
    given = parser.parse_args()
    settings = load_settings()
    logs.set_up(False)
    host, front_ends = settings.server.host, settings.server.front_ends
    inherited = None if given.fd is None else socket.socket(fileno=given.fd)
    if not front_ends:
        sock = inherited or bind(host, given.port)
        sock.setblocking(False)
        return serve(settings, sock, on_ready=lambda _: None, load=load)
    sockets = [inherited] if inherited else bind_shared(host, given.port, front_ends)
    supervisor = Supervisor(settings, sockets, on_ready=lambda _: None, load=LOAD)
    return asyncio.run(supervisor.run())


if __name__ == "__main__":
    sys.exit(main())
