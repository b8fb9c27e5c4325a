"""Percentiles of durations in bounded memory, however long it runs.

A histogram with logarithmic buckets, after the idea of HdrHistogram: a percentile is within
1 % of the true one, the count, the mean and the maximum are exact.
"""

import math

_GROWTH = 1.02  # ratio of a bucket's edges; its middle is within 1 % of every value in it
_LOWEST_MS = 1e-3
_HIGHEST_MS = 1e6
_NUM_BUCKETS = math.ceil(math.log(_HIGHEST_MS / _LOWEST_MS) / math.log(_GROWTH)) + 1
_PER_LOG = 1 / math.log(_GROWTH)


class LatencyHistogram:
    """Durations in milliseconds, from a microsecond to a quarter of an hour."""

    def __init__(self) -> None:
        """Start empty."""
        self.reset()

    def reset(self) -> None:
        """Forget every duration."""
        self._counts = [0] * _NUM_BUCKETS
        self.count = 0
        self.total_ms = 0.0
        self.max_ms = 0.0

    def record(self, duration_ms: float) -> None:
        """Add one duration."""
        position = math.log(max(duration_ms, _LOWEST_MS) / _LOWEST_MS) * _PER_LOG
        self._counts[min(int(position), _NUM_BUCKETS - 1)] += 1
        self.count += 1
        self.total_ms += duration_ms
        self.max_ms = max(self.max_ms, duration_ms)

    def percentile(self, percent: float) -> float:
        """The duration in ms that `percent` (0 to 100) of all stay at or below; 0 when empty."""
        wanted = max(1, math.ceil(self.count * percent / 100))
        seen = 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if seen >= wanted:
                return min(_LOWEST_MS * math.pow(_GROWTH, bucket + 0.5), self.max_ms)
        return 0.0

    def summary(self) -> dict[str, float]:
        """p50, p95, p99 and max in ms."""
        return {
            "p50": self.percentile(50),
            "p95": self.percentile(95),
            "p99": self.percentile(99),
            "max": self.max_ms,
        }
