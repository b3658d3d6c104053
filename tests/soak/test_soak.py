"""The soak, for a few seconds: `python -m tests.soak` is the long one."""

from __future__ import annotations

import pytest

from tests.soak.faults import FAULTS
from tests.soak.soak import slope, soak, target
from tests.support.checkpoints import random_nemo


async def test_bad_clients_change_no_transcript_and_leave_nothing_behind(tmp_path) -> None:
    """On a miniature, which two busy cores carry beside all else; the long one takes tiny-en."""
    _, model = random_nemo(tmp_path)
    async with target(str(model), sessions=40) as server:
        report = await soak(server, seconds=8.0, clients=8, connects=200)
    assert report.clean, report
    assert report.heard >= 8 and set(report.faults) == set(FAULTS) and report.connects == 200


@pytest.mark.parametrize(("growth", "expected"), [(0.0, 0.0), (100.0, 6000.0)])
def test_the_slope_of_memory_is_by_the_minute(growth: float, expected: float) -> None:
    assert slope([(t, 5e8 + growth * t) for t in range(10)]) == pytest.approx(expected, abs=1e-3)
