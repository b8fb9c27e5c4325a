"""Durations of one thing that is done again and again, and what they come to.

Up to `EXACT` of them are kept as they are; from then on they are counted in buckets, so that a run
of hours needs no more memory: a percentile is then within 0.05 %, count, mean and maximum stay
exact.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

DoubleArray = NDArray[np.float64]

EXACT = 1 << 17
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9}
HISTOGRAM_BINS = 60
_QUANTILES = np.concatenate(
    [np.linspace(0, 0.98, 99), np.linspace(0.982, 0.998, 9), [0.999, 0.9995, 1]]
)

_GROWTH = 1.001  # ratio of a bucket's edges
_LOWEST_MS = 1e-4
_NUM_BUCKETS = math.ceil(math.log(1e7 / _LOWEST_MS) / math.log(_GROWTH))


class Durations:
    """Milliseconds, in the order in which they were measured."""

    def __init__(self) -> None:
        """Start empty."""
        self.count = 0
        self.total_ms = 0.0
        self.max_ms = 0.0
        self._parts: list[DoubleArray] = []
        self._counts: NDArray[np.int64] | None = None
        self._steps_ms = 0.0  # sum of the differences between neighbours
        self._num_steps = 0

    @property
    def is_exact(self) -> bool:
        """Whether every duration is still kept."""
        return self._counts is None

    def extend(self, durations_ms: Sequence[float] | DoubleArray) -> None:
        """Add durations that followed each other without a break."""
        added = np.asarray(durations_ms, np.float64)
        if not len(added):
            return
        self.count += len(added)
        self.total_ms += float(added.sum())
        self.max_ms = max(self.max_ms, float(added.max()))
        self._steps_ms += float(np.abs(np.diff(added)).sum())
        self._num_steps += len(added) - 1
        self._parts.append(added)
        if self._counts is not None or self.count > EXACT:
            if self._counts is None:
                self._counts = np.zeros(_NUM_BUCKETS, np.int64)
            for part in self._parts:
                self._counts += _bucketed(part)
            self._parts = []

    def quantiles(self, shares: DoubleArray) -> DoubleArray:
        """Durations that these shares (0 to 1) of all stay at or below; needs at least one."""
        if self._counts is None:
            return np.asarray(np.quantile(np.concatenate(self._parts), shares), np.float64)
        wanted = np.asarray(shares) * (self.count - 1) + 1
        bucket = np.searchsorted(np.cumsum(self._counts), wanted)
        middle = _LOWEST_MS * _GROWTH ** (np.minimum(bucket, _NUM_BUCKETS - 1) + 0.5)
        return np.asarray(np.minimum(middle, self.max_ms), np.float64)

    def summary(self) -> dict[str, float]:
        """count, mean_ms, the percentiles, max_ms and jitter_ms; empty when there are none.

        jitter_ms: mean absolute difference between a duration and the one before.
        """
        if not self.count:
            return {}
        values = self.quantiles(np.array(list(PERCENTILES.values())) / 100)
        named = zip(PERCENTILES, values, strict=True)
        return {
            "count": self.count,
            "mean_ms": self.total_ms / self.count,
            **{f"{name}_ms": float(value) for name, value in named},
            "max_ms": self.max_ms,
            "jitter_ms": self._steps_ms / self._num_steps if self._num_steps else 0.0,
        }

    def curve(self) -> list[list[float]]:
        """The distribution for drawing: pairs of (share, ms), rising, from minimum to maximum."""
        if not self.count:
            return []
        values = self.quantiles(_QUANTILES)
        return [[float(share), float(ms)] for share, ms in zip(_QUANTILES, values, strict=True)]

    def histogram(self) -> dict[str, list[float]]:
        """Counts in equal bins from the minimum to p99.5; the last count is of all beyond it."""
        if not self.count:
            return {"edges_ms": [], "counts": []}
        low, high = self.quantiles(np.array([0, 0.995]))
        edges = np.linspace(low, max(high, low * 1.001 + 1e-6), HISTOGRAM_BINS + 1)
        if self._counts is None:
            counts = np.histogram(np.concatenate(self._parts), edges)[0]
        else:
            centres = _LOWEST_MS * _GROWTH ** (np.arange(_NUM_BUCKETS) + 0.5)
            counts = np.histogram(centres, edges, weights=self._counts)[0]
        beyond = self.count - counts.sum()
        return {
            "edges_ms": [float(edge) for edge in edges],
            "counts": [int(count) for count in (*counts, beyond)],
        }


def _bucketed(durations_ms: DoubleArray) -> NDArray[np.int64]:
    ratio = np.maximum(durations_ms, _LOWEST_MS) / _LOWEST_MS
    buckets = (np.log(ratio) / math.log(_GROWTH)).astype(np.int64)
    counts: NDArray[np.int64] = np.bincount(
        np.minimum(buckets, _NUM_BUCKETS - 1), minlength=_NUM_BUCKETS
    )
    return counts
