"""The quick count of false accepts against the trigger itself, on random scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssast_edge.calibration.evidence import Evidence
from ssast_edge.calibration.grid import MIN_HITS, SMOOTHING_MS, THRESHOLDS, reach_of
from ssast_edge.trigger import TriggerConfig
from tests.ssast_edge.calibration.rooms import LABELS, TRIGGERS, room

SEEDS = st.integers(0, 2**32 - 1)


@given(
    SEEDS,
    st.sampled_from(LABELS),
    st.sampled_from(SMOOTHING_MS),
    st.sampled_from(MIN_HITS),
    st.sampled_from(THRESHOLDS),
    st.sampled_from([0.5, 0.9, 1.0]),
    st.sampled_from([0.0, 0.16, 1.0, 7.0]),
)
@settings(max_examples=25)
def test_it_fires_where_the_trigger_does(
    seed: int,
    label: str,
    smoothing_ms: float,
    min_hits: int,
    threshold: float,
    rearm: float,
    refractory_s: float,
) -> None:
    config = TriggerConfig(
        threshold=threshold,
        smoothing_ms=smoothing_ms,
        min_hits=min_hits,
        rearm=rearm,
        refractory_s=refractory_s,
    )
    heard = room(seed, hops=200, gaps=5, said=((3.0, 5.0), (4.0, 8.0)))
    assert Evidence(heard, label, smoothing_ms).firings(config) == heard.firings(label, config)


@given(SEEDS, st.sampled_from(LABELS), st.sampled_from(THRESHOLDS))
@settings(max_examples=5)
def test_the_kept_hops_fire_as_all_hops_do(seed: int, label: str, threshold: float) -> None:
    whole, kept = (
        room(seed, hops=250, gaps=3, keep=keep) for keep in (None, reach_of(TRIGGERS.values(), 80))
    )
    assert sum(len(s.times_s) for s in kept.stretches) < sum(
        len(s.times_s) for s in whole.stretches
    )
    for smoothing_ms in SMOOTHING_MS:
        for min_hits in MIN_HITS:
            config = TriggerConfig(
                threshold=threshold, smoothing_ms=smoothing_ms, min_hits=min_hits
            )
            assert kept.firings(label, config) == whole.firings(label, config)
            assert Evidence(kept, label, smoothing_ms).firings(config) == whole.firings(
                label, config
            )


def test_a_limit_ends_the_count() -> None:
    config = TriggerConfig(threshold=0.1)
    evidence = Evidence(room(1), "computer", 0.0)
    everything = evidence.firings(config)
    assert len(everything) > 5
    assert evidence.firings(config, limit=5) == everything[:5]


def test_the_peaks_are_the_loudest_and_apart() -> None:
    heard = room(2, hops=2000, stretches=1)
    peaks = Evidence(heard, "computer", 0.0).peaks(1, apart_s=5.0)
    scores = [peak.score for peak in peaks]
    times_s = sorted(peak.time_s for peak in peaks)
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(np.nanmax(heard.stretches[0].scores[:, 1]))
    assert np.diff(times_s).min() >= 5.0


def test_an_empty_room_has_no_peaks() -> None:
    silent = room(3, hops=50, stretches=1)
    silent.stretches[0].scores[:] = 0
    evidence = Evidence(silent, "computer", 160.0)
    assert evidence.peaks(2, apart_s=1.0) == []
    assert evidence.firings(TriggerConfig(smoothing_ms=160)) == []
