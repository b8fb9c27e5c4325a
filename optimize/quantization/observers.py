"""Where to cut a tensor's range for INT8: four ways to choose the largest value that is kept.

Each takes a histogram of absolute values and returns that threshold; the scale is threshold / 127.
Knows nothing of graphs, files or audio.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["BINS", "METHODS", "AbsHistogram", "entropy", "min_max", "mse", "percentile"]

BINS = 2048
LEVELS = 128  # magnitudes of symmetric INT8, 0 among them
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class AbsHistogram:
    """Counts of |x| in BINS equal bins from 0 to `top`, the largest value seen."""

    counts: Counts
    top: float
    low: float | None = None  # lowest and highest x; None: -top and top
    high: float | None = None

    @property
    def edges(self) -> NDArray[np.float64]:
        """(BINS + 1,) ends of the bins."""
        return np.linspace(0, self.top, len(self.counts) + 1)

    def range(self, threshold: float) -> tuple[float, float]:
        """Ends of what is kept when nothing beyond +-threshold is: no wider than what was seen."""
        low = -self.top if self.low is None else self.low
        high = self.top if self.high is None else self.high
        return max(low, -threshold), min(high, threshold)


def min_max(seen: AbsHistogram) -> float:
    """The largest value seen: nothing is clipped."""
    return seen.top


def percentile(seen: AbsHistogram, share: float = 0.9999) -> float:
    """The value below which `share` of all values lie."""
    total = np.cumsum(seen.counts)
    place = int(np.searchsorted(total, share * total[-1]))
    return float(seen.edges[min(place + 1, len(seen.counts))])


def mse(seen: AbsHistogram) -> float:
    """The threshold with the smallest squared error of rounding and clipping together."""
    middles = (seen.edges[:-1] + seen.edges[1:]) / 2
    weights = seen.counts / max(1, seen.counts.sum())

    def error(threshold: float) -> float:
        scale = threshold / (LEVELS - 1)
        kept = np.minimum(np.round(middles / scale), LEVELS - 1) * scale
        return float(weights @ np.square(middles - kept))

    candidates = seen.top * np.linspace(0.05, 1.0, 96)
    return float(min(candidates, key=error))


def entropy(seen: AbsHistogram) -> float:
    """The threshold whose 128 levels lose the least information (KL divergence, as TensorRT's).

    Values beyond the threshold count as the last bin in the reference; each level spreads its count
    evenly over the bins that it stands for and that were not empty.
    """
    counts = seen.counts.astype(np.float64)
    best, threshold = np.inf, seen.top
    for bins in range(LEVELS, len(counts) + 1, 16):
        reference = counts[:bins].copy()
        reference[-1] += counts[bins:].sum()
        level = np.arange(bins) * LEVELS // bins
        held = counts[:bins] > 0
        sums = np.bincount(level, weights=counts[:bins], minlength=LEVELS)
        filled = np.bincount(level, weights=held, minlength=LEVELS)
        spread = np.where(held, (sums / np.maximum(filled, 1))[level], 0.0)
        divergence = _kl(reference, spread)
        if divergence < best:
            best, threshold = divergence, float(seen.edges[bins])
    return threshold


def _kl(reference: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    p, q = reference / reference.sum(), other / max(other.sum(), 1e-12)
    held = p > 0
    return float(np.sum(p[held] * np.log(p[held] / np.maximum(q[held], 1e-9))))


METHODS: dict[str, Callable[[AbsHistogram], float]] = {
    "min-max": min_max,
    "percentile": percentile,
    "mse": mse,
    "entropy": entropy,
}
