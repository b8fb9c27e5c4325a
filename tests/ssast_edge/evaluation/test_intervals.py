"""Exact intervals, against R and scipy."""

import pytest

from ssast_edge.evaluation.intervals import miss_interval, rate_interval


# Reference values from R: binom.test and poisson.test.
@pytest.mark.parametrize(
    ("misses", "words", "interval"),
    [(0, 20, (0.0, 0.16843)), (5, 126, (0.013012, 0.090231)), (20, 20, (0.83157, 1.0))],
)
def test_miss_interval_is_clopper_pearson(
    misses: int, words: int, interval: tuple[float, float]
) -> None:
    assert miss_interval(misses, words) == pytest.approx(interval, abs=2e-4)


@pytest.mark.parametrize(
    ("events", "hours", "interval"), [(0, 2.0, (0.0, 1.8444)), (2, 1.0, (0.24221, 7.22469))]
)
def test_rate_interval_is_exact_poisson(
    events: int, hours: float, interval: tuple[float, float]
) -> None:
    assert rate_interval(events, hours) == pytest.approx(interval, abs=1e-4)


COUNTS = [(0, 1), (1, 1), (0, 7), (3, 278), (139, 278), (277, 278), (1, 9000), (4500, 9000)]


@pytest.mark.parametrize(("misses", "words"), COUNTS)
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_miss_interval_is_that_of_scipy(misses: int, words: int, confidence: float) -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed (extra: train)")
    tail = (1 - confidence) / 2
    low = stats.beta.ppf(tail, misses, words - misses + 1) if misses else 0.0
    high = stats.beta.ppf(1 - tail, misses + 1, words - misses) if misses < words else 1.0
    assert miss_interval(misses, words, confidence) == pytest.approx((low, high), rel=1e-8)


@pytest.mark.parametrize("events", [0, 1, 2, 30, 999, 20_000])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.9999])
def test_rate_interval_is_that_of_scipy(events: int, confidence: float) -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed (extra: train)")
    tail = (1 - confidence) / 2
    low = stats.chi2.ppf(tail, 2 * events) / 2 if events else 0.0
    high = stats.chi2.ppf(1 - tail, 2 * events + 2) / 2
    wanted = low / 2.5, high / 2.5
    assert rate_interval(events, 2.5, confidence) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(("misses", "words"), [(-1, 3), (4, 3)])
def test_impossible_counts_are_refused(misses: int, words: int) -> None:
    with pytest.raises(ValueError, match="misses"):
        miss_interval(misses, words)
    with pytest.raises(ValueError, match="hours"):
        rate_interval(1, 0.0)
