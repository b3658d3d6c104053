"""What front-ends in other processes need of an engine to take part of its work over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from voice_agent.engine.rings import Rings
from voice_agent.engine.taking import Takers
from voice_agent.engine.text import Tokenizer


@dataclass(frozen=True, slots=True)
class Outside:
    """Of a recogniser with a scheduler.

    Attributes:
        rings: of its streams, to be fed.
        wake: a stream has become ready while the engine thread sleeps; from any thread.
        takers: who takes which stream's tokens.
        tokenizer: what the tokens mean.
        frame_s: seconds of an encoder frame.
        language: of what is written, unless its stream or its text says another.
    """

    rings: Rings
    wake: Callable[[], None]
    takers: Takers
    tokenizer: Tokenizer
    frame_s: float
    language: str | None = None
