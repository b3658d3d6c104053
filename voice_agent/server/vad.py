"""Silero VAD for many streams at once: one ONNX session, a small state for each stream.

    score(window)   float32 (512,), 32 ms at 16 kHz -> probability that it is speech

The model file is the one that Pipecat bundles. About 0.2 ms a window, so a stream costs 5 ms of
a core each second; it runs on the transcription server's worker threads, never on the event loop.
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

from voice_agent.engine.recognizer import SAMPLE_RATE
from voice_agent.transcribe.segments import WINDOW

if TYPE_CHECKING:
    import onnxruntime

_CONTEXT = 64  # samples of the window before that the model sees again, at 16 kHz
_RESET_WINDOWS = 2 * SAMPLE_RATE // WINDOW
_QUIET_WINDOWS = 5
_QUIET = 0.1


@functools.cache
def _session() -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    model = resources.files("pipecat.audio.vad.data").joinpath("silero_vad.onnx").read_bytes()
    return onnxruntime.InferenceSession(
        model, sess_options=options, providers=["CPUExecutionProvider"]
    )


class Vad:
    """One stream's voice activity. Any one thread at a time.

    The model's memory makes it deaf after long noise or music, so it is cleared every two
    seconds, in a run of clearly quiet windows: the rule of Pipecat's `SileroVADAnalyzer`.
    """

    def __init__(self) -> None:
        """Start with an empty memory; the first one of a process loads the model (blocks)."""
        self._run = _session().run
        self._rate = np.array(SAMPLE_RATE, dtype=np.int64)
        self._input = np.zeros((1, _CONTEXT + WINDOW), dtype=np.float32)
        self._state = np.zeros((2, 1, 128), dtype=np.float32)
        self._since_reset = 0
        self._quiet = 0

    def __call__(self, window: np.ndarray) -> float:
        """Score the next window.

        Args:
            window: float32 in [-1, 1], shape (512,).

        Returns:
            Probability of speech, 0 to 1.
        """
        self._input[0, :_CONTEXT] = self._input[0, -_CONTEXT:]
        self._input[0, _CONTEXT:] = window
        out, self._state = self._run(
            None, {"input": self._input, "state": self._state, "sr": self._rate}
        )
        probability = float(out[0, 0])
        self._since_reset += 1
        self._quiet = self._quiet + 1 if probability < _QUIET else 0
        if self._since_reset >= _RESET_WINDOWS and self._quiet >= _QUIET_WINDOWS:
            self._state = np.zeros_like(self._state)
            self._input[:] = 0.0
            self._since_reset = 0
        return probability
