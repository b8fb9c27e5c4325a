"""Firing without a loop is what the trigger does hop by hop."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssast_edge.evaluation.firing import smooth
from ssast_edge.trigger import Trigger, TriggerConfig


def one_by_one(times: np.ndarray, scores: np.ndarray, config: TriggerConfig) -> list[int]:
    trigger = Trigger(config)
    pairs = zip(scores.tolist(), times.tolist(), strict=True)
    return [i for i, (s, t) in enumerate(pairs) if trigger.update(s, t) is not None]


@given(
    seed=st.integers(0, 2**32 - 1),
    threshold=st.floats(0.05, 0.95),
    smoothing_ms=st.sampled_from([0.0, 80.0, 160.0, 240.0, 500.0]),
    min_hits=st.integers(1, 4),
    rearm=st.sampled_from([0.3, 0.5, 1.0]),
    refractory_s=st.sampled_from([0.0, 0.16, 1.0, 2.5]),
)
def test_it_fires_where_the_trigger_fires(
    seed: int,
    threshold: float,
    smoothing_ms: float,
    min_hits: int,
    rearm: float,
    refractory_s: float,
) -> None:
    rng = np.random.default_rng(seed)
    # Scores that wander, as those of a model do, not white noise.
    wander = np.cumsum(rng.standard_normal(400)) * 0.5
    scores = (1 / (1 + np.exp(-(wander - wander.mean())))).astype(np.float32)
    times = np.array(0.115 + 0.08 * np.arange(len(scores)), np.float64)
    config = TriggerConfig(
        threshold=threshold,
        smoothing_ms=smoothing_ms,
        min_hits=min_hits,
        rearm=rearm,
        refractory_s=refractory_s,
    )
    found = smooth(times, scores, smoothing_ms).fired(config)
    assert found.tolist() == one_by_one(times, scores, config)


def test_scores_that_are_no_numbers_are_no_evidence() -> None:
    scores = np.array([0.9, np.nan, 0.9, 0.9, 0.1, np.inf, 0.9, 0.9], np.float32)
    times = np.array(0.1 * np.arange(1, 9), np.float64)
    config = TriggerConfig(threshold=0.5, min_hits=2, refractory_s=0.0)
    found = smooth(times, scores, 0.0).fired(config)
    assert found.tolist() == one_by_one(times, scores, config) == [3, 7]


def test_another_smoothing_is_refused() -> None:
    with pytest.raises(ValueError, match="smoothed over"):
        smooth(np.ones(1), np.ones(1, np.float32), 0.0).fired(TriggerConfig(smoothing_ms=80))
