"""`bench server`: what callers see is what happened, and a row adds it up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.checkpoints import random_nemo
from tests.support.serving import Serve, serve, speech  # noqa: F401 - a fixture
from voice_agent.bench import callers as calling
from voice_agent.bench.callers import Seen, callers
from voice_agent.bench.served import ServerFailed, served
from voice_agent.bench.server import Plan, Row, capacity, measure
from voice_agent.bench.server_report import table, write

SCRIPT = [(0.2, "one"), (0.6, "one two")]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second for a turn, so that a test sees several."""
    monkeypatch.setattr(calling, "TURN_S", 0.8)
    monkeypatch.setattr(calling, "_TURN", 10)
    monkeypatch.setattr(calling, "RAMP_S", 0.2)


async def test_callers_time_each_turn_and_each_partial(serve: Serve, short: None) -> None:  # noqa: F811
    server = await serve(SCRIPT)
    seen = await callers(f"127.0.0.1:{server.port}", speech(2.0), 3, 2.4)
    assert (seen.refused, seen.failed) == (0, 0)
    assert 3 * 2 <= len(seen.final_s) <= 3 * 4
    assert 3 * 2 <= len(seen.partial_s) <= 3 * 4
    assert len(seen.lag_s) >= len(seen.partial_s)
    # The first text comes with the third chunk, which is sent 0.16 s after the first.
    assert min(seen.partial_s) >= 0.1 and min(seen.final_s) >= 0 and min(seen.lag_s) >= 0
    await server.quiet()


async def test_callers_who_are_refused_or_fail_are_counted(serve: Serve, short: None) -> None:  # noqa: F811
    server = await serve(SCRIPT, max_sessions=1)
    seen = await callers(f"127.0.0.1:{server.port}", speech(2.0), 3, 0.4)
    assert (seen.refused, seen.failed) == (2, 0)
    nobody = await callers("127.0.0.1:1", speech(2.0), 2, 0.0)
    assert (nobody.failed, nobody.final_s) == (2, [])


def test_what_callers_saw_survives_a_file(tmp_path: Path) -> None:
    seen = Seen(final_s=[0.1, 0.2], refused=3, cpu_s=1.5)
    seen.write(tmp_path / "seen.npz")
    assert Seen.read(tmp_path / "seen.npz") == seen


def test_a_row_holds_where_nobody_is_lost_and_finals_come_in_time() -> None:
    good = replace(row(8, 5.0), failed=0, unanswered=0)
    assert good.holds(3.4) and not good.holds(3.3)
    for lost in ("refused", "failed", "unanswered"):
        assert not replace(good, **{lost: 1}).holds(150.0)
    assert not replace(good, final_ms=None).holds(150.0)


def plan(model: Path | str, **given: object) -> Plan:
    usual = {"shaped": False, "device": "cpu", "front_ends": 0, "seconds": 4.0, "processes": 2,
             "cut": False}  # fmt: skip
    return Plan(str(model), **{**usual, **given})


def noise() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal(16_000 * 6) * 5_000).astype(np.int16)


def test_a_row_is_measured_on_a_server_of_its_own(tmp_path: Path) -> None:
    _, model = random_nemo(tmp_path)
    row = measure(3, noise(), plan(model))
    assert (row.clients, row.refused, row.failed, row.unanswered) == (3, 0, 0, 0)
    assert row.final_ms is not None and row.final_ms[0] <= row.final_ms[1] <= row.final_ms[2]
    assert row.cores > 0 and row.memory_mb > 50 and not row.by_process


def test_a_server_of_random_weights_and_front_ends_is_measured_by_process() -> None:
    row = measure(3, noise(), plan("toy", shaped=True, front_ends=2, processes=1))
    assert (row.refused, row.failed, row.unanswered) == (0, 0, 0)
    assert row.final_ms is not None
    assert set(row.by_process) == {"engine", "front-end-0", "front-end-1"}
    assert row.cores == sum(row.by_process.values())


@pytest.mark.parametrize("limit", [0, 1, 7, 100, 1_000])
def test_capacity_finds_the_most_clients_that_hold_to_an_eighth(limit: int) -> None:
    asked = []

    def holds(count: int) -> bool:
        asked.append(count)
        return count <= limit

    most = capacity(holds, 16)
    assert most <= limit and (limit - most <= max(1, most // 8))
    assert len(asked) == len(set(asked)) and len(asked) < 14


def test_a_search_for_capacity_ends_when_its_time_is_over() -> None:
    looks = iter([True, True, False])
    assert capacity(lambda count: True, 10, more_time=lambda: next(looks)) == 20


def test_a_server_that_cannot_start_is_said(tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match="exit code 2"), served({"stt.model": tmp_path / "no"}):
        pass


def row(clients: int, slip_ms: float) -> Row:
    times = (1.0, 2.0, 3.4)
    return Row(
        clients, 0, 1, 2, times, None, times, (0.0, 1.0, slip_ms), 1.5, 0.5, 300.0, None, None, 7.0
    )


def test_a_table_warns_where_the_callers_were_late() -> None:
    text = table([row(1, 5.0), row(100, 50.0)])
    first, second, warning = text.splitlines()[2:]
    assert "| 1 | 0 | 1 | 2 | 1/2/3 | - |" in first and "(!)" not in first
    assert "(!)" in second and warning.startswith("(!)")


def test_rows_become_json_and_a_plot(tmp_path: Path) -> None:
    write(tmp_path / "new", [row(1, 5.0), row(2, 5.0)], {"model": "m"})
    report = json.loads((tmp_path / "new" / "server.json").read_text())
    assert report["conditions"] == {"model": "m"} and len(report["rows"]) == 2
    assert (tmp_path / "new" / "server.png").stat().st_size > 1_000
