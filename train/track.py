"""A long streaming track: keywords among hours of speech, sounds and quiet, with their times.

Seeded; every clip is used at most once, whole and at its own level; nothing is trimmed or chosen.
A keyword's extent inside its recording is found as for training (`train.alignment`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssast_edge.audio import read_audio
from ssast_edge.fbank import fbank
from train.alignment import word_extent
from train.packs import Clip

__all__ = ["Track", "Word", "active_power", "build_track", "is_steady", "mix_noise"]

Samples = NDArray[np.float32]
SAMPLE_RATE = 16000
_GAP_S = (0.3, 1.5)  # quiet between two clips


@dataclass(frozen=True)
class Word:
    """A keyword that is said in the track, seconds."""

    label: str
    start_s: float
    end_s: float
    source: str


@dataclass(frozen=True)
class Track:
    """samples: (N,) float32 at 16 kHz; words in order; sources: (start_s, pack, file) of clips."""

    samples: Samples
    words: tuple[Word, ...]
    sources: tuple[tuple[float, str, str], ...]

    @property
    def hours(self) -> float:
        """Length of the track."""
        return len(self.samples) / SAMPLE_RATE / 3600


def build_track(clips: Sequence[Clip], *, seed: int) -> Track:
    """Put all clips in random order with faint room tone between them.

    Speech Commands words are 1 s each and many, so they follow each other as the rest does.
    """
    rng = np.random.default_rng(seed)
    pieces: list[Samples] = []
    words: list[Word] = []
    sources: list[tuple[float, str, str]] = []
    position = 0
    for index in rng.permutation(len(clips)):
        clip = clips[index]
        gap = _room_tone(rng, int(rng.uniform(*_GAP_S) * SAMPLE_RATE))
        samples = read_audio(clip.path)
        start = position + len(gap)
        if clip.kind == "keyword":
            first, end = word_extent(fbank(samples))
            at = start / SAMPLE_RATE
            words.append(Word(clip.word, at + first / 100, at + end / 100 + 0.015, clip.path.name))
        sources.append(
            (start / SAMPLE_RATE, clip.pack, f"{clip.path.parent.name}/{clip.path.name}")
        )
        pieces += [gap, samples]
        position = start + len(samples)
    pieces.append(_room_tone(rng, 2 * SAMPLE_RATE))
    return Track(np.concatenate(pieces), tuple(words), tuple(sources))


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
    starts = [int(at * SAMPLE_RATE) for at, _, _ in track.sources]
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


def _room_tone(rng: np.random.Generator, length: int) -> Samples:
    return (rng.standard_normal(length) * 10 ** rng.uniform(-4.5, -3)).astype(np.float32)
