"""The page of the gate shows what was recorded, and the defaults are what was found best."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import gate_tables
from voice_agent.bench.gate_thresholds import Decided, best
from voice_agent.engine.gate_policy import GateSettings
from voice_agent.services.language_gate import LANGUAGE_GATE_TTFS_P99

PAGE = Path(__file__).parents[2] / "docs" / "gate.md"


@pytest.mark.parametrize("mark", gate_tables.BLOCKS)
def test_the_page_agrees_with_what_was_recorded(mark):
    shown = gate_tables.place(mark).search(PAGE.read_text(encoding="utf-8"))
    assert shown is not None
    assert shown[0] == f"\n{gate_tables.BLOCKS[mark]()}\n", (
        "write it again: python -m benchmarks.gate_tables docs/gate.md"
    )


def test_the_defaults_are_the_best_that_was_found():
    names = (gate_tables.PEOPLE, gate_tables.MADE)
    reports = [gate_tables.recorded(f"{name}/lid.json") for name in names]
    found = [Decided(**row) for report in reports for row in report["decisions"]]
    default = GateSettings()
    assert best(found, default.default).settings == (
        default.threshold,
        default.final_threshold,
        default.hysteresis,
        default.window_s,
        default.confirmations,
    )


def test_the_published_latency_covers_the_slower_path_as_it_was_measured():
    measured = gate_tables.recorded("gate.json")["ttfs_p99_s"]
    assert measured <= LANGUAGE_GATE_TTFS_P99 < measured + 0.5


def test_a_page_without_a_place_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing")
    with pytest.raises(SystemExit, match="has no <!-- cost -->"):
        gate_tables.main(str(page))
