"""Each rule of the trigger, in audio time."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssast_edge.trigger import Trigger, TriggerConfig

HOP_S = 0.08
# Each rule alone: everything else out of the way.
BARE = TriggerConfig(threshold=0.5, smoothing_ms=0, min_hits=1, rearm=1.0, refractory_s=0.0)


def fired(config: TriggerConfig, scores: Sequence[float], hop_s: float = HOP_S) -> list[int]:
    """Indices of the hops at which a trigger fires."""
    trigger = Trigger(config)
    return [
        index
        for index, score in enumerate(scores)
        if trigger.update(score, index * hop_s) is not None
    ]


def test_score_at_threshold_fires() -> None:
    assert fired(BARE, [0.1, 0.5]) == [1]


def test_score_just_below_threshold_does_not_fire() -> None:
    assert fired(BARE, [0.1, math.nextafter(0.5, 0)]) == []


def test_firing_returns_the_score() -> None:
    assert Trigger(BARE).update(0.75, 0.0) == 0.75


def test_smoothed_is_zero_before_the_first_score() -> None:
    assert Trigger(BARE).smoothed == 0.0


# min_hits


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.9], []),
        ([0.9, 0.9], []),
        ([0.9, 0.9, 0.9], [2]),
        ([0.9, 0.9, 0.1, 0.9], []),
        ([0.9, 0.1, 0.9, 0.1, 0.9], []),
        ([0.9, 0.9, 0.1, 0.9, 0.9, 0.9], [5]),
    ],
)
def test_min_hits_counts_consecutive_hits(scores: list[float], expected: list[int]) -> None:
    assert fired(replace(BARE, min_hits=3), scores) == expected


def test_min_hits_count_anew_after_firing() -> None:
    assert fired(replace(BARE, min_hits=2), [0.9, 0.9, 0.1, 0.9, 0.1, 0.9, 0.9]) == [1, 6]


def test_hits_before_and_after_a_gap_are_not_consecutive() -> None:
    trigger = Trigger(replace(BARE, min_hits=2))
    trigger.update(0.9, 0.0)
    trigger.interrupt()
    assert trigger.update(0.9, 1.0) is None


def test_hits_after_a_gap_count() -> None:
    trigger = Trigger(replace(BARE, min_hits=2))
    trigger.interrupt()
    trigger.update(0.9, 1.0)
    assert trigger.update(0.9, 1.08) == 0.9


# hysteresis


def test_steady_high_score_fires_once() -> None:
    assert fired(BARE, [0.9] * 50) == [0]


@pytest.mark.parametrize(
    ("dip", "expected"),
    [(0.31, [0]), (0.3, [0]), (0.29, [0, 2])],
)
def test_rearms_only_below_its_fraction_of_the_threshold(dip: float, expected: list[int]) -> None:
    config = replace(BARE, threshold=0.6, rearm=0.5)
    assert fired(config, [0.9, dip, 0.9]) == expected


def test_hovering_around_the_threshold_fires_once() -> None:
    assert fired(replace(BARE, rearm=0.5), [0.6, 0.4, 0.6, 0.4, 0.6]) == [0]


def test_gap_does_not_rearm() -> None:
    trigger = Trigger(BARE)
    trigger.update(0.9, 0.0)
    trigger.interrupt()
    assert trigger.update(0.9, 5.0) is None


# refractory time


@pytest.mark.parametrize(("second", "expected"), [(9, [0]), (10, [0, 10]), (11, [0, 11])])
def test_quiet_for_the_refractory_time(second: int, expected: list[int]) -> None:
    scores = [0.9 if index in (0, second) else 0.0 for index in range(20)]
    assert fired(replace(BARE, refractory_s=1.0), scores, hop_s=0.1) == expected


def test_word_still_high_when_the_refractory_time_ends_fires_there() -> None:
    scores = [0.9, 0.0] + [0.9] * 10
    assert fired(replace(BARE, refractory_s=0.5), scores, hop_s=0.1) == [0, 5]


def test_rearms_within_the_refractory_time() -> None:
    scores = [0.9, 0.0, 0.3, 0.3, 0.3, 0.3, 0.9]
    assert fired(replace(BARE, refractory_s=0.5, rearm=0.5), scores, hop_s=0.1) == [0, 6]


# smoothing


def test_smoothed_score_is_the_mean_over_the_time() -> None:
    trigger = Trigger(replace(BARE, smoothing_ms=240, threshold=0.99))
    for index, score in enumerate([0.9, 0.2, 0.4, 0.6]):
        trigger.update(score, index * HOP_S)
    assert trigger.smoothed == pytest.approx((0.2 + 0.4 + 0.6) / 3)


def test_short_burst_is_smoothed_away() -> None:
    assert fired(replace(BARE, smoothing_ms=400), [0.0] * 5 + [0.9] + [0.0] * 5) == []


def test_long_word_passes_smoothing() -> None:
    config = replace(BARE, smoothing_ms=400)
    assert fired(config, [0.0] * 5 + [0.9] * 5 + [0.0] * 5) == [7]


def test_smoothing_goes_by_time_when_hops_are_absent() -> None:
    trigger = Trigger(replace(BARE, smoothing_ms=240))
    trigger.update(0.0, 0.0)
    assert trigger.update(0.8, 0.32) == 0.8


@pytest.mark.parametrize("hop_s", [0.01, 0.02, 0.08, 0.1])
@pytest.mark.parametrize("start_s", [0.0, 0.025, 3600.025, 864000.025])
def test_hop_leaves_the_mean_exactly_after_the_smoothing_time(start_s: float, hop_s: float) -> None:
    trigger = Trigger(replace(BARE, smoothing_ms=800))
    trigger.update(0.4, start_s)
    hops = round(0.8 / hop_s)
    for index in range(1, hops):
        trigger.update(0.0, start_s + index * hop_s)
        assert trigger.smoothed > 0
    trigger.update(0.0, start_s + hops * hop_s)
    assert trigger.smoothed == 0.0


def test_rearm_looks_at_the_smoothed_score() -> None:
    config = replace(BARE, smoothing_ms=160, rearm=0.5)
    assert fired(config, [0.8, 0.0, 0.8, 0.0, 0.0, 0.8, 0.8]) == [0, 6]


# scores that are not numbers


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_score_that_is_not_finite_never_fires(score: float) -> None:
    assert fired(BARE, [score] * 3) == []


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_score_that_is_not_finite_is_left_out_of_the_mean(score: float) -> None:
    trigger = Trigger(replace(BARE, smoothing_ms=400))
    trigger.update(score, 0.0)
    assert trigger.update(0.8, HOP_S) == 0.8


def test_score_that_is_not_finite_ends_a_run_of_hits() -> None:
    assert fired(replace(BARE, min_hits=2), [0.9, math.nan, 0.9]) == []


def test_score_that_is_not_finite_does_not_rearm() -> None:
    assert fired(BARE, [0.9, math.nan, 0.9]) == [0]


def test_smoothed_stays_finite_without_any_score() -> None:
    trigger = Trigger(BARE)
    trigger.update(math.nan, 0.0)
    assert trigger.smoothed == 0.0


# whole streams


def test_reset_starts_a_new_stream() -> None:
    trigger = Trigger(TriggerConfig(smoothing_ms=400, min_hits=2))
    scores = [0.2, 0.9, 0.9, 0.9, 0.1, 0.9]
    first = [trigger.update(score, index * HOP_S) for index, score in enumerate(scores)]
    trigger.reset()
    assert [trigger.update(score, index * HOP_S) for index, score in enumerate(scores)] == first


configs = st.builds(
    TriggerConfig,
    threshold=st.floats(0.05, 0.95),
    smoothing_ms=st.sampled_from([0.0, 80.0, 400.0]),
    min_hits=st.integers(1, 4),
    rearm=st.floats(0.1, 1.0),
    refractory_s=st.sampled_from([0.0, 0.5, 2.0]),
)
streams = st.lists(st.floats(0, 1) | st.just(math.nan), max_size=60)


@given(config=configs, scores=streams)
def test_detections_are_never_closer_than_the_refractory_time(
    config: TriggerConfig, scores: list[float]
) -> None:
    times = [index * HOP_S for index in fired(config, scores)]
    gaps = [after - before for before, after in zip(times, times[1:], strict=False)]
    assert all(gap >= config.refractory_s - 1e-5 for gap in gaps)


@given(config=configs, scores=streams)
def test_fired_score_is_at_or_above_the_threshold(
    config: TriggerConfig, scores: list[float]
) -> None:
    trigger = Trigger(config)
    results = [trigger.update(score, index * HOP_S) for index, score in enumerate(scores)]
    assert all(score >= config.threshold for score in results if score is not None)


@given(config=configs, scores=streams, shift=st.integers(0, 10_000))
def test_a_later_start_shifts_the_detections_only(
    config: TriggerConfig, scores: list[float], shift: int
) -> None:
    trigger = Trigger(config)
    late = [
        index
        for index, score in enumerate(scores)
        if trigger.update(score, (shift + index) * HOP_S) is not None
    ]
    assert late == fired(config, scores)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("threshold", 0.0),
        ("threshold", 1.0),
        ("threshold", math.nan),
        ("smoothing_ms", -1.0),
        ("smoothing_ms", math.inf),
        ("min_hits", 0),
        ("rearm", 0.0),
        ("rearm", 1.1),
        ("refractory_s", -0.1),
        ("refractory_s", math.inf),
    ],
)
def test_value_out_of_range_is_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        replace(BARE, **{field: value})  # type: ignore[arg-type]
