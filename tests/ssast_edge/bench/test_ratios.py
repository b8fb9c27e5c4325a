"""Ratios: what they find, and what they do not."""

import numpy as np
import pytest

from ssast_edge.bench.ratios import paired_ratio, unpaired_ratio


def test_what_slows_both_cancels_out_within_a_round() -> None:
    rng = np.random.default_rng(0)
    busy = np.repeat(rng.uniform(1, 4, 10), 4)  # the machine, for four rounds at a time
    ratio = paired_ratio(1.5 * busy, busy * rng.lognormal(0, 0.01, 40))
    assert ratio is not None
    assert ratio.value == pytest.approx(1.5, rel=0.02)
    assert ratio.low <= ratio.value <= ratio.high
    assert ratio.high - ratio.low < 0.05


def test_equal_runs_are_no_change_and_slower_ones_are() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.lognormal(0, 0.05, (2, 40))
    equal, slower = unpaired_ratio(second, first), unpaired_ratio(1.2 * second, first)
    assert equal is not None
    assert slower is not None
    assert not equal.is_change()
    assert slower.is_change()
    assert slower.value == pytest.approx(1.2, rel=0.05)


def test_the_interval_is_the_same_each_time() -> None:
    values = np.random.default_rng(2).lognormal(0, 0.2, 30)
    assert paired_ratio(values, values[::-1]) == paired_ratio(values, values[::-1])


def test_without_a_common_round_there_is_no_ratio() -> None:
    assert paired_ratio([], [1.0]) is None
    assert unpaired_ratio([1.0], []) is None
