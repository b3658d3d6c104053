"""One system on all clips, in a process of its own.

Its own process, so that peak memory is its own, a crash is its own, and nothing stays loaded.
What it measures goes back line by line; `voice_agent.bench.stt` keeps and adds it up.

    fast   the clip is fed at once: text, and seconds until the final (for RTF)
    live   80 ms every 80 ms, as a microphone gives them: seconds from the last sample to the
           final (TTFS; a VAD's own stop time is not in it), and from the first sample to the
           first partial
    long   thirty seconds of speech fed at once, the median of three
"""

from __future__ import annotations

import queue
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from typing import Any, Literal

import numpy as np

from voice_agent.alternatives.loading import Choice
from voice_agent.bench.corpus import Clip
from voice_agent.engine.recognizer import (
    SAMPLE_RATE,
    Event,
    Failed,
    Final,
    Partial,
    Recognizer,
    StreamOptions,
)

Kind = Literal["fast", "live", "long"]
PIECE = SAMPLE_RATE * 80 // 1000
LONG_RUNS = 3
FINAL_LIMIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Task:
    """One thing to measure.

    Attributes:
        kind: see the module docstring.
        name: of the clip; "30 s" for the long one.
        pcm_of: reads the audio, in the process that measures.
        language: of the stream.
    """

    kind: Kind
    name: str
    clip: Clip | None
    language: str
    pcm: np.ndarray | None = None

    def audio(self) -> np.ndarray:
        """Float32, shape (n,), 16 kHz mono."""
        return self.pcm if self.pcm is not None else self.clip.pcm()  # type: ignore[union-attr]


@dataclass(frozen=True, slots=True)
class Measured:
    """What became of a task.

    Attributes:
        kind: see the module docstring.
        clip: its name.
        audio_s: seconds of audio.
        text: what was heard.
        final_s: seconds from the last sample handed over to the final.
        partial_s: seconds from the first sample to the first partial (live only).
        error: why there is no text.
    """

    kind: Kind
    clip: str
    audio_s: float = 0.0
    text: str = ""
    final_s: float | None = None
    partial_s: float | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Process:
    """The system itself, told after its last task.

    Attributes:
        recognizer: the name that it goes by, with its model.
        load_s: seconds to load.
        memory_mb: peak resident memory of its process; of a client, where the model is remote.
        gpu_mb: peak memory that torch held on a GPU, if any.
    """

    recognizer: str
    load_s: float
    memory_mb: float
    gpu_mb: float | None


def measure(
    recognizer: Recognizer,
    pcm: np.ndarray,
    language: str,
    *,
    live: bool,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[Final, float, float | None]:
    """Transcribe one clip as one segment.

    Args:
        recognizer: loaded.
        pcm: float32, shape (n,), 16 kHz mono.
        language: of the stream.
        live: at real-time pace.
        clock: seconds.
        sleep: waits.

    Returns:
        The final; seconds from the last sample to it; seconds from the first sample to the first
        partial, if there was one.

    Raises:
        EngineError: the recogniser failed.
        TimeoutError: no final within five minutes.
    """
    ends: queue.SimpleQueue[tuple[float, Final | Failed]] = queue.SimpleQueue()
    first: list[float] = []

    def heard(event: Event) -> None:
        if isinstance(event, Partial):
            if event.text and not first:
                first.append(clock())
        else:
            ends.put((clock(), event))

    options = StreamOptions(
        language=None
        if recognizer.languages and language not in recognizer.languages
        else language,
        partials=live,
    )
    stream = recognizer.open(heard, options=options)
    try:
        began = clock()
        if live:
            for start in range(0, pcm.size, PIECE):
                piece = pcm[start : start + PIECE]
                # A microphone hands a piece over when its last sample has been heard.
                sleep(max(0.0, began + (start + piece.size) / SAMPLE_RATE - clock()))
                stream.feed(piece)
        else:
            stream.feed(pcm)
        over = clock()
        stream.finish()
        try:
            at, end = ends.get(timeout=FINAL_LIMIT_S)
        except queue.Empty:
            raise TimeoutError(f"no final within {FINAL_LIMIT_S:.0f} s") from None
    finally:
        stream.close()
    if isinstance(end, Failed):
        raise end.error
    return end, at - over, first[0] - began if first else None


def do(recognizer: Recognizer, task: Task) -> Measured:
    """Do one task; what goes wrong is told, not raised."""
    try:
        pcm = task.audio()
        runs = LONG_RUNS if task.kind == "long" else 1
        results = [
            measure(recognizer, pcm, task.language, live=task.kind == "live") for _ in range(runs)
        ]
    except Exception as error:  # this clip's row says so, and the next is tried
        return Measured(task.kind, task.name, error=f"{type(error).__name__}: {error}")
    final, _, partial_s = results[-1]
    return Measured(
        task.kind,
        task.name,
        audio_s=pcm.size / SAMPLE_RATE,
        text=final.text,
        final_s=statistics.median(r[1] for r in results),
        partial_s=partial_s,
    )


def run(
    system: str, choice: Choice, tasks: list[Task], parallel: int
) -> Iterator[Measured | Process]:
    """Measure a system in a child process.

    Args:
        system: name in the table of systems.
        choice: its model, device, address and key.
        tasks: what to measure, in order.
        parallel: clips at once.

    Yields:
        Each task's result as it comes, then the process's.

    Raises:
        EngineError: the system cannot be loaded; the sentence says why.
        RuntimeError: the process died, with its exit code.
    """
    context = get_context("spawn")  # forking a process that has loaded CUDA or gRPC breaks both
    results = context.SimpleQueue()
    child = context.Process(target=_child, args=(system, choice, tasks, parallel, results))
    child.start()
    watch = threading.Thread(target=_tell_death, args=(child, results), daemon=True)
    watch.start()
    try:
        while True:
            said: Any = results.get()
            if isinstance(said, BaseException):
                raise said
            yield said
            if isinstance(said, Process):
                return
    finally:
        if child.is_alive():
            child.join(10)
            child.terminate()
        watch.join()


def _tell_death(child: Any, results: Any) -> None:
    child.join()
    if child.exitcode:
        results.put(RuntimeError(f"its process died with exit code {child.exitcode}"))


def _child(system: str, choice: Choice, tasks: list[Task], parallel: int, results: Any) -> None:
    from voice_agent.alternatives import load
    from voice_agent.engine.errors import EngineError

    began = time.monotonic()
    try:
        recognizer = load(system, choice)
    except (EngineError, ValueError) as error:
        results.put(EngineError(str(error)))  # plain, so that it survives the pickle
        return
    load_s = time.monotonic() - began
    with ThreadPoolExecutor(parallel) as pool:
        for measured in _in_order(pool, recognizer, tasks):
            results.put(measured)
    name = recognizer.name
    recognizer.close()
    results.put(Process(name, load_s, _peak_mb(), _gpu_peak_mb()))


def _in_order(
    pool: ThreadPoolExecutor, recognizer: Recognizer, tasks: list[Task]
) -> Iterable[Measured]:
    # The long clip is a comparison of speed and so runs alone, whatever --parallel says.
    alone = [t for t in tasks if t.kind == "long"]
    yield from (do(recognizer, task) for task in alone)
    yield from pool.map(lambda t: do(recognizer, t), [t for t in tasks if t.kind != "long"])


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def _gpu_peak_mb() -> float | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return float(torch.cuda.max_memory_allocated()) / (1 << 20)


def as_json(measured: Measured | Process) -> dict[str, Any]:
    """A line for the file that a run resumes from."""
    return {"is": type(measured).__name__, **asdict(measured)}
