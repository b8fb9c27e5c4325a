"""What a track is heard through: levels, bands, where the words stay."""

import numpy as np
import pytest

from ssast_edge.errors import SsastEdgeError
from ssast_edge.evaluation.conditions import (
    DEFAULT_CONDITIONS,
    Telephone,
    condition_name,
    describe,
    heard_through,
    room_response,
)
from ssast_edge.evaluation.noise import active_power
from ssast_edge.evaluation.track import Source, Track

RATE = 16000


def bursts(levels: list[float]) -> Track:
    """A second of noise of each level, each after a second of nothing."""
    rng = np.random.default_rng(0)
    quiet = np.zeros(RATE, np.float32)
    parts = [[quiet, level * rng.standard_normal(RATE).astype(np.float32)] for level in levels]
    samples = np.concatenate([part for pair in parts for part in pair])
    sources = tuple(Source(2.0 * i + 1, "p", f"{i}") for i in range(len(levels)))
    return Track(samples, (), sources)


@pytest.mark.parametrize("name", ["20dB", "10dB", "5dB", "0dB", "-3dB"])
def test_noise_lies_so_far_below_the_active_level_of_every_recording(name: str) -> None:
    track = bursts([0.2, 0.01, 0.05])
    noise = [(0.3 * np.random.default_rng(1).standard_normal(3 * RATE)).astype(np.float32)]
    added = heard_through(name, track, noise, seed=0)[:] - track.samples[:]
    for first, last in zip(track.bounds[:-1], track.bounds[1:], strict=True):
        wanted = active_power(track.samples[first:last]) / np.mean(added[first:last] ** 2)
        assert 10 * np.log10(wanted) == pytest.approx(float(name[:-2]), abs=0.7)


def test_a_telephone_passes_its_band_alone_and_without_delay() -> None:
    time = np.arange(RATE) / RATE
    levels = {}
    for hertz in (100, 1000, 3000, 5000):
        tone = (0.3 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)
        heard = Telephone(tone)[:]
        middle = slice(RATE // 4, 3 * RATE // 4)
        levels[hertz] = float(np.sqrt(np.mean(heard[middle] ** 2) / np.mean(tone[middle] ** 2)))
        if hertz in (1000, 3000):
            assert np.corrcoef(heard[middle], tone[middle])[0, 1] > 0.99
    assert levels[1000] == pytest.approx(1, abs=0.03)
    assert levels[3000] == pytest.approx(1, abs=0.05)
    assert levels[100] < 0.05
    assert levels[5000] < 0.05


def test_a_room_leaves_the_direct_sound_where_it_is() -> None:
    track = bursts([0.1, 0.1])
    heard = heard_through("reverb", track, [], seed=0)[:]
    assert np.abs(heard[: RATE - 1]).max() < 1e-6, "nothing before the first sound"
    after = np.sqrt(np.mean(heard[2 * RATE + 400 : 2 * RATE + 2400] ** 2))
    assert 1e-3 < after < 0.1, "it rings on into the pause"
    said = slice(RATE, 2 * RATE)
    assert np.corrcoef(heard[said], track.samples[said])[0, 1] > 0.5


@pytest.mark.parametrize(("rt60_s", "direct_db"), [(0.3, 6.0), (0.8, -3.0)])
def test_a_room_has_the_decay_and_the_direct_sound_that_were_asked_for(
    rt60_s: float, direct_db: float
) -> None:
    response = room_response(np.random.default_rng(3), rt60_s, direct_db)
    assert response[0] == 1
    assert -10 * np.log10(np.sum(response[1:] ** 2)) == pytest.approx(direct_db, abs=1e-6)
    early, late = (
        np.mean(response[int(at * RATE) : int((at + 0.03) * RATE)] ** 2)
        for at in (0.1, 0.1 + rt60_s / 3)
    )
    assert 10 * np.log10(early / late) == pytest.approx(20, abs=3)


@pytest.mark.parametrize(
    ("given", "name"),
    [("10 db", "10dB"), ("10.0dB", "10dB"), ("-5dB", "-5dB"), ("Clean", "clean")],
)
def test_names_of_conditions(given: str, name: str) -> None:
    assert condition_name(given) == name
    assert describe(name)


@pytest.mark.parametrize("name", ["", "loud", "10", "dB", "nandB"])
def test_an_unknown_condition_is_told(name: str) -> None:
    with pytest.raises(SsastEdgeError, match="unknown condition .* wanted clean, reverb"):
        condition_name(name)


def test_noise_that_is_missing_or_pauses_is_told() -> None:
    track = bursts([0.1])
    with pytest.raises(SsastEdgeError, match="10dB needs recordings of kind noise.*there is none"):
        heard_through("10dB", track, [], seed=0)
    pausing = np.zeros(RATE, np.float32)
    pausing[::1600] = 0.5
    with pytest.raises(SsastEdgeError, match="none of 1 goes on without a pause"):
        heard_through("10dB", track, [pausing], seed=0)


def test_every_default_condition_is_known() -> None:
    assert [condition_name(name) for name in DEFAULT_CONDITIONS] == list(DEFAULT_CONDITIONS)
