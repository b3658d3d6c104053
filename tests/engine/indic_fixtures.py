"""A miniature of IndicConformer on disk, and a backend whose words are known beforehand."""

from __future__ import annotations

import threading

import numpy as np

from voice_agent.engine.indic.decode import Token
from voice_agent.engine.recognizer import SAMPLE_RATE


class WordASecond:
    """Hears one word a second of audio; its loudest second spells which.

    The word of a second is piece number round(100 * level) of that second, so that what a stream
    hears tells which audio it was given. The last word of audio that ends within a second is
    unsure: another piece each time it is decoded.
    """

    frame_s = 0.08
    device = "test"
    pieces = {
        "kn": ("<unk>", *(f"▁ಪ{n}" for n in range(1, 256))),
        "hi": ("<unk>", *(f"▁ह{n}" for n in range(1, 256))),
    }

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None
        self._decoded = threading.Condition()

    def wait_for_decodes(self, count: int) -> None:
        """Wait until so many batches were decoded."""
        with self._decoded:
            assert self._decoded.wait_for(lambda: len(self.batches) >= count, 30)

    def tokens(self, audio, languages):
        self.gate.wait(30)
        if self.error is not None:
            raise self.error
        with self._decoded:
            self.batches.append([len(a) for a in audio])
            self._decoded.notify_all()
        return [self._one(a) for a in audio]

    def _one(self, audio: np.ndarray) -> list[Token]:
        found = []
        for second, start in enumerate(range(0, len(audio), SAMPLE_RATE)):
            part = audio[start : start + SAMPLE_RATE]
            number = round(100 * float(np.abs(part).max()))
            if len(part) < SAMPLE_RATE:
                number = 200 + len(audio) // 1600 % 50
            frame = round(second / self.frame_s)
            found.append(Token(number, frame, frame + 5, 0.9))
        return found


def spoken(*levels: int) -> np.ndarray:
    """A second of audio for each level, 1 to 99: what `WordASecond` hears as those pieces."""
    return np.concatenate([np.full(SAMPLE_RATE, n / 100, np.float32) for n in levels])
