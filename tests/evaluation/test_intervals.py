"""Intervals against Student's quantiles and the normal approximation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from hf_modalbridge.evaluation import bootstrap_interval, runs_interval, student_interval


def test_bootstrap_interval_is_about_two_standard_errors():
    values = np.random.default_rng(0).normal(size=900)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / 30
    assert low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.15 * half)
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval(np.ones(7)) == (1.0, 1.0)


@pytest.mark.parametrize("count", [2, 3, 5, 10, 11, 20, 100])
def test_student_interval_is_that_of_the_t_test(count):
    values = np.random.default_rng(count).normal(3.0, 2.0, count).tolist()
    expected = stats.t.interval(0.95, count - 1, loc=np.mean(values), scale=stats.sem(values))
    mean, half = student_interval(values)
    assert (mean - half, mean + half) == pytest.approx(expected, abs=2e-4)
    assert math.isnan(student_interval([1.0])[1])


def test_runs_interval_is_over_runs_and_items():
    assert runs_interval([[0.0] * 50, [1.0] * 50]) == (0.5, 0.0, 1.0)
    mean, low, high = runs_interval([[0.0, 1.0] * 200])
    assert mean == 0.5
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.025, 0.5 + 1.96 * 0.025), abs=0.01)
    assert runs_interval([[1.0], [0.0, 0.0, 0.0]])[0] == 0.5  # a run counts as a run, however long


def test_items_that_all_runs_share_leave_more_to_chance():
    hard = np.random.default_rng(0).integers(2, size=100).astype(float)
    apart, same = (runs_interval([hard] * 8, same_items=shared) for shared in (False, True))
    half = 1.96 * hard.std() / 10
    assert (same[2] - same[1]) / 2 == pytest.approx(half, rel=0.1)
    assert (apart[2] - apart[1]) / 2 == pytest.approx(half / math.sqrt(8), rel=0.1)
