"""Gathers a stream's events and waits for them."""

from __future__ import annotations

import queue
import threading

from voice_agent.engine.recognizer import Event, Failed, Final, Partial


class Collector:
    """An `on_event` that remembers. `final()` waits for the next final."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._ends: queue.SimpleQueue[Final | Failed] = queue.SimpleQueue()
        self._partial = threading.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Final | Failed):
            self._ends.put(event)
        else:
            self._partial.set()

    def wait_for_partial(self, timeout: float = 60) -> None:
        """Wait until there is a partial that came after the last wait."""
        assert self._partial.wait(timeout)
        self._partial.clear()

    @property
    def partials(self) -> list[Partial]:
        return [e for e in self.events if isinstance(e, Partial)]

    @property
    def finals(self) -> list[Final]:
        return [e for e in self.events if isinstance(e, Final)]

    def end(self, timeout: float = 60) -> Final | Failed:
        return self._ends.get(timeout=timeout)

    def final(self, timeout: float = 60) -> Final:
        end = self.end(timeout)
        assert isinstance(end, Final), end
        return end
