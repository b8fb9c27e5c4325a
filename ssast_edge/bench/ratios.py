"""How much slower one thing is than another, with the interval that the measurements allow.

The bootstrap draws rounds, not single durations: what disturbs a machine lasts longer than an
inference, so neighbours are not independent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000
_INTERVAL = (2.5, 97.5)  # percent


@dataclass(frozen=True)
class Ratio:
    """A ratio of durations: above 1 is slower. low and high: 95 % interval."""

    value: float
    low: float
    high: float

    def is_change(self) -> bool:
        """Whether the interval leaves out 1."""
        return not self.low <= 1 <= self.high


def paired_ratio(durations: Sequence[float], reference: Sequence[float]) -> Ratio | None:
    """Median of the ratios within each round; None without a round that both have.

    What slows the machine in a round slows both, and cancels out.
    """
    rounds = min(len(durations), len(reference))
    if not rounds:
        return None
    ratios = np.asarray(durations[:rounds]) / np.asarray(reference[:rounds])
    return Ratio(float(np.median(ratios)), *_interval(_medians(ratios, seed=0)))


def unpaired_ratio(durations: Sequence[float], reference: Sequence[float]) -> Ratio | None:
    """Ratio of the medians over the rounds of two runs; None when one has no round."""
    if not len(durations) or not len(reference):
        return None
    above, below = np.asarray(durations), np.asarray(reference)
    drawn = _medians(above, seed=0) / _medians(below, seed=1)
    return Ratio(float(np.median(above) / np.median(below)), *_interval(drawn))


def _medians(values: NDArray[np.float64], *, seed: int) -> NDArray[np.float64]:
    """Medians of DRAWS resamples, (DRAWS,)."""
    rng = np.random.default_rng(seed)
    picked = rng.integers(0, len(values), (DRAWS, len(values)))
    medians: NDArray[np.float64] = np.median(values[picked], axis=1)
    return medians


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, _INTERVAL)
    return float(low), float(high)
