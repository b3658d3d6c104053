"""Paced streams: what is counted as a lag, and that every chunk is."""

from __future__ import annotations

import json

import numpy as np
import pytest

from voice_agent.bench.hollow import HollowRecognizer
from voice_agent.bench.paced import PacedResult, main, run_paced
from voice_agent.bench.paced_feeders import Tally


@pytest.fixture
def hollow():
    recognizer = HollowRecognizer(slots=24, fixed_s=0.002)
    yield recognizer
    recognizer.close()


@pytest.mark.parametrize("phases", ["spread", "lockstep"])
def test_every_chunk_of_every_stream_is_counted(hollow, phases):
    result = run_paced(hollow, 20, 1.0, phases, segment_s=0.0, warmup_s=0.2, feeders=2)
    assert result.failed is None
    fed = 20 * result.seconds / 0.08
    assert result.chunks == pytest.approx(fed, rel=0.25)
    assert 0 < result.lag_p50_ms <= result.lag_p95_ms <= result.lag_p99_ms <= result.lag_max_ms
    assert result.lag_p50_ms >= 2.0, "a step takes that long"
    assert result.partials > 0 and result.finals == 0
    assert result.cpu_cores > 0 and result.engine_cores > 0 and result.feeder_cores > 0
    assert f"20 streams, {phases}" in str(result)


def test_segments_end_and_their_finals_are_timed(hollow):
    result = run_paced(hollow, 10, 1.0, segment_s=0.4, warmup_s=0.2)
    assert result.finals > 10
    assert 0 < result.final_p50_ms <= result.final_p99_ms
    assert hollow.stats.open_streams == 0, "so that the next run finds its slots"


def test_a_lag_counts_from_the_streams_clock_and_not_from_the_late_feeder():
    tally = Tally(2, 0.08)
    tally.clocks(np.array([0.0, 0.02]), zero=100.0)
    tally.counting = True
    # Chunks that ended at 100.80 and 100.82, fed at 100.81 and 100.83, told at 100.85.
    tally.record(np.array([0, 1]), np.array([100.81, 100.83]), 100.85)
    assert tally.lags.longest_s == pytest.approx(0.05)
    assert tally.lags.percentile_s(50) == pytest.approx(0.03, abs=0.001)


def test_a_stream_that_fails_fails_the_run(hollow):
    def explode(slots, pos, pcm, right):
        raise RuntimeError("device lost")

    hollow._scheduler._launch = explode
    result = run_paced(hollow, 3, 0.5, warmup_s=0.1)
    assert not result.valid
    assert "device lost" in str(result.failed)
    assert "FAILED" in str(result)


def test_a_run_whose_feeders_fell_behind_does_not_count():
    values = dict.fromkeys(PacedResult.__dataclass_fields__, 1.0)
    values |= {"phases": "spread", "failed": None, "chunk_ms": 80.0, "gpu_bytes": None}
    assert PacedResult(**values).valid
    late = PacedResult(**values | {"feeder_late_max_ms": 81.0})
    assert not late.valid and "NOT VALID" in str(late)


@pytest.mark.parametrize("wrong", [{"streams": 0}, {"seconds": 0}, {"feeders": 0}])
def test_a_run_of_nothing_is_refused(hollow, wrong):
    with pytest.raises(ValueError, match="a paced run takes"):
        run_paced(hollow, **{"streams": 1, "seconds": 1.0} | wrong)


def test_the_host_alone_from_the_command_line(capsys):
    main(["--streams", "8", "--seconds", "0.3", "--step-ms", "1", "--json"])
    row = json.loads(capsys.readouterr().out)
    assert row["streams"] == 8 and row["chunks"] > 0
