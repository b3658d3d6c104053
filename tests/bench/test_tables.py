"""The page of benchmarks shows what was recorded, and nothing else."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks import tables
from tests.bench.test_engine_rows import OTHER, PACED, ROW

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
CPU = {
    "cpu": "a CPU x2", "torch": "2.11", "model": "toy, random weights", "precision": "float32",
    "right": 0, "commit": "0123456789abcdef", "command": "voice-agent bench engine --shape toy",
}  # fmt: skip
GPU = CPU | {"gpu": "a GPU, 139 GiB", "driver": "580", "cuda": "13.0"}


def report(conditions, **more):
    rows = [asdict(r) for r in (ROW, OTHER, replace(ROW, batch=64))]
    empty = {"ceilings": {}, "steps": rows, "paced": [], "capacity": None, "problems": {}}
    return {"conditions": conditions, **empty, **more}


def test_the_page_agrees_with_what_was_recorded():
    shown = tables.PLACE.search(PAGE.read_text(encoding="utf-8"))
    assert shown is not None
    assert shown[0] == tables.page(tables.recorded()), (
        "write it again: python -m benchmarks.tables docs/benchmarks.md"
    )


def test_a_recorded_run_names_no_folder_of_the_machine_that_made_it():
    for name, found in tables.recorded().items():
        assert " /" not in found["conditions"]["command"], name
        assert found["conditions"]["commit"] != "unknown", name


def test_without_a_gpu_the_page_says_so_and_shows_ratios_and_no_times():
    text = tables.page({"a-run": report(CPU)})
    assert tables.NO_GPU in text
    assert "| voice-agent | 8 | 4.0 | 1.5 | 1 |" in text and "| nemo | 8 |" in text
    assert "ms" not in text.replace("p50 × its floor", "")
    assert "voice-agent bench engine --shape toy" in text and "results/a-run.json" in text


def test_a_gpu_is_shown_with_its_times_and_first():
    load = {"paced": [PACED | {"gpu_bytes": 2**30}]}
    found = {"holds": 9000, "fails": 9128, "complete": True, "max_lag_ms": 40.0}
    text = tables.page({"cpu": report(CPU), "gpu": report(GPU, capacity=found, **load)})
    assert tables.NO_GPU not in text
    assert text.index("a GPU, 139 GiB") < text.index("a CPU x2")
    assert (
        "p50 ms" in text and "Capacity: 9,000 streams held p99 lag ≤ 40 ms, 9,128 did not." in text
    )


def test_only_reports_of_this_benchmark_are_taken(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(report(GPU)))
    (tmp_path / "other.json").write_text(json.dumps({"chip": "x"}))
    assert list(tables.recorded(tmp_path)) == ["a"]


def test_a_page_without_a_place_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing")
    with pytest.raises(SystemExit, match="has no <!-- engine -->"):
        tables.main(str(page))


def test_the_page_agrees_with_the_recorded_servers():
    shown = tables.SERVER_PLACE.search(PAGE.read_text(encoding="utf-8"))
    assert shown is not None
    assert shown[0] == tables.server_page(tables.recorded_servers())
    assert "clients hold a final p99" in shown[0]


def test_the_page_agrees_with_the_recorded_calls():
    shown = tables.CALLS_PLACE.search(PAGE.read_text(encoding="utf-8"))
    assert shown is not None
    assert shown[0] == tables.calls_page(tables.recorded_calls())
    assert "that one core carried" in shown[0] and " ms" not in shown[0]


def test_parts_that_took_the_same_time_stand_by_name():
    """A set's order is another one in every process."""
    (report,) = tables.recorded_calls().values()
    parts = dict.fromkeys("hgfedcba", 0.1)
    even = report | {"rows": [row | {"parts": parts} for row in report["rows"]]}
    assert "| a | b | c | d | e | f | g | h |" in tables.calls_page({"even": even})
