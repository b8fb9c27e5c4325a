"""Percentiles against numpy, bounded memory, curves and histograms."""

import numpy as np
import pytest

from ssast_edge.bench import durations as module
from ssast_edge.bench.durations import Durations
from ssast_edge.bench.series import Series

# Recorded: ms of inferences of a small model on a busy machine, in their order.
RECORDED = [
    *(1.81, 1.79, 1.83, 6.02, 1.80, 1.80, 5.94, 1.78, 1.82, 1.80, 9.71, 1.79, 1.81, 2.02, 1.80),
    *(1.77, 1.80, 1.95, 1.81, 5.99, 1.84, 1.80, 1.79, 1.80, 1.81, 1.79, 17.3, 1.80, 1.79, 1.82),
]


def test_percentiles_are_those_of_numpy() -> None:
    durations = Durations()
    durations.extend(RECORDED[:11])
    durations.extend(RECORDED[11:])
    summary = durations.summary()
    for name, percent in {"p50": 50, "p90": 90, "p95": 95, "p99": 99, "p99.9": 99.9}.items():
        assert summary[f"{name}_ms"] == pytest.approx(np.percentile(RECORDED, percent), rel=1e-12)
    assert summary["mean_ms"] == pytest.approx(np.mean(RECORDED))
    assert (summary["max_ms"], summary["count"]) == (17.3, 30)


def test_jitter_is_the_mean_step_and_breaks_count_as_none() -> None:
    durations = Durations()
    durations.extend([1.0, 2.0, 4.0])
    durations.extend([10.0, 9.0])
    assert durations.summary()["jitter_ms"] == pytest.approx((1 + 2 + 1) / 3)


def test_a_long_run_is_counted_in_buckets_within_a_thousandth(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "EXACT", 5000)
    values = np.random.default_rng(0).lognormal(0.5, 0.8, 60_000)
    durations = Durations()
    for part in np.split(values, 60):
        durations.extend(part)
    assert not durations.is_exact
    assert durations._parts == []
    summary = durations.summary()
    for name, percent in {"p50": 50, "p99": 99, "p99.9": 99.9}.items():
        wanted = np.percentile(values, percent)
        # Half a bucket, and between two stragglers a percentile has no single value.
        assert summary[f"{name}_ms"] == pytest.approx(wanted, rel=1e-3 if percent < 99.9 else 5e-3)
    assert summary["max_ms"] == values.max()
    assert summary["mean_ms"] == pytest.approx(values.mean())
    assert sum(durations.histogram()["counts"]) == 60_000


def test_histogram_and_curve_hold_every_duration() -> None:
    durations = Durations()
    durations.extend(RECORDED)
    histogram = durations.histogram()
    assert sum(histogram["counts"]) == len(RECORDED)
    assert histogram["counts"][-1] == 1  # 17.3 lies beyond p99.5
    curve = np.array(durations.curve())
    assert (np.diff(curve, axis=0) >= 0).all()
    assert curve[0].tolist() == [0, min(RECORDED)]
    assert curve[-1].tolist() == [1, max(RECORDED)]


def test_equal_durations_have_a_histogram_too() -> None:
    durations = Durations()
    durations.extend([2.0] * 10)
    assert sum(durations.histogram()["counts"]) == 10


def test_nothing_measured_is_an_empty_summary() -> None:
    assert Durations().summary() == {}
    assert Durations().curve() == []


def test_a_series_stays_short_and_keeps_mean_and_maximum() -> None:
    series = Series(("time_s", "hot"), by_max=("hot",), length=8)
    for second in range(1000):
        series.add({"time_s": second, "hot": second if second != 500 else None})
    rows = series.rows()
    assert len(rows) <= 9
    assert series.column("hot")[-1] == 999
    times = series.column("time_s")
    assert times == sorted(times, key=lambda value: value or 0)
    assert np.mean([time for time in times[:-1] if time is not None]) == pytest.approx(499, abs=70)


def test_a_column_that_nothing_is_known_of_is_left_out() -> None:
    series = Series(("time_s", "clock"))
    series.add({"time_s": 1.0})
    assert series.table() == {"time_s": [1.0]}
