"""The mean over seeds and its interval."""

import math

import pytest

pytest.importorskip("scipy", reason="scipy is not installed (extra: train)")

from train.seeds import mean_and_interval_over_seeds  # noqa: E402


def test_few_seeds_give_a_wide_interval() -> None:
    found = mean_and_interval_over_seeds([0.8, 0.82, 0.84])
    assert found.value == pytest.approx(0.82)
    assert found.interval.high - found.value == pytest.approx(4.303 * 0.02 / math.sqrt(3), rel=1e-3)
