"""Exact intervals of a share and of a rate: Clopper-Pearson and Poisson.

Found by bisection on the tail of the distribution itself, whose terms are summed: the counts of an
evaluation are thousands at most, and scipy is too much for the device.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["miss_interval", "rate_interval"]

_STEPS = 80  # of bisection: below the resolution of a float64


@lru_cache(maxsize=4096)
def miss_interval(misses: int, words: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper-Pearson interval of a miss rate, or of any share of so many; (0, 1) of none."""
    if not 0 <= misses <= words:
        raise ValueError(f"wanted 0 <= misses <= words, got {misses} of {words}")
    tail = (1 - confidence) / 2
    low, high = 0.0, 1.0
    if misses:
        low = _root(lambda p: _binomial(misses, words, words, p) - tail, 0.0, misses / words)
    if misses < words:
        high = _root(lambda p: tail - _binomial(0, misses, words, p), misses / words, 1.0)
    return low, high


@lru_cache(maxsize=4096)
def rate_interval(events: int, hours: float, confidence: float = 0.95) -> tuple[float, float]:
    """Exact Poisson interval of a rate per hour."""
    if events < 0 or not hours > 0:
        raise ValueError(f"wanted events >= 0 in hours > 0, got {events} in {hours}")
    tail = (1 - confidence) / 2
    low = 0.0
    if events:
        low = _root(lambda mean: 1 - _poisson(events - 1, mean) - tail, 0.0, float(events))
    # Far above: the mean and ten standard deviations of any confidence that is asked for.
    most = events + 20 * math.sqrt(events + 1) - 2 * math.log(tail)
    high = _root(lambda mean: tail - _poisson(events, mean), float(events), most)
    return low / hours, high / hours


def _root(rising: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that rises from below zero to above crosses it."""
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _binomial(first: int, last: int, trials: int, share: float) -> float:
    """Chance of `first` to `last` successes."""
    if share <= 0 or share >= 1:
        return float(first <= (trials if share >= 1 else 0) <= last)
    count = np.arange(first, last + 1)
    logs = _log_factorials(trials)
    ways = logs[trials] - logs[count] - logs[trials - count]
    terms = ways + count * math.log(share) + (trials - count) * math.log1p(-share)
    return float(np.exp(terms).sum())


def _poisson(last: int, mean: float) -> float:
    """Chance of at most `last` events."""
    if mean <= 0:
        return 1.0
    count = np.arange(last + 1)
    return float(np.exp(count * math.log(mean) - mean - _log_factorials(last)[count]).sum())


@lru_cache(maxsize=64)
def _log_factorials(largest: int) -> NDArray[np.float64]:
    """(largest + 1,) log n!."""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, largest + 1)))])
