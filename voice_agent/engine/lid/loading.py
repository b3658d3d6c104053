"""From a backend's name to a language identifier that is ready."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voice_agent.engine.errors import ModelNotFound

if TYPE_CHECKING:
    from voice_agent.engine.lid.base import LanguageIdentifier

BACKENDS = ("embedded", "ambernet", "ecapa", "whisper")


def load_language_identifier(
    backend: str = "embedded", *, model: str | None = None, device: str = "auto"
) -> LanguageIdentifier:
    """Load an identifier. Slow (seconds) for all but the embedded one: not for an event loop.

    Args:
        backend: one of `BACKENDS`.
        model: a path or name that the backend knows; None for its default.
        device: "auto", "cpu", "cuda" or "cuda:N"; the embedded one always takes the CPU.

    Raises:
        ModelNotFound: an unknown backend, a missing package or file; says what to install.
        CorruptCheckpoint: a file is damaged.
    """
    if backend == "embedded":
        from pathlib import Path

        from voice_agent.engine.lid.tiny import TinyIdentifier

        return TinyIdentifier(Path(model) if model else None)
    if backend == "ambernet":
        from voice_agent.engine.lid.ambernet import AmberNetIdentifier

        return AmberNetIdentifier(model, device=device)
    if backend == "ecapa":
        from voice_agent.engine.lid.ecapa import EcapaIdentifier

        return EcapaIdentifier(model, device=device)
    if backend == "whisper":
        from voice_agent.engine.lid.whisper import WhisperIdentifier

        return WhisperIdentifier(model, device=device)
    raise ModelNotFound(backend, f"no such language identifier; choose {', '.join(BACKENDS)}")
