"""The mean of one figure over runs with different seeds, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit

from ssast_edge.evaluation.bootstrap import UNKNOWN, Estimate, Interval, check_level

__all__ = ["mean_and_interval_over_seeds"]


def mean_and_interval_over_seeds(values: Sequence[float], level: float = 0.95) -> Estimate:
    """Mean of one figure over runs with different seeds, with Student's t interval.

    The interval covers the chance of training, not that of the choice of test clips; it is nan for
    a single run.
    """
    figures = np.asarray(values, dtype=np.float64)
    check_level(level)
    if figures.ndim != 1 or not figures.size or not np.isfinite(figures).all():
        raise ValueError(f"values {figures.tolist()}: wanted one finite figure for each seed")
    mean, count = float(figures.mean()), len(figures)
    if count == 1:
        return Estimate(mean, UNKNOWN)
    half = float(stdtrit(count - 1, (1 + level) / 2) * figures.std(ddof=1) / math.sqrt(count))
    return Estimate(mean, Interval(mean - half, mean + half))
