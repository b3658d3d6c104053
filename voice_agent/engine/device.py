"""What the scheduler hands to the device, and what the device is to it. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from voice_agent.engine.boosting import PhraseBoost
from voice_agent.engine.chunks import Chunks
from voice_agent.engine.emissions import Emissions
from voice_agent.engine.second_pass import SecondPass


class Runner(Protocol):
    """The device. Engine thread only.

    What a runner may have beside this, each on its own:

    launch(slots, pos, pcm, right) -> ticket, collect(ticket) -> Emissions
        `step` in two halves: the first returns at once, the second waits. Steps are collected in
        the order of their launch, and at most two are launched and not collected. A slot may be
        in both, with consecutive chunks.
    staging(lanes, window) -> array | None
        Where to put `pcm`, float32 (or int16: the samples as they are, 32768 for 1.0, if no lane
        was fed float32). Asked for once a step, so whoever gives one to write into while a launched
        step may still read takes turns between three. None: this step's comes from elsewhere.
    max_batch: int
        Lanes a step, at most.
    search(slot, chunks), rest(slot) -> Said
        Right after `reset`: the segment has so many chunks and is decoded by beam search. Its
        tokens come with the last of them, their frames counted from the beginning of that one.
        Where `chunks` is None they come as they are agreed on, and when the last chunk has been
        collected `rest` gives those that were not, their frames counted from the segment's first.

    Attributes:
        boosts: whether it can prefer phrases.
    """

    boosts: bool

    def reset(self, slot: int, language: str | None, boost: PhraseBoost | None) -> None:
        """A new segment begins in `slot`: what is known of it outside the device.

        The lane's next step has pos 0, by which the device forgets the segment before.

        Args:
            slot: of the stream.
            language: that the caller named.
            boost: phrases to prefer; None always where the runner cannot.
        """
        ...

    def step(self, slots: np.ndarray, pos: np.ndarray, pcm: np.ndarray, right: int) -> Emissions:
        """Compute one chunk a lane.

        Args:
            slots: int64, shape (n,): distinct slot of each lane.
            pos: int64, shape (n,): encoder frames of the lane's segment before this chunk.
            pcm: float32, or in `staging`'s dtype, shape (n, Chunks.window_samples); the runner
                may not keep it.
            right: right context of all lanes.
        """
        ...


Search = Callable[[int, int | None], None]
"""`Runner.search`."""
Recorder = Callable[[np.ndarray, np.ndarray, float], None]
"""Called after each step's events were posted: (slots, when the audio of each was there, now)."""


@dataclass(slots=True)
class Step:
    """What is on the device.

    Attributes:
        chunks: geometry of all lanes.
        slots: streaming lanes.
        epochs: their segments' (`Lanes.epoch`).
        numbers: their chunks' numbers in the segment.
        arrived: when their audio was there.
        passes: the lanes after those.
        began: when it was launched.
        result: ticket, or what came back already.
    """

    chunks: Chunks
    slots: np.ndarray
    epochs: np.ndarray
    numbers: np.ndarray
    arrived: np.ndarray
    passes: list[tuple[SecondPass, int]]
    began: float
    result: Any = None

    def __len__(self) -> int:
        return len(self.slots) + len(self.passes)
