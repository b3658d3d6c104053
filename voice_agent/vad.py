"""Silero VAD for many streams at once: one ONNX session, a small state for each stream.

    score(window)   float32 (512,), 32 ms at 16 kHz -> probability that it is speech

    Vad        one window at a time, about 0.2 ms each: 5 ms of a core for each second of a stream
    judge      windows of many streams in one run, a third of that each (server/loop_pool.py)

The model file is the one that Pipecat bundles; it is read from there without importing Pipecat,
or from the package `silero-vad`. It blocks: not for an event loop.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from voice_agent.engine.errors import EngineError
from voice_agent.engine.recognizer import SAMPLE_RATE
from voice_agent.transcribe.segments import WINDOW

if TYPE_CHECKING:
    import onnxruntime

_CONTEXT = 64  # samples of the window before that the model sees again, at 16 kHz
_RESET_WINDOWS = 2 * SAMPLE_RATE // WINDOW
_QUIET_WINDOWS = 5
_QUIET = 0.1
_PLACES = (("pipecat", "audio/vad/data"), ("silero_vad", "data"))
_RATE = np.array(SAMPLE_RATE, dtype=np.int64)


class NoVad(EngineError):
    """The model is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "the model of the voice activity detection is not installed: install pipecat-ai or "
            "silero-vad, or cut segments yourself (endpointing=false and Finalize)"
        )


def model_file() -> Path:
    """Where the model is installed.

    Raises:
        NoVad: nowhere.
    """
    for package, folder in _PLACES:
        spec = importlib.util.find_spec(package)  # which imports nothing
        for place in (spec.submodule_search_locations if spec is not None else None) or ():
            path = Path(place) / folder / "silero_vad.onnx"
            if path.is_file():
                return path
    raise NoVad


@functools.cache
def session() -> onnxruntime.InferenceSession:
    """The process's ONNX session (blocks the first time).

    Raises:
        NoVad: the model is not installed.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model_file().read_bytes(), sess_options=options, providers=["CPUExecutionProvider"]
    )


class Memory:
    """What the model knows of one stream.

    It makes the model deaf after long noise or music, so it is cleared every two seconds, in a
    run of clearly quiet windows: the rule of Pipecat's `SileroVADAnalyzer`.

    Attributes:
        input: float32 (64 + 512,): the end of the window before, and the window.
        state: float32 (2, 128).
    """

    def __init__(self) -> None:
        """Start with an empty memory."""
        self.input = np.zeros(_CONTEXT + WINDOW, dtype=np.float32)
        self.state = np.zeros((2, 128), dtype=np.float32)
        self._since_reset = 0
        self._quiet = 0

    def hear(self, window: np.ndarray) -> None:
        """Take the next window, float32 (512,) in [-1, 1]."""
        self.input[:_CONTEXT] = self.input[-_CONTEXT:]
        self.input[_CONTEXT:] = window

    def learn(self, probability: float, state: np.ndarray) -> None:
        """Take what the model made of it."""
        self.state = state
        self._since_reset += 1
        self._quiet = self._quiet + 1 if probability < _QUIET else 0
        if self._since_reset >= _RESET_WINDOWS and self._quiet >= _QUIET_WINDOWS:
            self.state = np.zeros_like(state)
            self.input[:] = 0.0
            self._since_reset = 0


def judge(memories: list[Memory]) -> list[float]:
    """Probabilities of the windows that these have heard; each learns. Blocks for the model.

    Raises:
        NoVad: the model is not installed.
    """
    out, states = session().run(
        None,
        {
            "input": np.stack([m.input for m in memories]),
            "state": np.stack([m.state for m in memories], axis=1),
            "sr": _RATE,
        },
    )
    probabilities: list[float] = out[:, 0].tolist()
    for i, (memory, probability) in enumerate(zip(memories, probabilities, strict=True)):
        memory.learn(probability, states[:, i])
    return probabilities


class Vad:
    """One stream's voice activity. Any one thread at a time."""

    def __init__(self) -> None:
        """Start with an empty memory; the first one of a process loads the model (blocks)."""
        session()
        self._memory = Memory()

    def __call__(self, window: np.ndarray) -> float:
        """Score the next window.

        Args:
            window: float32 in [-1, 1], shape (512,).

        Returns:
            Probability of speech, 0 to 1.
        """
        self._memory.hear(window)
        return judge([self._memory])[0]
