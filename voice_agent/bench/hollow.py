"""A recogniser without a model: the real scheduler over a device that only takes time.

What is measured with it is the host alone: how many streams it carries, and how long they wait
for anything but the model. No torch.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from voice_agent.engine.chunks import Chunks
from voice_agent.engine.emissions import Emissions
from voice_agent.engine.outside import Outside
from voice_agent.engine.recognizer import Deliver, OnEvent, StreamOptions, deliver_here
from voice_agent.engine.scheduler import Recorder, Scheduler
from voice_agent.engine.stats import Stats
from voice_agent.engine.streams import EngineStream
from voice_agent.engine.text import Tokenizer, Transcript

_SURFACES = (" the", " of", " a", "nd", " t", "ing", " s", "er", " w", "o", "re", "on", "e", "s")
FRAME_S = 0.08


class HollowRunner:
    """A device that computes one step after another, `fixed_s` + `lane_s` a lane each.

    What it says is random: on average `tokens_a_frame` for a lane and encoder frame.
    """

    boosts = False

    def __init__(self, fixed_s: float, lane_s: float, tokens_a_frame: float, batch: int) -> None:
        self.max_batch = batch
        self._fixed_s = fixed_s
        self._lane_s = lane_s
        self._tokens_a_frame = tokens_a_frame
        self._random = np.random.default_rng(0)
        self._free_at = 0.0

    def reset(self, slot: int, language: str | None, boost: Any) -> None:
        """Nothing is kept."""

    def launch(
        self, slots: np.ndarray, pos: np.ndarray, pcm: np.ndarray, right: int
    ) -> tuple[int, int, float]:
        """Begin a step once the one before is done, which is waited for, as `EngineRunner` does."""
        self._wait_until(self._free_at)
        self._free_at = time.monotonic() + self._fixed_s + self._lane_s * len(slots)
        return len(slots), right + 1, self._free_at

    @staticmethod
    def _wait_until(done_at: float) -> None:
        if (left := done_at - time.monotonic()) > 0:
            time.sleep(left)

    def collect(self, ticket: tuple[int, int, float]) -> Emissions:
        """Wait until the step's time is over."""
        lanes, frames, done_at = ticket
        self._wait_until(done_at)
        counts = self._random.poisson(self._tokens_a_frame * frames, lanes)
        said = int(counts.sum())
        return Emissions(
            np.repeat(np.arange(lanes, dtype=np.int32), counts),
            self._random.integers(0, len(_SURFACES), said, np.int32),
            np.zeros(said, np.int32),
            np.full(said, 0.9, np.float32),
        )

    def step(self, slots: np.ndarray, pos: np.ndarray, pcm: np.ndarray, right: int) -> Emissions:
        """See `voice_agent.engine.scheduler.Runner.step`."""
        return self.collect(self.launch(slots, pos, pcm, right))


class HollowRecognizer:
    """The scheduler, its streams and transcripts over a `HollowRunner`. Implements `Recognizer`."""

    name = "hollow"
    languages: tuple[str, ...] = ()
    streaming = True

    def __init__(
        self,
        *,
        slots: int,
        fixed_s: float,
        lane_s: float = 0.0,
        tokens_a_frame: float = 0.3,
        right_contexts: tuple[int, ...] = (0, 1, 6, 13),
    ) -> None:
        """Start it. Geometry is Nemotron Speech's.

        Args:
            slots: streams at most.
            fixed_s: of a step.
            lane_s: more for each lane.
            tokens_a_frame: said by a lane on average; people speak about 0.3.
            right_contexts: look-aheads; the first is the default.
        """
        self.right_contexts = right_contexts
        tokenizer = Tokenizer(_SURFACES)
        self._scheduler = Scheduler(
            HollowRunner(fixed_s, lane_s, tokens_a_frame, slots),
            {
                right: Chunks(right, hop=160, edge=200, n_fft=512, factor=8, receptive=15)
                for right in right_contexts
            },
            lambda: Transcript(tokenizer, FRAME_S),
            slots=slots,
        )
        self.outside = Outside(
            self._scheduler.rings, self._scheduler.wake, self._scheduler.takers, tokenizer, FRAME_S
        )
        self._scheduler.start("engine-hollow")

    @property
    def stats(self) -> Stats:
        """Counters of the engine thread."""
        return self._scheduler.stats

    def record_lags(self, recorder: Recorder | None) -> None:
        """See `NemotronRecognizer.record_lags`."""
        self._scheduler.recorder = recorder

    def chunk_s(self, right_context: int | None = None) -> float:
        """Seconds of a chunk."""
        return ((right_context or self.right_contexts[0]) + 1) * FRAME_S

    def open(
        self,
        on_event: OnEvent,
        *,
        deliver: Deliver = deliver_here,
        options: StreamOptions | None = None,
    ) -> EngineStream:
        """Claim a slot; see `Recognizer.open`."""
        options = options or StreamOptions()
        right = options.right_context
        right = self.right_contexts[0] if right is None else right
        return self._scheduler.open(on_event, deliver, options, right)

    def close(self) -> None:
        """Stop the engine thread."""
        self._scheduler.stop()
