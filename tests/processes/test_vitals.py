"""When an engine process is taken for stuck: by what it shows, owes and spends. No time passes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from voice_agent.processes.control import BEAT_EVERY_S
from voice_agent.processes.engine import STUCK_S, Vitals
from voice_agent.server.processor_time import Spent
from voice_agent.server.watch import GONE_S

COMPUTING, STARVED, BLOCKED = Spent(ran=1.0), Spent(starved=1.0), Spent()


class Part:
    name, streaming = "tiny", True

    device = "cpu"

    def __init__(self, heartbeat: float | None, owes: bool) -> None:
        self.heartbeat = heartbeat
        self._owes = owes

    def owes_s(self) -> float:
        return 1e9 if self._owes else 0.0


def seconds_until_stuck(part: Part, device: str, spent: Spent, limit_s: float = 60.0) -> float:
    """How long it takes; `limit_s` where it is not taken for stuck until then."""
    recognizer: Any = SimpleNamespace(stats=SimpleNamespace(ticks=7))
    part.device = device
    parts: Any = [part]
    vitals = Vitals(recognizer, parts, 0.0)
    now = 0.0
    while now < limit_s:
        now += BEAT_EVERY_S
        if vitals.stuck(now, spent) is not None:
            return now
    return limit_s


@pytest.fixture(params=["no heartbeat", "a text owed"])
def part(request: pytest.FixtureRequest) -> Part:
    return Part(7.0, owes=False) if request.param == "no heartbeat" else Part(None, owes=True)


@pytest.mark.parametrize("device", ["cuda:0", "cpu"])
def test_what_hangs_is_told_within_two_seconds(part: Part, device: str) -> None:
    assert STUCK_S < seconds_until_stuck(part, device, BLOCKED) < 2.0


def test_a_gpu_that_is_waited_for_by_a_spinning_thread_is_told_as_soon(part: Part) -> None:
    assert seconds_until_stuck(part, "cuda:0", COMPUTING) < 2.0


def test_a_long_computation_on_processors_has_its_time(part: Part) -> None:
    assert GONE_S < seconds_until_stuck(part, "cpu", COMPUTING) < GONE_S + 1


@pytest.mark.parametrize("device", ["cuda:0", "cpu"])
def test_a_process_without_a_processor_is_never_stuck(part: Part, device: str) -> None:
    assert seconds_until_stuck(part, device, STARVED) == 60.0


def test_steps_and_beats_begin_the_count_anew() -> None:
    stats = SimpleNamespace(ticks=0)
    part = Part(0.0, owes=True)
    recognizer: Any = SimpleNamespace(stats=stats)
    parts: Any = [part]
    vitals = Vitals(recognizer, parts, 0.0)
    for beat in range(40):
        stats.ticks += beat % 4 == 0  # a step a second
        part.heartbeat = float(beat // 4)
        assert vitals.stuck((beat + 1) * BEAT_EVERY_S, BLOCKED) is None
