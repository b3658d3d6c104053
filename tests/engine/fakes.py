"""A device, a clock and transcripts for the scheduler's tests: no torch, and no time passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from voice_agent.engine.chunks import Chunks
from voice_agent.engine.emissions import Emissions
from voice_agent.engine.recognizer import Deliver, Event, StreamOptions, deliver_here
from voice_agent.engine.scheduler import Scheduler
from voice_agent.engine.streams import EngineStream

CHUNKS = {
    right: Chunks(right=right, hop=160, edge=200, n_fft=512, factor=8, receptive=15)
    for right in (0, 6)
}


@dataclass
class FakeRunner:
    """Says one token a chunk: the loudest sample of the window, so that audio can be traced."""

    steps: list[tuple[list[int], list[int], int]] = field(default_factory=list)
    windows: list[np.ndarray] = field(default_factory=list)
    resets: list[int] = field(default_factory=list)
    during: Callable[[], object] | None = None
    boosts = False

    def reset(self, slot, language, boost):
        self.resets.append(slot)

    def step(self, slots, pos, pcm, right):
        assert len(set(slots.tolist())) == len(slots), "a slot twice in a step"
        self.steps.append((slots.tolist(), pos.tolist(), right))
        scaled = pcm / np.float32(32768) if pcm.dtype == np.int16 else pcm.copy()
        self.windows.append(scaled)
        if self.during:
            self.during()
        return Emissions.by_lane([([round(float(row.max()) * 1000)], [0], [1.0]) for row in scaled])

    def heard(self, slot: int) -> list[list[np.ndarray]]:
        """The windows that came for a slot, by segment."""
        segments: list[list[np.ndarray]] = []
        for (slots, pos, _), windows in zip(self.steps, self.windows, strict=True):
            if slot in slots:
                lane = slots.index(slot)
                if pos[lane] == 0:
                    segments.append([])
                segments[-1].append(windows[lane])
        return segments


@dataclass
class AheadRunner(FakeRunner):
    """The same in two halves; `during` runs between them."""

    flying: list[Emissions] = field(default_factory=list)
    most: int = 0

    def launch(self, slots, pos, pcm, right):
        during, self.during = self.during, None
        self.flying.append(self.step(slots, pos, pcm, right))
        self.during = during
        self.most = max(self.most, len(self.flying))
        return self.flying[-1]

    def collect(self, ticket):
        if self.during:
            self.during()
        assert self.flying.pop(0) is ticket, "collected out of order"
        return ticket


class FakeTranscript:
    """Tokens, and nothing more."""

    language = None

    def __init__(self):
        self.tokens = []

    def append(self, token, frame, prob):
        self.tokens.append(token)

    def words(self, audio_s, count=None):
        return ()

    @property
    def text(self):
        return " ".join(map(str, self.tokens))


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def scheduler(runner, slots: int = 3, **options) -> Scheduler:
    return Scheduler(runner, CHUNKS, FakeTranscript, slots=slots, clock=Clock(), **options)


def opened(
    engine: Scheduler, right: int = 0, deliver: Deliver = deliver_here, **options
) -> tuple[EngineStream, list[Event]]:
    events: list[Event] = []
    return engine.open(events.append, deliver, StreamOptions(**options), right), events


def run(engine: Scheduler) -> None:
    """Ticks until nobody is ready."""
    engine.take_requests(wait=False)
    while engine.tick():
        engine.take_requests(wait=False)


def level(value: float, samples: int = 1280) -> np.ndarray:
    return np.full(samples, value, dtype=np.float32)


def windows_of(audio: np.ndarray, right: int, chunks: Chunks | None = None) -> list[np.ndarray]:
    """What a finished segment's chunks are computed from, one after another."""
    chunks = chunks or CHUNKS[right]
    if audio.dtype == np.int16:
        audio = audio / np.float32(32768)
    windows = []
    for chunk in range(chunks.total(len(audio))):
        start, stop = chunks.window(chunk)
        window = np.zeros(stop - start, np.float32)
        stop = min(stop - chunks.unread, len(audio))
        first = max(start, 0)
        if first < stop:
            window[first - start : stop - start] = audio[first:stop]
        windows.append(window)
    return windows
