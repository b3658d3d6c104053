"""When the identifier is asked about a caller's segments, and what for.

    look      a growing segment has as much speech as the policy wants to ask at
    foresee   a pause begins: it may be the end. All of the segment so far is asked about, so that
              the final decision is there when the segment is ended, and no final waits for it
    judge     the segment was ended, and nothing was foreseen for what it has become

All three run on the ear's thread; the lock is the stream's, and not held while the identifier
works.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from voice_agent.engine.gate_ear import Ear
from voice_agent.engine.gate_events import GateTrouble
from voice_agent.engine.gate_outbox import Outbox
from voice_agent.engine.gate_policy import Decision
from voice_agent.engine.gate_segment import HEARD_S, Foreseen, Segment, tail

Decide = Callable[[Segment, Decision], None]


class Hearing:
    """One caller's questions. See the module docstring."""

    def __init__(
        self,
        ear: Ear,
        lock: threading.Lock,
        outbox: Outbox,
        patience_s: float,
        *,
        decide: Decide,
        settle: Decide,
    ) -> None:
        """Ask nothing yet.

        Args:
            ear: asks the identifier.
            lock: guards the segments.
            outbox: publishes what the answers led to.
            patience_s: seconds that a final which is ready waits for the final decision.
            decide: carries out a decision; called with the lock held.
            settle: carries out a segment's last one; likewise.
        """
        self._ear, self._lock, self._outbox = ear, lock, outbox
        self._patience_s, self._decide, self._settle = patience_s, decide, settle

    # -- the caller's thread; under the lock -----------------------------------------------------

    def grown(self, segment: Segment) -> None:
        """The segment got audio: ask where it is time to."""
        due = segment.ask_at is not None and segment.samples >= segment.ask_at
        if due and not segment.looking:
            segment.looking = True
            self._ear.ask(partial(self._look, segment))
        if segment.pausing and not segment.foreseeing and not segment.deaf:
            segment.foreseeing = True
            self._ear.ask(partial(self._foresee, segment))

    def ended(self, segment: Segment) -> None:
        """The segment was ended: make the final decision, at once if it was foreseen."""
        if segment.foreseen is not None and segment.foreseen.samples >= segment.loud_end:
            self._finish(segment, segment.foreseen.posteriors, segment.foreseen.speech_s)
            self.publish_soon()
        else:
            self._ear.ask(partial(self._judge, segment), urgent=True)

    def wait(self, segment: Segment) -> None:
        """The segment's final is there before the decision: let it not wait for long."""
        if segment.patience is None:
            segment.patience = threading.Timer(self._patience_s, self._lose_patience, (segment,))
            segment.patience.daemon = True
            segment.patience.start()

    def publish_soon(self) -> None:
        """Have events delivered from the ear's thread: on the caller's own no callback may run."""
        self._ear.ask(self._outbox.publish, urgent=True)

    # -- the ear's thread ------------------------------------------------------------------------

    def _look(self, segment: Segment) -> None:
        with self._lock:
            if segment.dropped or segment.finished_at is not None:
                return
            pieces, samples = list(segment.pieces), segment.samples
            check = segment.policy.next_check()
        speech_s = segment.listening.speech_s(pieces)
        posteriors = None
        if check is not None and speech_s >= check.at_s:
            posteriors = self._identify(segment, tail(pieces, check.window_s or HEARD_S))
        with self._lock:
            if segment.dropped or segment.finished_at is not None:
                return  # the end decides
            if posteriors is not None:
                decision = segment.policy.hear(posteriors, speech_s)
                if decision is not None:
                    self._decide(segment, decision)
            segment.looking = False
            segment.ask_when(speech_s, samples)
            self.grown(segment)
        self._outbox.publish()

    def _foresee(self, segment: Segment) -> None:
        with self._lock:
            if segment.dropped or segment.settled:
                return
            pieces, samples = list(segment.pieces), segment.samples
        speech_s = segment.listening.speech_s(pieces)
        posteriors = None
        if speech_s > 0.0:
            posteriors = self._identify(segment, tail(pieces, HEARD_S))
        with self._lock:
            segment.foreseeing = False
            if segment.dropped or segment.settled or segment.deaf:
                return
            segment.foreseen = Foreseen(posteriors, speech_s, samples)
            if segment.finished_at is not None and samples >= segment.loud_end:
                self._finish(segment, posteriors, speech_s)
        self._outbox.publish()

    def _judge(self, segment: Segment) -> None:
        with self._lock:
            if segment.dropped or segment.settled:
                return
            pieces = list(segment.pieces)
        speech_s = segment.listening.speech_s(pieces)
        posteriors = None
        if speech_s > 0.0:
            posteriors = self._identify(segment, tail(pieces, HEARD_S))
        with self._lock:
            if segment.dropped or segment.settled:
                return  # while the identifier thought about it
            self._finish(segment, posteriors, speech_s)
        self._outbox.publish()

    def _lose_patience(self, segment: Segment) -> None:
        with self._lock:
            if segment.dropped or segment.settled:
                return
            segment.out.append(
                GateTrouble(
                    f"{self._ear.identifier.name} has not named the language within "
                    f"{self._patience_s:g} s of the final; the segment stays with "
                    f"{segment.line.recognizer}"
                )
            )
            self._finish(segment, None, segment.listening.latest_s)
        self._outbox.publish()

    def _finish(
        self, segment: Segment, posteriors: Mapping[str, float] | None, speech_s: float
    ) -> None:
        segment.settled = True
        self._settle(segment, segment.policy.finish(posteriors, speech_s))

    def _identify(self, segment: Segment, pcm: np.ndarray) -> Mapping[str, float] | None:
        """Ask the identifier; None where it fails, which is told once a segment."""
        identifier = self._ear.identifier
        try:
            posteriors = identifier.identify(pcm).posteriors
            if not all(map(math.isfinite, posteriors.values())):
                raise ValueError(f"its posteriors are {dict(posteriors)}")
            return posteriors
        except Exception as error:  # whatever its library raises; the caller is heard all the same
            with self._lock:
                if not segment.deaf and not segment.settled:
                    segment.deaf = True
                    problem = f"{identifier.name} failed ({error}); the segment goes on without it"
                    segment.out.append(GateTrouble(problem))
            return None
