"""Emissions and lags, as flat arrays."""

from __future__ import annotations

import numpy as np
import pytest

from voice_agent.engine.emissions import Emissions
from voice_agent.engine.stats import LagHistogram


def test_tokens_stay_with_their_lanes_and_in_the_order_of_speaking():
    said = Emissions.of([2, 0, 2, 0], [5, 6, 7, 8], [0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4])
    assert said.lanes.tolist() == [0, 0, 2, 2]
    assert said.tokens_of(2) == [5, 7] and said.tokens_of(0) == [6, 8] and said.tokens_of(1) == []
    assert said.frames.tolist() == [0, 1, 0, 1]
    assert said.probs.dtype == np.float32 and said.tokens.dtype == np.int32


def test_lanes_that_say_nothing_take_no_place():
    said = Emissions.by_lane([([], [], []), ([3, 4], [0, 0], [1.0, 0.5]), ([], [], [])])
    assert len(said) == 2
    assert said.lanes.tolist() == [1, 1]
    assert len(Emissions.by_lane([])) == 0


def test_a_percentile_is_never_told_too_short():
    lags = LagHistogram()
    assert (len(lags), lags.percentile_s(99)) == (0, 0.0)
    values = np.random.default_rng(0).gamma(2, 0.01, 10_000)
    for part in np.split(values, 10):
        lags.add(part)
    assert len(lags) == 10_000
    for percent in (1, 50, 95, 99, 100):
        exact = np.percentile(values, percent, method="inverted_cdf")
        assert exact <= lags.percentile_s(percent) <= exact + 0.0005
    assert lags.longest_s == values.max()
    assert lags.over(0.05) == pytest.approx((values > 0.05).sum(), abs=20)


def test_a_lag_beyond_the_histogram_counts_and_is_remembered():
    lags = LagHistogram()
    lags.add(np.array([0.001, 60.0]))
    assert (len(lags), lags.longest_s, lags.over(1.0)) == (2, 60.0, 1)
