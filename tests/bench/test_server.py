"""`bench server`: what callers see is what happened, and a row adds it up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.checkpoints import random_nemo
from tests.support.serving import Serve, serve, speech  # noqa: F401 - a fixture
from voice_agent.bench import callers as calling
from voice_agent.bench.callers import Seen, callers
from voice_agent.bench.served import ServerFailed, served
from voice_agent.bench.server import Row, measure, table, write

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
    assert nobody == Seen(failed=2)


def test_a_row_is_measured_on_a_server_of_its_own(tmp_path: Path) -> None:
    _, model = random_nemo(tmp_path)
    rng = np.random.default_rng(0)
    pcm = (rng.standard_normal(16_000 * 6) * 5_000).astype(np.int16)
    row = measure(3, pcm, 5.0, 2, model=str(model), device="cpu")
    assert (row.clients, row.refused, row.failed) == (3, 0, 0)
    assert row.final_ms is not None and row.final_ms[0] <= row.final_ms[1] <= row.final_ms[2]
    assert row.cores > 0 and row.memory_mb > 50


def test_a_server_that_cannot_start_is_said(tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match="exit code 2"), served({"stt.model": tmp_path / "no"}):
        pass


def row(clients: int, slip_ms: float) -> Row:
    times = (1.0, 2.0, 3.4)
    return Row(clients, 0, 1, times, None, times, (0.0, 1.0, slip_ms), 1.5, 300.0, None, 7.0)


def test_a_table_warns_where_the_callers_were_late() -> None:
    text = table([row(1, 5.0), row(100, 50.0)])
    first, second, warning = text.splitlines()[2:]
    assert "| 1 | 0 | 1 | 1/2/3 | - |" in first and "(!)" not in first
    assert "(!)" in second and warning.startswith("(!)")


def test_rows_become_json_and_a_plot(tmp_path: Path) -> None:
    write(tmp_path / "new", [row(1, 5.0), row(2, 5.0)], {"model": "m"})
    report = json.loads((tmp_path / "new" / "server.json").read_text())
    assert report["conditions"] == {"model": "m"} and len(report["rows"]) == 2
    assert (tmp_path / "new" / "server.png").stat().st_size > 1_000
