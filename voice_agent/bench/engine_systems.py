"""What steps: our engine, and what it is measured beside. One interface for all.

A system is given windows of PCM, one array a step, and says how long each step took and what each
lane said. The iterator decides how many steps there are; what it does between two steps (drawing
audio, looking at a clock) is not counted.
"""

from __future__ import annotations

import gc
import inspect
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from voice_agent.bench.engine_audio import staged
from voice_agent.bench.engine_floor import times_s
from voice_agent.engine.errors import EngineError

if TYPE_CHECKING:
    import torch

    from voice_agent.engine.checkpoint import Checkpoint
    from voice_agent.engine.runner import EngineRunner


@dataclass(slots=True)
class Streamed:
    """What came of some steps.

    Attributes:
        step_s: seconds of each step.
        tokens: by lane.
        counts: tokens of all lanes, by step; empty where the system does not say.
    """

    step_s: list[float]
    tokens: list[list[int]]
    counts: list[int] = field(default_factory=list)


class System(Protocol):
    """Something that can be streamed through.

    Attributes:
        name: in the table.
        includes: which parts of a step its times hold.
    """

    name: str
    includes: str

    def stream(self, windows: Iterable[np.ndarray], right: int) -> Streamed:
        """Begin a segment in every lane, and step through it.

        Args:
            windows: one array a step, shape (lanes, Chunks.window_samples), from a segment's
                first chunk on.
            right: right context of all lanes.
        """
        ...


class Ours:
    """`EngineRunner`, from PCM on the host to tokens on the host."""

    name = "voice-agent"
    includes = "features, encoder, decoder"

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        slots: int,
        device: torch.device | str,
        dtype: torch.dtype,
        threads: int | None = None,
        **options: Any,
    ) -> None:
        """Make the runner.

        Args:
            checkpoint: weights.
            slots: lanes at most.
            device: where.
            dtype: of the encoder.
            threads: of one operation on a CPU.
            options: `weights` and `kv`, "int8" or None, where the runner knows them.

        Raises:
            EngineError: an option that this engine's runner does not have.
        """
        self.runner: Any = make_runner(
            checkpoint, slots=slots, device=device, dtype=dtype, threads=threads, **options
        )
        self.slots = slots
        # Lanes of a real tick do not lie side by side in the pool.
        self._order = np.random.default_rng(0).permutation(slots).astype(np.int64)

    def stream(self, windows: Iterable[np.ndarray], right: int) -> Streamed:
        """See `System.stream`."""
        out = Streamed([], [])
        for step, window in enumerate(windows):
            lanes = len(window)
            slots = self._order[:lanes]
            if step == 0:
                out.tokens = [[] for _ in range(lanes)]
                for slot in slots:
                    self.runner.reset(int(slot), None, None)
            pos = np.full(lanes, step * (right + 1), np.int64)
            pcm = staged(self.runner, window)
            began = time.perf_counter()
            said = self.runner.step(slots, pos, pcm, right)
            out.step_s.append(time.perf_counter() - began)
            out.counts.append(0)
            for lane, token in _spoken(said):
                out.tokens[lane].append(token)
                out.counts[-1] += 1
        return out

    def parts(self, lanes: int, right: int, window: np.ndarray) -> dict[str, float]:
        """Median ms of the parts that this runner can run alone: of what it captured, or eagerly.

        Args:
            lanes: that the last stream had.
            right: right context.
            window: PCM of one step.

        Returns:
            By "features", "encoder", "decoder"; those that cannot be run alone are missing.
        """
        device = self.runner.device
        works: dict[str, Callable[[], Any]]
        if getattr(self.runner, "graphs", None) is not None:
            works = self.runner.parts(lanes, right)
        elif device.type == "cpu":
            works = _eager_parts(self.runner, self._order[:lanes], right, window)
        else:
            return {}  # run alone and uncaptured they take longer than within the step
        return {name: 1000 * float(np.median(times_s(w, device, 20))) for name, w in works.items()}


def make_runner(checkpoint: Checkpoint, **options: Any) -> EngineRunner:
    """An `EngineRunner` with those options that were given.

    Raises:
        EngineError: an option that it does not have.
    """
    from voice_agent.engine.runner import EngineRunner

    given = {name: value for name, value in options.items() if value is not None}
    known = inspect.signature(EngineRunner.__init__).parameters
    if "max_batch" not in known:
        given.pop("max_batch", None)
    for name in given:
        if name not in known:
            raise EngineError(
                f"--{name} {given[name]}: this engine's runner has no option {name!r}; leave it out"
            )
    return EngineRunner(checkpoint, **given)


def plain_runner(checkpoint: Checkpoint, slots: int, device: torch.device | str) -> EngineRunner:
    """A float32 runner of the plain modules, on any device: no kernels, nothing captured."""
    from voice_agent.engine.runner import EngineRunner

    known = inspect.signature(EngineRunner.__init__).parameters
    plain: dict[str, Any] = {"kernels": False} if "kernels" in known else {}
    return EngineRunner(checkpoint, slots=slots, device=device, **plain)


def release(device: torch.device) -> None:
    """Give back what nobody holds any more, before somebody else asks for it."""
    gc.collect()
    if device.type == "cuda":
        import torch

        torch.cuda.empty_cache()


def _eager_parts(
    runner: EngineRunner, order: np.ndarray, right: int, window: np.ndarray
) -> dict[str, Callable[[], Any]]:
    import torch

    pcm = torch.from_numpy(window)
    slots = torch.from_numpy(order)
    pos = torch.full_like(slots, 100 * (right + 1))
    with torch.inference_mode():
        mel = runner.features(pcm)
    inside = torch.inference_mode()
    return {
        "features": inside(lambda: runner.features(pcm)),
        "encoder": inside(lambda: runner.encode(mel, slots, pos, right)),
    }


def _spoken(said: Any) -> Iterable[tuple[int, int]]:
    """(lane, token) of a step's emissions."""
    if hasattr(said, "lanes"):
        return zip(said.lanes.tolist(), said.tokens.tolist(), strict=True)
    return ((lane, token) for lane, e in enumerate(said) for token in e.tokens)


def compare(said: list[list[int]], wanted: list[list[int]]) -> tuple[int, int]:
    """Count tokens that were compared, and wrong ones: each lane up to its first difference.

    What follows a difference was decided with another past, so it says nothing of the precision.
    """
    compared = wrong = 0
    for a, b in zip(said, wanted, strict=True):
        same = 0
        while same < min(len(a), len(b)) and a[same] == b[same]:
            same += 1
        compared += same + (a != b)
        wrong += a != b
    return compared, wrong


def edits(said: list[int], wanted: list[int]) -> int:
    """Least insertions, deletions and substitutions that make one of the other (Levenshtein)."""
    before = list(range(len(wanted) + 1))
    for row, a in enumerate(said, 1):
        now = [row]
        for column, b in enumerate(wanted, 1):
            now.append(min(before[column] + 1, now[-1] + 1, before[column - 1] + (a != b)))
        before = now
    return before[-1]
