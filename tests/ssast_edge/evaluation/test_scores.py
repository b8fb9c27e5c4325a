"""Replaying triggers over scores."""

import numpy as np
import pytest

from ssast_edge.evaluation.scores import HopScores, replay
from ssast_edge.trigger import Trigger, TriggerConfig


@pytest.mark.parametrize("smoothing_ms", [0.0, 160.0, 320.0])
@pytest.mark.parametrize("min_hits", [1, 2, 3])
@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
def test_leaving_out_quiet_stretches_changes_no_detection(
    smoothing_ms: float, min_hits: int, threshold: float
) -> None:
    rng = np.random.default_rng(0)
    steps = 4000
    scores = (0.02 * rng.random(steps)).astype(np.float32)
    for start in rng.integers(0, steps - 20, size=60):
        length = int(rng.integers(1, 12))
        scores[start : start + length] = rng.random(length) ** 0.3
    times = np.array(0.135 + 0.08 * np.arange(steps), dtype=np.float64)
    config = TriggerConfig(threshold=threshold, smoothing_ms=smoothing_ms, min_hits=min_hits)
    trigger = Trigger(config)
    updates = [(t, trigger.update(float(s), float(t))) for t, s in zip(times, scores, strict=True)]
    expected = [(t, score) for t, score in updates if score is not None]
    found = replay(HopScores(("word",), times, scores[:, None]), {"word": config})
    assert len(expected) > 1
    assert [(d.time_s, d.score) for d in found] == expected
