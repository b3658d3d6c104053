"""What leaves a gated stream: segment after segment, one callback at a time."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import cast

from voice_agent.engine.gate_events import GateEvent, GateTrouble, LanguageDecided, OnGateEvent
from voice_agent.engine.gate_segment import Segment
from voice_agent.engine.recognizer import Deliver, Event, Failed, OnEvent

log = logging.getLogger(__name__)


class Outbox:
    """Segments in order, each with its events that wait for their turn.

    Events of a segment wait until all segments before it have had their final. Callbacks run
    outside the lock, and never two at once, whichever threads the events come from.

    Attributes:
        segments: oldest first; guarded by the lock.
        failed: the stream's last event, where it has one; guarded by the lock.
    """

    def __init__(
        self, lock: threading.Lock, on_event: OnEvent, deliver: Deliver, observe: OnGateEvent
    ) -> None:
        self.segments: deque[Segment] = deque()
        self.failed: Failed | None = None
        self._lock = lock
        self._on_event, self._deliver, self._observe = on_event, deliver, observe
        self._draining = False

    def publish(self) -> None:
        """Have what is there delivered; for threads that `deliver` knows nothing of."""
        try:
            self._deliver(self.drain)
        except RuntimeError as error:  # the event loop is closed: nobody is there to hear
            log.debug("the gate's events were not delivered: %s", error)

    def drain(self) -> None:
        """Run the callback for each event whose turn has come, where callbacks may run."""
        with self._lock:
            if self._draining:
                return  # another thread is at it, or a callback of this one called back
            self._draining = True
        while (event := self._take()) is not None:
            try:
                if isinstance(event, LanguageDecided | GateTrouble):
                    self._observe(event)
                # Callbacks are typed for `Event`, of which the gate's own are no part.
                self._on_event(cast(Event, event))
            except Exception:
                log.exception("a stream's callback failed; the others go on")

    def _take(self) -> Event | GateEvent | None:
        with self._lock:
            while self.segments:
                oldest = self.segments[0]
                if oldest.out:
                    return oldest.out.popleft()
                if not oldest.done:
                    break
                self.segments.popleft()
            failed, self.failed = self.failed, None
            self._draining = failed is not None
            return failed
