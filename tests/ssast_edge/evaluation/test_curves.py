"""Curves: every threshold moved together, counts that add up, what hours can show."""

import math

import numpy as np
import pytest

from ssast_edge import Detection
from ssast_edge.evaluation.curves import (
    SHIFTS,
    Point,
    best_within,
    label_curves,
    points_of_events,
    together,
)
from ssast_edge.evaluation.det import det_curve, miss_rate_at, shifted
from ssast_edge.evaluation.scores import HopScores
from ssast_edge.evaluation.track import Track, Word
from ssast_edge.trigger import TriggerConfig


def test_all_thresholds_move_by_the_same_logit() -> None:
    triggers = {"a": TriggerConfig(threshold=0.5), "b": TriggerConfig(threshold=0.9, min_hits=2)}
    moved = shifted(triggers, 1.0)
    assert moved["a"].threshold == pytest.approx(0.7311, abs=1e-4)
    assert moved["b"].threshold == pytest.approx(0.9607, abs=1e-4)
    assert moved["b"].min_hits == 2
    back = shifted(moved, -1.0)
    assert [t.threshold for t in back.values()] == pytest.approx([0.5, 0.9])
    extreme = shifted(triggers, 60.0)
    assert all(0 < trigger.threshold < 1 for trigger in extreme.values())


def hour_of_scores() -> tuple[HopScores, list[Word]]:
    """Two labels over an hour; words score high, some moments between them do, too."""
    rng = np.random.default_rng(4)
    times = np.array(0.1 + 0.1 * np.arange(36_000), np.float64)
    scores = (0.02 * rng.random((36_000, 2))).astype(np.float32)
    words = []
    for number, at in enumerate(np.linspace(20, 3500, 60)):
        label = number % 2
        words.append(Word("ab"[label], at, at + 0.6, ""))
        first = int((at + 0.3) / 0.1)
        scores[first : first + 5, label] = rng.beta(4, 1)
    for first in rng.integers(0, 35_900, 40):
        scores[first : first + 4, rng.integers(2)] += np.float32(rng.beta(2, 3) * 0.9)
    return HopScores(("a", "b"), times, scores), words


TRIGGERS = {"a": TriggerConfig(threshold=0.6, smoothing_ms=200), "b": TriggerConfig(min_hits=2)}


def test_the_curve_is_that_of_the_triggers_themselves() -> None:
    hops, words = hour_of_scores()
    track = Track(np.zeros(3600 * 16000, np.float32), tuple(words), ())
    shifts = (-3.0, -1.0, 0.0, 1.0, 3.0)
    fast = together(label_curves(hops, words, TRIGGERS, track.hours, shifts))
    slow = det_curve([(hops, track)], TRIGGERS, shifts)
    assert [p.false_accepts_per_hour for p in fast] == [p.false_accepts_per_hour for p in slow]
    assert [p.miss_rate for p in fast] == pytest.approx([p.miss_rate for p in slow])
    assert len({p.false_accepts_per_hour for p in slow}) > 2, "a curve, not a point"


def test_labels_add_up_to_all() -> None:
    hops, words = hour_of_scores()
    curves = label_curves(hops, words, TRIGGERS, 1.0)
    for number, point in enumerate(together(curves)):
        parts = [curve[number] for curve in curves.values()]
        assert point.words == len(words)
        assert point.setting == SHIFTS[number]
        assert point.missed == sum(part.missed for part in parts)
        assert point.false_accepts == sum(part.false_accepts for part in parts)


def test_the_best_point_within_a_rate_is_in_the_middle_of_its_ties() -> None:
    points = [Point(float(s), 10, m, f, 0, 2.0) for s, m, f in
              [(0, 0, 9), (1, 1, 1), (2, 1, 1), (3, 1, 0), (4, 5, 0)]]  # fmt: skip
    assert best_within(points, 0.5).setting == 2.0  # type: ignore[union-attr]
    assert best_within(points, 0.0).setting == 3.0  # type: ignore[union-attr]
    assert best_within(points[:3], 0.1) is None
    assert best_within([], 1.0) is None


def test_no_event_in_so_many_hours_shows_a_rate_below_three_over_them() -> None:
    point = Point(0.0, 5, 0, 0, 0, 2.5)
    assert point.at_most_per_hour == pytest.approx(-math.log(0.05) / 2.5)
    found = point.to_json()
    assert found["below_per_hour_at_95"] == pytest.approx(1.1983, abs=1e-4)
    assert found["miss_rate_95"][0] == 0.0


def test_another_program_has_a_point_for_each_setting_events_or_none() -> None:
    words = [Word("a", 1.0, 1.5, "")]
    events = {0.3: [Detection("a", 1.4, 1.0), Detection("a", 9.0, 1.0)], 0.9: []}
    points = points_of_events(events, words, ["a"], 0.5)["a"]
    assert [(p.setting, p.missed, p.false_accepts) for p in points] == [(0.3, 0, 1), (0.9, 1, 0)]


def test_no_rate_is_reached_where_no_point_is() -> None:
    assert math.isnan(miss_rate_at([], 1.0))
