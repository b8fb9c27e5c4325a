"""Noise under a track, at a level that counts the words and not the quiet around them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ssast_edge.evaluation.reel import Audio, bounds_of
from ssast_edge.evaluation.track import SAMPLE_RATE, Track

__all__ = ["Noisy", "active_power", "is_steady", "mix_noise"]

Samples = NDArray[np.float32]

_LONGEST = 60 * SAMPLE_RATE  # a longer source is levelled in parts, as it goes


def mix_noise(track: Track, noise: Sequence[Samples], *, snr_db: float, seed: int) -> "Noisy":
    """The track with noise over all of it, steady recordings looped one after the other.

    Of every source and the pause after it, the noise lies `snr_db` below the active level (see
    `active_power`): what counts is the level of the word, not of the quiet around it, and quiet
    recordings do not drown. Recordings that pause (`is_steady`) are left out, or words in their
    pauses would be heard without noise. Raises ValueError where none is left.
    """
    steady = [clip / np.sqrt(np.mean(clip**2)) for clip in noise if is_steady(clip)]
    if not steady:
        raise ValueError(f"none of {len(noise)} noise recordings goes on without a pause")
    return Noisy(track.samples, track.bounds, steady, snr_db=snr_db, seed=seed)


class Noisy:
    """Audio with a bed of noise under it, made while it is read.

    bounds: of the stretches that have a level each, from 0 to the end. noise: of power 1.
    """

    def __init__(
        self,
        base: Audio,
        bounds: Sequence[int],
        noise: Sequence[Samples],
        *,
        snr_db: float,
        seed: int,
    ) -> None:
        self._base = base
        self._noise = noise
        self._share = 10 ** (-snr_db / 10)
        rng = np.random.default_rng(seed)
        starts, chosen = [0], []
        while starts[-1] < len(base):
            chosen.append(int(rng.integers(len(noise))))
            starts.append(starts[-1] + len(noise[chosen[-1]]))
        self._starts, self._chosen = np.array(starts), chosen
        self._bounds = np.array(_cut(bounds))
        self._power = np.full(len(self._bounds) - 1, np.nan)

    def __len__(self) -> int:
        """How many samples."""
        return len(self._base)

    def __getitem__(self, cut: slice, /) -> Samples:
        """The samples first:last."""
        first, last = bounds_of(cut, len(self._base))
        bed = np.empty(last - first, np.float32)
        index = int(np.searchsorted(self._starts, first, side="right")) - 1
        while index < len(self._chosen) and self._starts[index] < last:
            start, end = self._starts[index : index + 2]
            begin, stop = max(first, start), min(last, end)
            bed[begin - first : stop - first] = self._noise[self._chosen[index]][
                begin - start : stop - start
            ]
            index += 1
        index = int(np.searchsorted(self._bounds, first, side="right")) - 1
        while index < len(self._power) and self._bounds[index] < last:
            start, end = self._bounds[index : index + 2]
            bed[max(first, start) - first : min(last, end) - first] *= self._level(index)
            index += 1
        return self._base[first:last] + bed

    def _level(self, index: int) -> float:
        if np.isnan(self._power[index]):
            start, end = self._bounds[index : index + 2]
            self._power[index] = active_power(self._base[int(start) : int(end)])
        return float(np.sqrt(self._power[index] * self._share))


def active_power(samples: Samples) -> float:
    """Mean power of the frames that are within 20 dB of the loud ones: pauses do not count."""
    power = _frame_power(samples)
    return float(power[power >= _loud(power) / 100].mean())


def is_steady(samples: Samples) -> bool:
    """Whether nine in ten frames are within 15 dB of the loud ones, and those above -60 dBFS."""
    power = _frame_power(samples)
    loud = _loud(power)
    return bool(loud > 1e-6 and np.mean(power >= loud / 10**1.5) > 0.9)


def _cut(bounds: Sequence[int]) -> list[int]:
    """The same bounds, and more in stretches that are too long."""
    cut = [bounds[0]]
    for bound in bounds[1:]:
        while bound - cut[-1] > 1.5 * _LONGEST:
            cut.append(cut[-1] + _LONGEST)
        if bound > cut[-1]:
            cut.append(bound)
    return cut


def _frame_power(samples: Samples) -> NDArray[np.float64]:
    """Mean power of each 20 ms, of what there is where that is less."""
    frame = min(SAMPLE_RATE // 50, len(samples))
    frames = samples[: len(samples) // frame * frame].reshape(-1, frame)
    return np.asarray((frames.astype(np.float64) ** 2).mean(axis=1))


def _loud(power: NDArray[np.float64]) -> float:
    return float(np.quantile(power, 0.95))
