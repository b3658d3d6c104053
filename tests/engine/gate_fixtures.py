"""Recognisers that speak when they are told to, and an identifier that hears what it is fed.

Nothing here has a thread or a clock, so a test chooses the order of events. Audio of a language
is a constant level: the identifier's posterior is the share of the samples at that level, and a
recogniser's text says how many samples it heard, so that a lost one shows.
"""

from __future__ import annotations

import numpy as np

from voice_agent.engine.errors import EngineClosed, EngineError, EngineFull, StreamClosed
from voice_agent.engine.lid import LanguageScores, speech_seconds
from voice_agent.engine.recognizer import (
    SAMPLE_RATE,
    Failed,
    Final,
    Partial,
    StreamOptions,
    as_float32,
    deliver_here,
)

LEVELS = {"en": 0.2, "kn": 0.4, "hi": 0.6, "noise": 0.8, "silence": 0.0}


def speech(language: str, seconds: float) -> np.ndarray:
    return np.full(round(seconds * SAMPLE_RATE), LEVELS[language], np.float32)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


class ManualStream:
    """Owes a final for each finish; `partial()` and `final()` let the next event out."""

    def __init__(self, owner, on_event, deliver, options):
        self.owner, self.on_event, self.deliver, self.options = owner, on_event, deliver, options
        self.finished: list[int] = []  # samples of segments whose finals are owed
        self.heard = 0
        self.closed = False

    def feed(self, pcm):
        samples = as_float32(pcm)
        self._check()
        self.heard += samples.size

    def finish(self):
        self._check()
        self.finished.append(self.heard)
        self.heard = 0

    def cancel(self):
        self._check()
        self.heard = 0

    def close(self):
        self.closed = True
        if self in self.owner.streams:
            self.owner.streams.remove(self)

    def partial(self) -> bool:
        """Let a partial of the oldest segment out; False where nothing was heard."""
        heard = self.finished[0] if self.finished else self.heard
        if heard and self.options.partials:
            self._emit(Partial(self.text(heard), audio_end_s=heard / SAMPLE_RATE))
        return bool(heard)

    def final(self) -> bool:
        """Let the oldest final out; False where none is owed."""
        if not self.finished:
            return False
        heard = self.finished.pop(0)
        self._emit(Final(self.text(heard), audio_s=heard / SAMPLE_RATE))
        return True

    def fail(self, problem="out of memory"):
        self._emit(Failed(EngineError(problem)))

    def text(self, samples: int) -> str:
        return f"{self.owner.code} {samples}"

    def _emit(self, event):
        if not self.closed:
            self.deliver(lambda: self.on_event(event))

    def _check(self):
        if self.owner.dead:
            raise EngineClosed(f"{self.owner.name} died")
        if self.closed:
            raise StreamClosed("closed")


class ManualRecognizer:
    streaming = True

    def __init__(self, code: str, slots: int = 8):
        self.code, self.name, self.languages, self.slots = code, f"rec-{code}", (code,), slots
        self.streams: list[ManualStream] = []
        self.opened: list[ManualStream] = []
        self.dead = False

    def open(self, on_event, *, deliver=deliver_here, options=None):
        if self.dead:
            raise EngineClosed(f"{self.name} died")
        if len(self.streams) >= self.slots:
            raise EngineFull(self.slots)
        stream = ManualStream(self, on_event, deliver, options or StreamOptions())
        self.streams.append(stream)
        self.opened.append(stream)
        return stream

    def close(self):
        self.dead = True


class LevelIdentifier:
    """See the module docstring. `error` is raised where it is set."""

    name = "levels"

    def __init__(self, languages=("en", "kn")):
        self.languages = (*languages, "other")
        self.heard: list[float] = []  # seconds of audio that each question gave
        self.error: Exception | None = None

    def identify(self, pcm):
        self.heard.append(len(pcm) / SAMPLE_RATE)
        if self.error is not None:
            raise self.error
        loud = pcm[np.abs(pcm) > 0.01]
        total = max(1, loud.size)
        share = {
            code: float(np.isclose(loud, LEVELS[code], atol=1e-3).sum()) / total
            for code in self.languages
            if code in LEVELS
        }
        return LanguageScores({**share, "other": 1.0 - sum(share.values())}, speech_seconds(pcm))
