"""Missed words against false accepts per hour while all thresholds of a bundle move together.

Two models are compared at equal false accepts: how many words each misses where its false accepts
are at most those. Knows hop scores and triggers, no model.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ssast_edge.evaluation.matching import match
from ssast_edge.evaluation.scores import HopScores, replay
from ssast_edge.evaluation.track import Track
from ssast_edge.trigger import TriggerConfig

__all__ = ["DetPoint", "det_curve", "miss_rate_at", "shifted"]

SHIFTS = tuple(float(x) for x in np.arange(-4, 4.01, 0.25))  # of every threshold, as logits


@dataclass(frozen=True)
class DetPoint:
    """One setting of all thresholds."""

    shift: float  # logits
    false_accepts_per_hour: float
    miss_rate: float


def shifted(triggers: Mapping[str, TriggerConfig], logit: float) -> dict[str, TriggerConfig]:
    """All thresholds moved by the same logit."""

    def move(threshold: float) -> float:
        value = 1 / (1 + math.exp(-(math.log(threshold / (1 - threshold)) + logit)))
        return min(max(value, 1e-6), 1 - 1e-6)

    return {k: replace(v, threshold=move(v.threshold)) for k, v in triggers.items()}


def det_curve(
    runs: Sequence[tuple[HopScores, Track]],
    triggers: Mapping[str, TriggerConfig],
    shifts: Sequence[float] = SHIFTS,
) -> list[DetPoint]:
    """A point for each shift, over all of the tracks together."""
    hours = sum(track.hours for _, track in runs)
    points = []
    for shift in shifts:
        moved = shifted(triggers, shift)
        scores = [match(t.words, replay(hops, moved), hours=t.hours) for hops, t in runs]
        words = sum(score.words for score in scores)
        missed = words - sum(score.hits for score in scores)
        false_accepts = sum(score.false_accepts for score in scores)
        points.append(DetPoint(shift, false_accepts / hours, missed / words if words else 0.0))
    return points


def miss_rate_at(curve: Sequence[DetPoint], false_accepts_per_hour: float) -> float:
    """The least miss rate of the points with at most so many false accepts; nan where none is."""
    rates = [
        p.miss_rate
        for p in curve
        if p.false_accepts_per_hour <= false_accepts_per_hour + 1e-9  # sums of floats
    ]
    return min(rates, default=math.nan)
