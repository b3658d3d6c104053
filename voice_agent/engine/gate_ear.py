"""The thread that asks the language identifier, on behalf of every caller of a gate.

One thread, because an identifier takes one call at a time, and its own, because no recogniser
may wait for it. Questions that a final waits for come before those of segments still growing.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Callable

from voice_agent.engine.lid.base import LanguageIdentifier

log = logging.getLogger(__name__)

Question = Callable[[], None]
"""Asks `Ear.identifier` what it wants to know, and does with the answer what it will."""

_STOP, _URGENT, _IN_TURN = range(3)


class Ear:
    """`start()` answers questions on a thread of its own; tests call `answer()`."""

    def __init__(self, identifier: LanguageIdentifier) -> None:
        self.identifier = identifier
        # The count keeps questions of one rank in order, and from being compared.
        self._questions: queue.PriorityQueue[tuple[int, int, Question | None]]
        self._questions = queue.PriorityQueue()
        self._count = itertools.count()
        self._thread: threading.Thread | None = None

    def ask(self, question: Question, *, urgent: bool = False) -> None:
        """Put a question; returns at once. Any thread."""
        rank = _URGENT if urgent else _IN_TURN
        self._questions.put((rank, next(self._count), question))

    def answer(self, block: bool = False) -> bool:
        """Answer the next question; False where there is none, or after `stop()`."""
        try:
            _, _, question = self._questions.get(block)
        except queue.Empty:
            return False
        if question is None:
            return False
        try:
            question()
        except Exception:  # a defect on one caller's behalf must not deafen the others
            log.exception("a question to %s failed", self.identifier.name)
        return True

    def start(self) -> None:
        """Answer on a thread of its own until `stop()`."""
        self._thread = threading.Thread(target=self._run, name="gate-ear", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while self.answer(block=True):
            pass

    def stop(self) -> None:
        """Answer no more. Idempotent; does not wait for an identifier that hangs."""
        self._questions.put((_STOP, next(self._count), None))
