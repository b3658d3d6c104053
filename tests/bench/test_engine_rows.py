from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from voice_agent.bench.engine_load import find_capacity, holds
from voice_agent.bench.engine_rows import Report, StepRow, paced_table, plot, read_steps, table
from voice_agent.bench.engine_systems import compare

ROW = StepRow(
    system="voice-agent", includes="all", machine="a chip", commit="abc", model="toy",
    dtype="float32", right=0, chunk_ms=80, batch=8, steps=50, p50_ms=2.0, p95_ms=2.5, p99_ms=3.0,
    features_ms=None, encoder_ms=1.5, decoder_ms=None, bytes_floor_ms=0.5, flop_floor_ms=0.25,
    tokens_a_frame=0.3, tokens_compared=70, wrong_tokens=0,
)  # fmt: skip
OTHER = replace(ROW, system="nemo", p50_ms=30.0)
PACED = {
    "streams": 4, "seconds": 3.0, "phases": "spread", "chunks": 100, "misses": 0,
    "lag_p50_ms": 1.0, "lag_p95_ms": 2.0, "lag_p99_ms": 3.0, "lag_max_ms": 4.0,
    "final_p50_ms": 5.0, "final_p99_ms": 6.0, "cpu_cores": 0.5, "gpu_bytes": None,
    "valid": True, "holds": True,
}  # fmt: skip


def test_a_row_says_how_far_it_is_from_its_floor_and_others_from_ours():
    lines = table([OTHER, ROW]).splitlines()
    ours, other = ([c.strip() for c in line.strip("|").split("|")] for line in lines[2:])
    assert ours[0] == "voice-agent" and ours[9] == "4.0" and ours[-1] == "1"
    assert other[0] == "nemo" and other[-1] == "15.0"
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|")


def test_a_report_is_whole_on_disk_after_every_row(tmp_path):
    report = Report({"gpu": "a chip"}, {}, out=tmp_path)
    for batch in (1, 8):
        report.steps.append(replace(ROW, batch=batch))
        report.save()
        saved = json.loads((tmp_path / "engine.json").read_text())
        assert read_steps(saved["steps"]) == report.steps
    assert [p.name for p in tmp_path.iterdir()] == ["engine.json"]


def test_the_plot_is_a_picture(tmp_path):
    plot(tmp_path / "p.png", [ROW, replace(ROW, batch=64), OTHER], "title")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "said, wanted, compared, wrong",
    [
        ([[1, 2, 3]], [[1, 2, 3]], 3, 0),
        ([[1, 9, 3]], [[1, 2, 3]], 2, 1),
        ([[1, 2]], [[1, 2, 3]], 3, 1),
        ([[5], []], [[], []], 1, 1),
    ],
)
def test_a_lane_is_compared_up_to_its_first_difference(said, wanted, compared, wrong):
    assert compare(said, wanted) == (compared, wrong)


def test_a_run_holds_only_without_a_miss_within_the_lag_and_with_feeders_in_time():
    assert holds(PACED, 40)
    assert not holds({**PACED, "misses": 1}, 40)
    assert not holds({**PACED, "lag_p99_ms": 41.0}, 40)
    assert not holds({**PACED, "valid": False}, 40)
    assert "| yes |" in paced_table([PACED])
    assert "| not valid |" in paced_table([{**PACED, "valid": False, "holds": False}])


def search(limit: int, most: int, first: int = 100, runs: int = 50):
    seen = []

    def run(streams):
        seen.append(streams)
        return {**PACED, "streams": streams, "misses": int(streams > limit)}

    found = find_capacity(
        run, first=first, most=most, max_lag_ms=40, step=10,
        time_left=lambda: len(seen) < runs, say=lambda _: None,
    )  # fmt: skip
    return found, seen


@pytest.mark.parametrize("limit", [*np.random.default_rng(0).integers(11, 1000, 8)])
def test_the_largest_number_that_holds_is_found_to_a_step(limit):
    found, seen = search(int(limit), 1024)
    assert found["holds"] <= limit < found["fails"]
    assert found["complete"] and found["fails"] - found["holds"] <= 10
    assert len(seen) <= 12 and len(set(seen)) == len(seen)


def test_a_search_says_where_all_slots_held_and_where_time_ran_out():
    found, _ = search(5000, 1024)
    assert (found["holds"], found["fails"], found["complete"]) == (1024, None, True)
    found, seen = search(700, 1024, runs=2)
    assert not found["complete"] and len(seen) == 2
    assert search(0, 64)[0]["holds"] == 0
