"""One segment under the gate: its audio, who writes it, what is known of it.

Its owner is a `GatedStream`, under whose lock everything here is read and changed, except for
`Listening`, which belongs to the gate's ear.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from voice_agent.engine.errors import EngineError
from voice_agent.engine.gate_events import GateEvent
from voice_agent.engine.gate_policy import SegmentPolicy
from voice_agent.engine.lid.base import FRAME, SpeechMeter
from voice_agent.engine.recognizer import (
    SAMPLE_RATE,
    Event,
    Final,
    Partial,
    Stream,
    as_float32,
)

HEARD_S = 30.0
"""Seconds at the end of a segment that stand for the whole of it; more tells no more."""

PAUSE_S = 0.06
"""Seconds of quiet that may be the end. A VAD waits for about 0.2 s of it, so that in between
there is time to ask the identifier; the closure of a stop consonant is mostly shorter."""

QUIET, QUIETER = 10**-5.5, 10**-2.0
"""Power below which a frame is quiet: -55 dB of full scale, 20 dB below the segment's loudest."""


@dataclass(slots=True, eq=False)
class Line:
    """A recogniser at work on one segment.

    Attributes:
        language: what it writes.
        recognizer: its name.
        stream: the caller's stream of the default recogniser, or one for this segment alone.
        shared: which of the two.
        finished: whether the segment was ended on it.
    """

    language: str
    recognizer: str
    stream: Stream
    shared: bool
    finished: bool = False

    def finish(self) -> None:
        """End the segment."""
        self.stream.finish()
        self.finished = True

    def leave(self) -> None:
        """Let the segment go, whose text is no longer wanted from here."""
        with contextlib.suppress(EngineError):  # what is dead needs no farewell
            if not self.shared:
                self.stream.close()
            elif not self.finished:
                self.stream.cancel()


@dataclass(slots=True, eq=False)
class Segment:
    """See the module docstring.

    Attributes:
        policy: the gate's mind on it.
        line: who writes it.
        turn: how often it was handed to another line.
        decided: the language of the latest decision that something spoke for.
        pieces: its audio, as it was fed.
        samples: of all pieces.
        out: events that wait for their turn.
        held: partial that is kept back before the first decision.
        final: `line`'s, kept back before the final decision.
        first: the shared line, where the segment was ended on it before another took over.
        first_final: that line's final.
        finished_at: when the caller ended it, by the monotonic clock.
        settled: the final decision is made.
        done: its final is among `out`, or was delivered.
        dropped: nobody wants it any more.
        looking: the ear is to look at it.
        ask_at: samples before which the next look makes no sense; None for no more of them.
        loud_end: samples up to the end of its last loud audio.
        foreseeing: the ear is to foresee the decision at its end.
        foreseen: that decision's grounds, as of the last pause.
        patience: runs while `final` waits for the final decision.
        deaf: the identifier failed on it.
        listening: the ear's.
    """

    policy: SegmentPolicy
    line: Line
    turn: int = 0
    decided: str | None = None
    pieces: list[np.ndarray] = field(default_factory=list)
    samples: int = 0
    out: deque[Event | GateEvent] = field(default_factory=deque)
    held: Partial | None = None
    final: Final | None = None
    first: Line | None = None
    first_final: Final | None = None
    finished_at: float | None = None
    settled: bool = False
    done: bool = False
    dropped: bool = False
    looking: bool = False
    ask_at: int | None = None
    loud_end: int = 0
    foreseeing: bool = False
    foreseen: Foreseen | None = None
    patience: threading.Timer | None = None
    deaf: bool = False
    _loudest: float = 0.0
    listening: Listening = field(default_factory=lambda: Listening())

    def __post_init__(self) -> None:
        self.ask_when(0.0, 0)

    def keep(self, pcm: np.ndarray) -> None:
        """Remember audio; the caller may reuse its array."""
        self.pieces.append(pcm.copy())
        self.samples += len(pcm)
        if len(pcm):
            # A short piece is one frame; what is over at the start of a longer one has no say.
            frames = pcm[-(len(pcm) // FRAME * FRAME) or None :].astype(np.float32)
            width = min(FRAME, len(frames))
            power = np.square(frames.reshape(-1, width)).mean(axis=1)
            if pcm.dtype == np.int16:
                power /= 32768.0**2
            self._loudest = max(self._loudest, float(power.max()))
            loud = np.flatnonzero(power > max(QUIET, QUIETER * self._loudest))
            if len(loud):
                self.loud_end = self.samples - (len(power) - 1 - int(loud[-1])) * width

    @property
    def pausing(self) -> bool:
        """Whether a pause has begun that nothing is foreseen for."""
        pause = self.samples - self.loud_end
        foreseen = self.foreseen is not None and self.foreseen.samples >= self.loud_end
        return pause >= PAUSE_S * SAMPLE_RATE and self.loud_end > 0 and not foreseen

    def hand_to(self, line: Line, final: Final | None = None) -> None:
        """Another line writes the segment from now on; what the last one said is forgotten.

        Args:
            line: has heard all of it.
            final: of that line, where it is there already.
        """
        self.turn += 1
        self.line, self.final, self.held = line, final, None

    def ask_when(self, speech_s: float, samples: int) -> None:
        """Set when to ask next; speech cannot grow faster than audio.

        Args:
            speech_s: seconds of speech in the audio that was heard.
            samples: of the audio that was heard.
        """
        check = None if self.deaf else self.policy.next_check()
        if check is None:
            self.ask_at = None
        else:
            self.ask_at = samples + max(1, round((check.at_s - speech_s) * SAMPLE_RATE))

    def drop(self) -> None:
        """Stop everything that goes on for it."""
        self.dropped = True
        if self.patience is not None:
            self.patience.cancel()
        self.line.leave()


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What the final decision rests on if the segment ends in the pause that has begun.

    Attributes:
        posteriors: of all of it so far; None where there was no speech in it.
        speech_s: seconds of speech in it.
        samples: that were heard.
    """

    posteriors: Mapping[str, float] | None
    speech_s: float
    samples: int


class Listening:
    """What the ear has heard of a segment. The ear's thread only, but for `latest_s`.

    Attributes:
        latest_s: seconds of speech that were counted last.
    """

    def __init__(self) -> None:
        self.latest_s = 0.0
        self._meter = SpeechMeter()
        self._heard = 0

    def speech_s(self, pieces: Sequence[np.ndarray]) -> float:
        """Seconds of speech among all pieces so far."""
        for piece in pieces[self._heard :]:
            self._meter.append(as_float32(piece))
        self._heard = len(pieces)
        self.latest_s = self._meter.seconds()
        return self.latest_s


def tail(pieces: Sequence[np.ndarray], seconds: float) -> np.ndarray:
    """The last so many seconds of a segment: float32, shape (n,)."""
    wanted = round(seconds * SAMPLE_RATE)
    end: list[np.ndarray] = []
    for piece in reversed(pieces):
        if wanted <= 0:
            break
        end.append(as_float32(piece[-wanted:]))
        wanted -= len(piece)
    return np.concatenate(end[::-1]) if end else np.empty(0, np.float32)
