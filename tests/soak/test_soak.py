"""The soak, for a few seconds: `python -m tests.soak` is the long one."""

from __future__ import annotations

import subprocess
import sys

import pytest
import websockets

from tests.soak.faults import FAULTS
from tests.soak.holding import holdings
from tests.soak.soak import SLOPE_LIMIT, Report, slope, soak, target
from tests.support.checkpoints import random_nemo


async def test_bad_clients_change_no_transcript_and_leave_nothing_behind(tmp_path) -> None:
    """On a miniature, which two busy cores carry beside all else; the long one takes tiny-en."""
    _, model = random_nemo(tmp_path)
    async with target(str(model), sessions=40) as server:
        report = await soak(server, seconds=8.0, clients=8, connects=200)
    assert report.clean, report
    assert report.heard >= 8 and set(report.faults) == set(FAULTS) and report.connects == 200


async def test_what_a_client_takes_is_seen_at_the_process_that_has_it() -> None:
    """All of the soak of a server with front-ends but its load, which is for `make soak`."""
    async with target("tiny-en", sessions=4, front_ends=1) as server:
        before = await holdings(server)
        async with websockets.connect(server.listen(endpointing="false")):
            during = await holdings(server, looks=1)
    assert list(before) == ["supervisor", "engine", "front-end 0"]
    assert during["front-end 0"].files > before["front-end 0"].files
    assert during["front-end 0"].tasks > before["front-end 0"].tasks
    assert during["engine"].files == before["engine"].files
    assert all(process.resident > 1 << 20 and process.tasks for process in before.values())


@pytest.mark.parametrize(("growth", "expected"), [(0.0, 0.0), (100.0, 6000.0)])
def test_the_slope_of_memory_is_by_the_minute(growth: float, expected: float) -> None:
    assert slope([(t, 5e8 + growth * t) for t in range(10)]) == pytest.approx(expected, abs=1e-3)


def test_what_the_first_rounds_take_is_not_held_against_the_server() -> None:
    warming = [500e6, 600e6, 605e6, 609e6] + [610e6] * 11
    memory = rounds(warming)
    assert Report(memory={"server": memory}).slopes == {"server": pytest.approx(0.0, abs=1e-3)}
    assert not Report(memory={"server": memory[:9]}).slopes, "too few to judge by"


def rounds(sizes: list[float]) -> list[tuple[float, float]]:
    return [(35.0 * i, size) for i, size in enumerate(sizes)]


def test_a_step_that_is_taken_once_is_no_leak_and_one_a_round_is() -> None:
    once = [600e6] * 8 + [600e6 + 3.5 * 2**20] * 7
    every = [600e6 + i * 2**20 for i in range(15)]
    steady, leaking = (
        Report(memory={"engine": rounds(once), "front-end 0": rounds(sizes)})
        for sizes in (once, every)
    )
    assert not steady.grows and leaking.grows, "whichever process it is"
    assert leaking.slopes["engine"] < SLOPE_LIMIT < leaking.slopes["front-end 0"]


KEEPING = """
from tests.soak.server import give_back

def resident():
    give_back()
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def cycles():
    for i in range(200_000):
        a = [bytes(300)]
        a.append(a)

resident()
before = resident()
dropped = [bytes(2_000) for i in range(50_000)]
cycles()
del dropped[::2], dropped[:]
cycles()
dropped = resident() - before
kept = [bytes(2_000) for i in range(10_000)]
print(dropped, resident() - before - dropped)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_that_is_kept_is_told_from_memory_that_was_dropped() -> None:
    said = subprocess.run([sys.executable, "-c", KEEPING], capture_output=True, check=True)
    dropped, kept = map(int, said.stdout.split())
    assert dropped < 5e6 and kept > 15e6
