"""How sure a figure of clips is: bootstrap intervals over clips, speakers or other whole groups.

Knows arrays only. N clips, S resamples. What cannot be known is nan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "UNKNOWN",
    "Estimate",
    "Interval",
    "bootstrap",
    "centred",
    "check_level",
    "json_number",
    "mean_defined",
    "paired_bootstrap",
    "percentiles",
    "resamples",
    "share_estimate",
    "units_of",
]

Floats = NDArray[np.floating[Any]]
Counts = NDArray[np.int32]  # (N, S): how often a resample draws a clip

_BLOCK = 32  # resamples at once: the (N, block) tables of 40 000 clips stay near the cache


@dataclass(frozen=True)
class Interval:
    """A confidence interval; both ends nan where the clips cannot tell."""

    low: float
    high: float


UNKNOWN = Interval(math.nan, math.nan)


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval."""

    value: float
    interval: Interval

    def to_json(self) -> dict[str, float | None]:
        """value, low, high; null for what is not finite."""
        ends = {"value": self.value, "low": self.interval.low, "high": self.interval.high}
        return {name: json_number(x) for name, x in ends.items()}


def bootstrap(
    statistic: Callable[..., float],
    *arrays: ArrayLike,
    groups: ArrayLike | None = None,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile interval of statistic(*arrays), the rows of the arrays drawn anew together.

    groups: (N,) names (speakers, say) whose rows are drawn together; a row with the empty name
    is a group of its own. Resamples where the statistic is nan do not count.
    """
    tables = [np.asarray(array) for array in arrays]
    if not tables or any(table.ndim == 0 or len(table) != len(tables[0]) for table in tables):
        raise ValueError(
            f"arrays of lengths {[t.shape[:1] for t in tables]}: wanted one row a clip"
        )
    units = units_of(groups, len(tables[0]))
    if units.max(initial=-1) < 1:
        raise ValueError(
            f"{units.max(initial=-1) + 1} clips or groups to resample: wanted 2 or more"
        )
    rows = np.arange(len(units))
    values = [
        statistic(*(table[drawn] for table in tables))
        for counts in resamples(units, samples, level, seed)
        for drawn in (np.repeat(rows, column) for column in counts.T)
    ]
    return percentiles(np.array(values, dtype=np.float64), level)


def paired_bootstrap(
    correct_a: ArrayLike,
    correct_b: ArrayLike,
    groups: ArrayLike | None = None,
    seed: int = 0,
    *,
    samples: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """Mean of `correct_a` minus that of `correct_b` on the same clips, which are drawn together.

    correct: (N,) 0 or 1, or any score of a clip. An interval without 0 is a real difference.
    """
    a, b = np.asarray(correct_a, dtype=np.float64), np.asarray(correct_b, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"shapes {a.shape} and {b.shape}: wanted (clips,) of the same clips")
    interval = bootstrap(np.mean, a - b, groups=groups, samples=samples, seed=seed, level=level)
    return Estimate(float((a - b).mean()), interval)


def mean_defined(values: ArrayLike) -> float:
    """Mean of the values that are not nan; nan where all are."""
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    return float(known.mean()) if known.size else math.nan


def resamples(units: NDArray[np.intp], samples: int, level: float, seed: int) -> Iterator[Counts]:
    """Blocks of resamples of the units, as counts of the clips; the same for the same seed."""
    check_level(level)
    if samples < 1:
        raise ValueError(f"{samples} resamples: wanted 1 or more")
    rng = np.random.default_rng(seed)
    number = int(units.max()) + 1
    for start in range(0, samples, _BLOCK):
        width = min(_BLOCK, samples - start)
        drawn = rng.integers(number, size=(number, width)) * width + np.arange(width)
        counts = np.bincount(drawn.ravel(), minlength=number * width)
        yield counts.reshape(number, width).astype(np.int32)[units]


def units_of(groups: ArrayLike | None, num_clips: int) -> NDArray[np.intp]:
    """(N,) number of what each clip is drawn with."""
    if groups is None:
        return np.arange(num_clips)
    names = np.asarray(groups)
    if names.shape != (num_clips,):
        raise ValueError(f"groups of shape {names.shape}: wanted ({num_clips},), one a clip")
    units = np.unique(names, return_inverse=True)[1]
    if names.dtype.kind in "US" and (nameless := names == names.dtype.type()).any():
        units[nameless] = len(names) + np.arange(nameless.sum())
        units = np.unique(units, return_inverse=True)[1]
    return units


def percentiles(values: Floats, level: float) -> Interval:
    """The middle `level` of the values that are not nan."""
    known = values[~np.isnan(values)]
    if not known.size:
        return UNKNOWN
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def share_estimate(value: float, values: Floats, units: int, level: float) -> Estimate:
    """A share with the percentiles of its resamples, `values`.

    Of exactly 0 or 1 the bootstrap sees no chance: it has the exact (Clopper-Pearson) interval.
    """
    if value in (0, 1):
        rest = 1 - ((1 - level) / 2) ** (1 / units)
        return Estimate(value, Interval(0.0, rest) if value == 0 else Interval(1 - rest, 1.0))
    return Estimate(value, UNKNOWN if units < 2 else percentiles(values, level))


def centred(values: Floats, estimate: float, level: float) -> Interval:
    """Percentiles about the estimate, in [0, 1].

    A clip that is drawn twice ties with itself, which raises average precision: over many classes
    the plain percentiles leave the estimate outside. No width means no knowledge, hence nan.
    """
    plain = percentiles(values, level)
    if not plain.low < plain.high:
        return UNKNOWN
    shift = estimate - mean_defined(values)
    return Interval(max(plain.low + shift, 0.0), min(plain.high + shift, 1.0))


def check_level(level: float) -> None:
    """Raise ValueError unless a confidence level."""
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, wanted between 0 and 1")


def json_number(value: float) -> float | None:
    """Six decimals; null for what is not finite."""
    return round(value, 6) if math.isfinite(value) else None
