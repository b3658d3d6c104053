"""Recognisers that speak when they are told to, and an identifier that hears what it is fed.

Nothing here has a thread or a clock, so a test chooses the order of events. Audio of a language
is a constant level: the identifier's posterior is the share of the samples at that level, and a
recogniser's text says how many samples it heard, so that a lost one shows.
"""

from __future__ import annotations

import threading

import numpy as np

from voice_agent.engine.errors import EngineClosed, EngineError, EngineFull, StreamClosed
from voice_agent.engine.gate import LanguageDecided
from voice_agent.engine.gate_ear import Ear
from voice_agent.engine.gate_policy import GateSettings
from voice_agent.engine.gate_stream import GatedStream
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


class Caller:
    """A gated stream with everything that a test turns the handle of."""

    def __init__(self, *, languages=("en", "kn"), slots=8, options=None, **settings):
        settings = {"patience_s": 60.0, **settings}
        self.recognizers = {code: ManualRecognizer(code, slots) for code in languages}
        self.identifier = LevelIdentifier(languages)
        self.ear = Ear(self.identifier)
        self.events: list = []
        self.final_came = threading.Event()
        self.observed: list = []
        self.stream = GatedStream(
            self.recognizers,
            GateSettings(languages=tuple(languages), **settings),
            self.ear,
            self._take,
            deliver=deliver_here,
            options=options or StreamOptions(),
            observe=self.observed.append,
        )

    def _take(self, event):
        self.events.append(event)
        if isinstance(event, Final):
            self.final_came.set()

    @property
    def en(self):
        """The stream that every segment starts on."""
        return self.recognizers["en"].opened[0]

    @property
    def kn(self):
        """The newest stream of the other recogniser."""
        return self.recognizers["kn"].opened[-1]

    def say(self, language, seconds):
        """Feed speech in pieces of 80 ms, letting the ear answer as it goes."""
        pcm = speech(language, seconds) if language else silence(seconds)
        for start in range(0, len(pcm), 1280):
            self.stream.feed(pcm[start : start + 1280])
            self.hear()

    def hear(self):
        while self.ear.answer():
            pass

    def end(self):
        self.stream.finish()
        self.hear()

    def of(self, kind):
        return [e for e in self.events if isinstance(e, kind)]

    def told(self):
        """The events in short."""
        short = {Partial: "partial", Final: "final", LanguageDecided: "decided"}
        return [
            (short[type(e)], e.language) if type(e) in short else type(e).__name__
            for e in self.events
        ]
