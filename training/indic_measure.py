"""Runs audio through a model directory with the engine itself."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from voice_agent.engine.indic_conformer import load_indic_conformer
from voice_agent.engine.recognizer import Event, Failed, Final, StreamOptions


def transcripts(
    folder: Path | str, audio: Sequence[np.ndarray], language: str, threads: int = 1
) -> list[str]:
    """Return the final text of each clip (int16 or float32, 16 kHz)."""
    recognizer = load_indic_conformer(str(folder), device="cpu", threads=threads)
    try:
        return [_final(recognizer, clip, language).text for clip in audio]
    finally:
        recognizer.close()


def _final(recognizer: object, clip: np.ndarray, language: str) -> Final:
    done, events = threading.Event(), []

    def take(event: Event) -> None:
        events.append(event)
        done.set()

    options = StreamOptions(language=language, partials=False)
    stream = recognizer.open(take, options=options)  # type: ignore[attr-defined]
    stream.feed(clip)
    stream.finish()
    done.wait()
    stream.close()
    if isinstance(events[0], Failed):
        raise events[0].error
    return events[0]
