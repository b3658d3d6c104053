"""Live audio into segments of speech, as it comes: where a recogniser begins and finishes.

    push(pcm)    -> Begin? Feed* End?   in order, any number of times
    finish()     -> the client ends the segment itself

A segment begins `pre_roll_s` before speech is certain (but never before the end of the segment
before it, so no sample is heard twice) and ends after `stop_s` of pause, or at the first window
that may be one after `max_s`, or at twice that anyway. Audio of an open segment is handed on at
once, without waiting for the VAD's window to fill. Without `Cutting` there is no VAD: every
sample belongs to a segment, and only `finish` ends one.

`voice_agent.transcribe.segments` cuts recordings by the same rules, but pulls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from voice_agent.audio import PreRoll
from voice_agent.engine.recognizer import SAMPLE_RATE
from voice_agent.transcribe.segments import WINDOW, Cutting, Score

Cause = Literal["pause", "length", "client"]


@dataclass(frozen=True, slots=True)
class Begin:
    """A segment begins.

    Attributes:
        at: index of its first sample in the stream.
        onset: index of the sample at which speech was noticed to begin.
    """

    at: int
    onset: int


@dataclass(frozen=True, slots=True)
class Feed:
    """Audio of the open segment, int16 (n,)."""

    pcm: np.ndarray


@dataclass(frozen=True, slots=True)
class End:
    """The segment is over.

    Attributes:
        at: index of the first sample that is not its own.
        cause: what ended it.
    """

    at: int
    cause: Cause


Action = Begin | Feed | End


class Cutter:
    """See the module docstring. Any one thread at a time.

    Attributes:
        position: samples pushed so far.
        speaking: whether a segment is open.
    """

    def __init__(self, cutting: Cutting | None, score: Score | None) -> None:
        """Cut one stream.

        Args:
            cutting: where segments begin and end; None for by `finish` alone.
            score: the VAD, with `cutting`; its state belongs to this stream.
        """
        if cutting is not None and score is None:
            raise ValueError("cutting needs a VAD that scores")
        self.position = 0
        self.speaking = False
        self._score = score
        self._window = np.empty(0, np.int16)
        self._last_on: int | None = None  # where the last window with speech ended, if kept
        self._on_run = self._off_run = 0
        self._begin = 0
        self._cutting = cutting
        if cutting is not None:
            self._need_on = _windows(cutting.start_s)
            self._need_off = _windows(cutting.stop_s)
            # At least what proves that speech began, or the first word is cut.
            pre_roll_s = max(cutting.pre_roll_s, self._need_on * WINDOW / SAMPLE_RATE)
            self._kept = round(pre_roll_s * SAMPLE_RATE)
            self._pre_roll = PreRoll(pre_roll_s)

    def wait_for(self, stop_s: float) -> None:
        """Let segments end only after this much pause, from now on."""
        self._need_off = _windows(stop_s)

    def push(self, pcm: np.ndarray) -> list[Action]:
        """Add audio.

        Args:
            pcm: int16, shape (n,), 16 kHz mono, any n.

        Returns:
            What happens, in order.
        """
        if self._cutting is None:
            return self._push_uncut(pcm)
        actions: list[Action] = []
        while pcm.size:
            room = WINDOW - self._window.size
            piece, pcm = pcm[:room], pcm[room:]
            self._window = np.concatenate([self._window, piece])
            self.position += piece.size
            if self.speaking:
                _feed(actions, piece)
            else:
                self._pre_roll.push(piece)
            if self._window.size == WINDOW:
                window, self._window = self._window, np.empty(0, np.int16)
                self._judge(window, actions, self._cutting)
        return actions

    def _push_uncut(self, pcm: np.ndarray) -> list[Action]:
        actions: list[Action] = []
        if not pcm.size:
            return actions
        if not self.speaking:
            self.speaking = True
            self._begin = self.position
            actions.append(Begin(self.position, self.position))
        self.position += pcm.size
        actions.append(Feed(pcm))
        return actions

    def _judge(self, window: np.ndarray, actions: list[Action], cut: Cutting) -> None:
        assert self._score is not None
        probability = self._score(window.astype(np.float32) / 32768.0)
        if not self.speaking:
            self._on_run = self._on_run + 1 if probability >= cut.on else 0
            if probability >= cut.on:
                self._last_on = self.position
            if self._on_run >= self._need_on:
                self._open(actions, self.position - self._on_run * WINDOW)
            return
        self._off_run = self._off_run + 1 if probability < cut.off else 0
        length_s = (self.position - self._begin) / SAMPLE_RATE
        if self._off_run >= self._need_off:
            self._close(actions, "pause")
        elif length_s >= cut.max_s and (probability < cut.on or length_s >= 2 * cut.max_s):
            self._close(actions, "length")

    def _open(self, actions: list[Action], onset: int) -> None:
        kept = self._pre_roll.take()
        self._begin = self.position - kept.size
        self.speaking = True
        self._on_run = self._off_run = 0
        self._last_on = None
        actions.append(Begin(self._begin, max(onset, self._begin)))
        _feed(actions, kept)

    def _close(self, actions: list[Action], cause: Cause) -> None:
        actions.append(End(self.position, cause))
        self.speaking = False
        self._on_run = self._off_run = 0
        self._last_on = None

    def finish(self) -> list[Action]:
        """End the segment because the client says so.

        Speech that was too short for the VAD to be certain of becomes a segment of its own.

        Returns:
            What happens; nothing where there was no speech.
        """
        actions: list[Action] = []
        heard = self._last_on is not None and self.position - self._last_on < self._kept
        if heard and not self.speaking:
            self._open(actions, self.position)
        if self.speaking:
            self._close(actions, "client")
        return actions

    def drop(self) -> None:
        """Forget the open segment and the pre-roll; the position stays."""
        self.speaking = False
        self._on_run = self._off_run = 0
        self._last_on = None
        if self._cutting is not None:
            self._pre_roll.take()


def _windows(seconds: float) -> int:
    return max(1, round(seconds * SAMPLE_RATE / WINDOW))


def _feed(actions: list[Action], pcm: np.ndarray) -> None:
    """Add audio, to the last action if that is audio too: fewer calls for the recogniser."""
    if actions and isinstance(actions[-1], Feed):
        pcm = np.concatenate([actions.pop().pcm, pcm])  # type: ignore[union-attr]
    actions.append(Feed(pcm))
