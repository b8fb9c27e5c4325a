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

__all__ = ["Track", "Word", "build_track", "mix_noise"]

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
    """The track with noise over all of it, looped clip after clip.

    SNR is set on each clip's own loud part: the noise follows the mean power of the louder half of
    20 ms frames in every stretch of one source, so quiet recordings do not drown.
    """
    rng = np.random.default_rng(seed)
    total = len(track.samples)
    bed = np.empty(total, dtype=np.float32)
    position = 0
    while position < total:
        clip = noise[int(rng.integers(len(noise)))]
        clip = clip / np.sqrt(np.mean(clip**2) + 1e-12)
        take = min(len(clip), total - position)
        bed[position : position + take] = clip[:take]
        position += take
    edges = [int(at * SAMPLE_RATE) for at, _, _ in track.sources]
    gain = np.empty(total, dtype=np.float32)
    level = 0.01
    bounds = [0, *edges[1:], total]
    for first, last in zip(bounds[:-1], bounds[1:], strict=True):
        stretch = track.samples[first:last]
        frames = stretch[: len(stretch) // 320 * 320].reshape(-1, 320)
        if len(frames) > 4:
            power = np.sort((frames**2).mean(axis=1))
            level = float(np.sqrt(power[len(power) // 2 :].mean() + 1e-10))
        gain[first:last] = level
    return np.asarray(track.samples + bed * gain * 10 ** (-snr_db / 20), dtype=np.float32)


def _room_tone(rng: np.random.Generator, length: int) -> Samples:
    return (rng.standard_normal(length) * 10 ** rng.uniform(-4.5, -3)).astype(np.float32)
