"""Puts pieces of rendered clips together into windows of raw log-mel, with something around them.

Uncorrelated signals add their mel powers, so that noise and babble are sums made in the log domain.
Knows which frames lie where, not what a window is labelled as.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.augment import LOG_FLOOR
from train.pool import FeaturePool

__all__ = ["LOUD", "Composer", "Placed", "Rows", "Window", "level", "loud_from"]

Window = NDArray[np.float32]
Rows = NDArray[np.intp]

_BABBLE = (3, 6)  # voices of a babble
LOUD = 2.3  # log-mel, 10 dB: a crop of a sound holds it when it comes so near its loud frames


@dataclass(frozen=True)
class Placed:
    """A window, and the frame at which what it is about begins; 0 where that is all of it."""

    window: Window
    begins: int = 0


class Composer:
    """Windows of `frames` frames from a pool's rows.

    speech: rows of running speech, one array a pack, drawn alike whatever the packs' sizes.
    noises: rows of what may lie under anything else.
    """

    def __init__(
        self,
        pool: FeaturePool,
        frames: int,
        *,
        speech: list[Rows],
        noises: Rows,
        babble_chance: float,
        seed: int,
    ) -> None:
        self.pool, self.frames = pool, frames
        self.speech, self.noises, self.babble_chance = speech, noises, babble_chance
        self._frames = np.asarray(pool.frames)  # a plain view: a memmap's own slicing is slow
        bins = pool.frames.shape[1]
        self._slope = np.linspace(1, 0, bins, dtype=np.float32)
        hiss = np.random.default_rng(seed).standard_normal(8 * frames * bins)
        self._hiss = (0.6 * hiss).astype(np.float32)

    def row(self, rng: np.random.Generator, rows: Rows) -> np.void:
        """One of the rows."""
        chosen: np.void = self.pool.rows[rows[rng.integers(len(rows))]]
        return chosen

    def features(self, row: np.void, first: int = 0, last: int | None = None) -> Window:
        """Frames first..last of a rendering; converting from float16 is what costs."""
        offset, last = int(row["offset"]), int(row["frames"]) if last is None else last
        return self._frames[offset + first : offset + last].astype(np.float32)

    def cut(self, rng: np.random.Generator, row: np.void, stop: int) -> Window:
        """The window of a rendering that ends at frame `stop`, what lies outside as room tone."""
        window = self.bed(rng)
        first = stop - self.frames
        low, high = max(first, 0), min(stop, int(row["frames"]))
        if high > low:
            window[low - first : high - first] = self.features(row, low, high)
        return window

    def place(
        self,
        rng: np.random.Generator,
        piece: Window,
        *,
        speech_chance: float,
        after: int | None = None,
    ) -> Placed:
        """A piece of speech inside the window, with speech or room tone around it."""
        if len(piece) > self.frames:
            first = int(rng.integers(len(piece) - self.frames + 1))
            return Placed(piece[first : first + self.frames])
        window = self.speech_window(rng) if rng.random() < speech_chance else self.bed(rng)
        if after is None:
            after = int(rng.integers(self.frames - len(piece) + 1))
        first = self.frames - len(piece) - after
        loudness = level(piece)
        window += loudness - level(window) if level(window) > -11 else 0.0
        gap = int(rng.integers(0, 12))  # frames of quiet on both sides
        low, high = max(0, first - gap), min(self.frames, first + len(piece) + gap)
        window[low:high] = np.minimum(window[low:high], piece.min(axis=0) + 1.0)
        window[first : first + len(piece)] = piece
        return Placed(window, first)

    def bed(self, rng: np.random.Generator) -> Window:
        """Quiet: digital silence to faint noise with a random slope over frequency."""
        size = self.frames * self._slope.size
        first = int(rng.integers(self._hiss.size - size))
        bed = self._hiss[first : first + size].reshape(self.frames, -1)
        tilt = self._slope * np.float32(rng.uniform(0, 3))
        loudness = np.float32(LOG_FLOOR + rng.exponential(2.5))
        quiet: Window = np.maximum(bed + (tilt + loudness), np.float32(LOG_FLOOR))
        return quiet

    def speech_window(self, rng: np.random.Generator) -> Window:
        """Running speech, its beginning or its end."""
        row = self.row(rng, self.speech[int(rng.integers(len(self.speech)))])
        last = max(int(row["frames"]), 40)
        return self.cut(rng, row, int(rng.integers(40, last + 20)))

    def snippet(self, rng: np.random.Generator, lengths: tuple[int, int]) -> Window:
        """So many frames of running speech around a loud one."""
        row = self.row(rng, self.speech[int(rng.integers(len(self.speech)))])
        speech = self.features(row)
        loudness = speech.mean(axis=1)
        voiced = np.flatnonzero(loudness >= np.quantile(loudness, 0.6))
        length = int(rng.integers(*lengths))
        first = max(0, int(voiced[rng.integers(len(voiced))]) - length // 2)
        return speech[first : first + length]

    def noise_window(self, rng: np.random.Generator) -> Window:
        """Noise for a whole window; now and then many voices, or noise with one voice in it."""
        if rng.random() < self.babble_chance:
            return self._babble(rng)
        window = self.sound_window(self.row(rng, self.noises), rng)
        if rng.random() < 0.15:  # a voice in the background
            window = np.logaddexp(window, self.speech_window(rng) - rng.uniform(0, 3))
        return window

    def sound_window(self, row: np.void, rng: np.random.Generator) -> Window:
        """Some stretch of a rendering, repeated where it is shorter than the window."""
        first = int(rng.integers(max(0, int(row["frames"]) - self.frames) + 1))
        window = self.features(row, first, min(first + self.frames, int(row["frames"])))
        if len(window) < self.frames:
            window = np.tile(window, (-(-self.frames // len(window)), 1))[: self.frames]
        return window

    def loud_window(self, row: np.void, rng: np.random.Generator, tries: int = 4) -> Window | None:
        """A stretch of a rendering that holds its sound, what lies outside as quiet; None: none."""
        frames = int(row["frames"])
        loud = loud_from(self.features(row).mean(axis=1))
        for _ in range(tries):
            window = self.cut(rng, row, int(rng.integers(min(self.frames, frames) // 2, frames)))
            if np.partition(window.mean(axis=1), -20)[-20] >= loud:
                return window
        return None

    def _babble(self, rng: np.random.Generator) -> Window:
        total = self.speech_window(rng)
        total -= level(total)
        for _ in range(int(rng.integers(*_BABBLE))):
            voice = self.speech_window(rng)
            total = np.logaddexp(total, voice - level(voice) - np.float32(rng.uniform(0, 2)))
        return total


def loud_from(loudness: NDArray[np.float32]) -> float:
    """The mean log-mel from which frames of a recording hold its sound."""
    return float(np.quantile(loudness, 0.95)) - LOUD


def level(features: Window) -> float:
    """Mean log-mel of the louder half."""
    per_frame = features.mean(axis=1)
    return float(np.sort(per_frame)[len(per_frame) // 2 :].mean())
