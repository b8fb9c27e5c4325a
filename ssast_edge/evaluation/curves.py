"""Misses against false accepts over all settings of a detector, and what can be said at a rate.

A setting is a shift of a bundle's thresholds, or whatever an external detector is set by. Knows hop
scores, events and words; no audio.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssast_edge.evaluation.det import shifted
from ssast_edge.evaluation.firing import smooth
from ssast_edge.evaluation.intervals import miss_interval, rate_interval
from ssast_edge.evaluation.matching import match
from ssast_edge.evaluation.scores import HopScores
from ssast_edge.evaluation.track import Word
from ssast_edge.spotter import Detection
from ssast_edge.trigger import TriggerConfig

__all__ = [
    "RATES",
    "SHIFTS",
    "Point",
    "best_within",
    "label_curves",
    "points_of_events",
    "together",
]

SHIFTS = tuple(float(x) for x in np.arange(-6, 7.01, 0.25))  # of every threshold, as logits
RATES = (0.0, 0.1, 0.5, 1.0)  # false accepts an hour


@dataclass(frozen=True)
class Point:
    """What one setting comes to: counts of one label, or of all."""

    setting: float
    words: int
    missed: int
    false_accepts: int
    duplicates: int
    hours: float

    @property
    def miss_rate(self) -> float:
        """Share of the words that were not detected; 0 without words."""
        return self.missed / self.words if self.words else 0.0

    @property
    def false_accepts_per_hour(self) -> float:
        """Over the track's whole length."""
        return self.false_accepts / self.hours

    @property
    def at_most_per_hour(self) -> float:
        """The rate that the hours exclude at 95 %, one-sided: 3 an hour for none in one hour."""
        return rate_interval(self.false_accepts, self.hours, 0.90)[1]

    def counts(self) -> dict[str, Any]:
        """Counts and rates."""
        return {
            "setting": round(self.setting, 6),
            "words": self.words,
            "missed": self.missed,
            "miss_rate": round(self.miss_rate, 5),
            "false_accepts": self.false_accepts,
            "false_accepts_per_hour": round(self.false_accepts_per_hour, 4),
            "duplicates": self.duplicates,
        }

    def to_json(self) -> dict[str, Any]:
        """Counts, rates and exact 95 % intervals."""
        misses = miss_interval(self.missed, self.words)
        rates = rate_interval(self.false_accepts, self.hours)
        return {
            **self.counts(),
            "miss_rate_95": [round(x, 5) for x in misses],
            "false_accepts_per_hour_95": [round(x, 4) for x in rates],
            "below_per_hour_at_95": round(self.at_most_per_hour, 4),
        }


def label_curves(
    hops: HopScores,
    words: Sequence[Word],
    triggers: Mapping[str, TriggerConfig],
    hours: float,
    shifts: Sequence[float] = SHIFTS,
) -> dict[str, list[Point]]:
    """A point of each label for each shift of its threshold. words: labelled as the triggers."""
    curves: dict[str, list[Point]] = {}
    for label, config in triggers.items():
        scores = hops.scores[:, hops.labels.index(label)]
        smoothed = smooth(hops.times_s, scores, config.smoothing_ms)
        points = []
        for shift in shifts:
            moved = shifted({label: config}, shift)[label]
            fired = smoothed.fired(moved)
            events = [
                Detection(label, float(hops.times_s[i]), float(smoothed.means[i])) for i in fired
            ]
            points.append(_point(shift, words, events, hours, label))
        curves[label] = points
    return curves


def points_of_events(
    settings: Mapping[float, Sequence[Detection]],
    words: Sequence[Word],
    labels: Iterable[str],
    hours: float,
) -> dict[str, list[Point]]:
    """A point of each label for each setting, from the events that a detector gave."""
    return {
        label: [
            _point(setting, words, events, hours, label) for setting, events in settings.items()
        ]
        for label in labels
    }


def together(curves: Mapping[Any, Sequence[Point]]) -> list[Point]:
    """All labels at once, setting by setting; a label's words and events are its alone."""
    return [
        Point(
            points[0].setting,
            sum(point.words for point in points),
            sum(point.missed for point in points),
            sum(point.false_accepts for point in points),
            sum(point.duplicates for point in points),
            points[0].hours,
        )
        for points in zip(*curves.values(), strict=True)
    ]


def best_within(points: Sequence[Point], per_hour: float) -> Point | None:
    """The point that misses least with at most so many false accepts an hour.

    Of those that tie, the one in the middle: the settings beside it do as well. None: no setting
    gives so few.
    """
    within = [p for p in points if p.false_accepts_per_hour <= per_hour + 1e-9]  # sums of floats
    least = min((point.missed for point in within), default=math.inf)
    tied = [point for point in within if point.missed == least]
    return tied[len(tied) // 2] if tied else None


def _point(
    setting: float, words: Sequence[Word], events: Sequence[Detection], hours: float, label: str
) -> Point:
    score = match(words, events, hours=hours, label=label)
    missed = score.words - score.hits
    return Point(setting, score.words, missed, score.false_accepts, score.duplicates, hours)
