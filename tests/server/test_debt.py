"""When a recogniser has owed a text for too long, on a clock of the test's."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from voice_agent.server.debt import Debt

LIMIT_S = 15.0


class Timers:
    """An event loop's timers, on a clock that the test sets. Implements `Debt`'s `later`."""

    def __init__(self) -> None:
        self.now = 100.0
        self.due: list[float] = []

    def later(self, seconds: float, call: Callable[[], object]) -> SimpleNamespace:
        at = self.now + seconds
        self.due.append(at)
        return SimpleNamespace(cancel=lambda: self.due.remove(at))


@pytest.fixture
def timers() -> Timers:
    return Timers()


@pytest.fixture
def debt(timers: Timers) -> Debt:
    return Debt(LIMIT_S, lambda: None, later=timers.later, clock=lambda: timers.now)


def live(debt: Debt, timers: Timers, seconds: float) -> None:
    for _ in range(round(seconds)):
        debt.hear(1.0)
        timers.now += 1.0


def test_what_is_spoken_live_is_due_at_once(debt: Debt, timers: Timers) -> None:
    live(debt, timers, 8.0)
    debt.watch(1, 0)
    assert timers.due == [108.0 + LIMIT_S]


def test_a_recording_is_due_when_it_could_have_been_spoken(debt: Debt, timers: Timers) -> None:
    live(debt, timers, 8.0)
    debt.hear(20.0)
    timers.now += 1.0
    debt.hear(40.0)
    debt.watch(1, 0)
    assert timers.due == [108.0 + 60.0 + LIMIT_S]


def test_silence_of_the_client_is_not_saved_up(debt: Debt, timers: Timers) -> None:
    debt.hear(5.0)
    timers.now += 3600.0
    live(debt, timers, 1.0)
    debt.watch(1, 0)
    assert timers.due == [timers.now + LIMIT_S]


def test_each_text_has_its_own_time(debt: Debt, timers: Timers) -> None:
    debt.watch(2, 0)
    timers.now += 10.0
    debt.watch(2, 0)
    assert timers.due == [100.0 + LIMIT_S], "to look again does not put it off"
    debt.watch(1, 1)
    assert timers.due == [110.0 + LIMIT_S]
    debt.watch(0, 2)
    assert timers.due == []
