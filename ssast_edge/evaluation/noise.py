"""Noise under a track, at a level that counts the words and not the quiet around them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ssast_edge.evaluation.track import SAMPLE_RATE, Track

__all__ = ["active_power", "is_steady", "mix_noise"]

Samples = NDArray[np.float32]


def mix_noise(track: Track, noise: Sequence[Samples], *, snr_db: float, seed: int) -> Samples:
    """The track with noise over all of it, steady recordings looped one after the other.

    Of every source and the pause after it, the noise lies `snr_db` below the active level (see
    `active_power`): what counts is the level of the word, not of the quiet around it, and quiet
    recordings do not drown. Recordings that pause (`is_steady`) are left out, or words in their
    pauses would be heard without noise.
    """
    steady = [clip for clip in noise if is_steady(clip)]
    if not steady:
        raise ValueError(f"none of {len(noise)} noise recordings goes on without a pause")
    rng = np.random.default_rng(seed)
    total = len(track.samples)
    bed = np.empty(total, dtype=np.float32)
    position = 0
    while position < total:
        clip = steady[int(rng.integers(len(steady)))]
        clip = clip / np.sqrt(np.mean(clip**2))
        take = min(len(clip), total - position)
        bed[position : position + take] = clip[:take]
        position += take
    starts = [int(source.start_s * SAMPLE_RATE) for source in track.sources]
    bounds = [0, *starts[1:], total]
    for first, last in zip(bounds[:-1], bounds[1:], strict=True):
        bed[first:last] *= np.sqrt(active_power(track.samples[first:last]) * 10 ** (-snr_db / 10))
    return track.samples + bed


def active_power(samples: Samples) -> float:
    """Mean power of the frames that are within 20 dB of the loud ones: pauses do not count."""
    power = _frame_power(samples)
    return float(power[power >= _loud(power) / 100].mean())


def is_steady(samples: Samples) -> bool:
    """Whether nine in ten frames are within 15 dB of the loud ones, and those above -60 dBFS."""
    power = _frame_power(samples)
    loud = _loud(power)
    return bool(loud > 1e-6 and np.mean(power >= loud / 10**1.5) > 0.9)


def _frame_power(samples: Samples) -> NDArray[np.float64]:
    """Mean power of each 20 ms, of what there is where that is less."""
    frame = min(SAMPLE_RATE // 50, len(samples))
    frames = samples[: len(samples) // frame * frame].reshape(-1, frame)
    return np.asarray((frames.astype(np.float64) ** 2).mean(axis=1))


def _loud(power: NDArray[np.float64]) -> float:
    return float(np.quantile(power, 0.95))
