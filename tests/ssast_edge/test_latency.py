"""Percentiles of a histogram against the sorted list."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssast_edge.latency import LatencyHistogram


def filled(durations_ms: list[float]) -> LatencyHistogram:
    """A histogram of these durations."""
    histogram = LatencyHistogram()
    for duration_ms in durations_ms:
        histogram.record(duration_ms)
    return histogram


@given(
    durations_ms=st.lists(st.floats(1e-3, 1e5), min_size=1, max_size=200),
    percent=st.floats(0, 100),
)
def test_percentile_is_within_one_percent(durations_ms: list[float], percent: float) -> None:
    exact = np.percentile(durations_ms, percent, method="inverted_cdf")
    assert filled(durations_ms).percentile(percent) == pytest.approx(exact, rel=0.0101)


def test_summary_of_nothing_is_zero() -> None:
    assert filled([]).summary() == {"p50": 0.0, "p95": 0.0, "p99": 0.0, "max": 0.0}


def test_count_total_and_maximum_are_exact() -> None:
    histogram = filled([0.5, 2.25, 1.25])
    assert (histogram.count, histogram.total_ms, histogram.max_ms) == (3, 4.0, 2.25)


def test_percentile_is_never_above_the_maximum() -> None:
    assert filled([1.0, 1.0, 1.0]).percentile(99) <= 1.0


@pytest.mark.parametrize("duration_ms", [0.0, 1e-9, 1e12])
def test_duration_out_of_range_is_counted(duration_ms: float) -> None:
    assert filled([duration_ms]).count == 1


def test_reset_forgets_everything() -> None:
    histogram = filled([5.0])
    histogram.reset()
    assert (histogram.count, histogram.summary()["max"]) == (0, 0.0)
