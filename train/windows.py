"""Draws training windows from the feature pool as the runtime will see them.

A keyword counts as present when the whole word lies in the window, wherever; a window that holds
only a part of the word counts as "not yet" or "no more", and one that holds nearly all of it is not
drawn. Batch `step` depends on (seed, step) alone, so a resumed run sees what it would have seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.augment import LOG_FLOOR, LogMelAugmentConfig, add_noise, random_level, spec_augment
from train.pool import FeaturePool

__all__ = ["WindowConfig", "WindowSampler"]

Window = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """What a batch is made of (weights, normalised) and how windows are composed."""

    num_frames: int = 152
    keyword: float = 0.22  # a recorded keyword, whole
    synthetic_keyword: float = 0.10
    partial: float = 0.12  # a keyword that is not yet or no more whole
    fragment: float = 0.10  # half a keyword, then other speech
    near_miss: float = 0.14
    word: float = 0.08  # Speech Commands words
    speech: float = 0.17
    sound: float = 0.07
    context_chance: float = (
        0.4  # other speech around a keyword instead of its own recording's quiet
    )
    start_chance: float = 0.04  # the stream has just begun: the window's first part is zeros

    def __post_init__(self) -> None:
        """Refuse windows too short to be composed and weights that nothing can be drawn by."""
        if self.num_frames < 17:
            raise ValueError(f"num_frames must be at least 17, got {self.num_frames}")
        weights = (
            self.keyword, self.synthetic_keyword, self.partial, self.fragment,
            self.near_miss, self.word, self.speech, self.sound,
        )  # fmt: skip
        if not (min(weights) >= 0 and 0 < sum(weights) < float("inf")):
            raise ValueError(f"weights must be 0 or more and not all 0, got {weights}")
        for name in ("context_chance", "start_chance"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")


class WindowSampler:
    """Batches of (windows, targets) for keyword spotting."""

    def __init__(
        self,
        pool: FeaturePool,
        labels: tuple[str, ...],
        config: WindowConfig,
        augment: LogMelAugmentConfig,
        *,
        seed: int,
        fill: float,
        auxiliary_labels: tuple[str, ...] = (),
    ) -> None:
        self.pool, self.labels, self.config, self.augment = pool, labels, config, augment
        self._word_index = {w: len(labels) + i for i, w in enumerate(auxiliary_labels)}
        self.seed, self.fill = seed, fill
        self._frames = np.asarray(pool.frames)  # a plain view: a memmap's own slicing is slow
        bins = pool.frames.shape[1]
        self._slope = np.linspace(1, 0, bins, dtype=np.float32)
        hiss = np.random.default_rng(seed).standard_normal(8 * config.num_frames * bins)
        self._hiss = (0.6 * hiss).astype(np.float32)
        kinds = np.array([clip.kind for clip in pool.clips])[pool.rows["clip"]]
        packs = np.array([clip.pack for clip in pool.clips])[pool.rows["clip"]]
        words = np.array([clip.word for clip in pool.clips])[pool.rows["clip"]]
        long_enough = pool.rows["frames"] >= 20

        def rows(*conditions: NDArray[np.bool_]) -> NDArray[np.intp]:
            return np.flatnonzero(np.logical_and.reduce([long_enough, *conditions]))

        recorded = packs != "synthetic"
        self._keywords = [rows(recorded, kinds == "keyword", words == w) for w in labels]
        self._synthetic = [rows(~recorded, kinds == "keyword", words == w) for w in labels]
        self._near_miss = rows(kinds == "near-miss")
        self._words = rows(kinds == "word")
        # Packs of running speech are drawn alike, whatever their size.
        speech_packs = [rows(kinds == "speech", packs == p) for p in np.unique(packs)]
        self._speech = [found for found in speech_packs if len(found)]
        self._sounds = rows(kinds == "sound")
        self._check()

    def _check(self) -> None:
        empty = [w for w, found in zip(self.labels, self._keywords, strict=True) if not len(found)]
        if empty:
            raise ValueError(f"no training recording of {', '.join(empty)}")
        unsaid = [
            w for w, found in zip(self.labels, self._synthetic, strict=True) if not len(found)
        ]
        if 0 < len(unsaid) < len(self.labels):
            raise ValueError(f"synthetic keywords, but none of {', '.join(unsaid)}")
        for name, found in (("speech", self._speech), ("sound", self._sounds)):
            if not len(found):
                raise ValueError(f"no training clip of kind {name}")

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Windows (size, frames, bins), raw log-mel; targets (size, labels + auxiliary), 0 or 1."""
        rng = np.random.default_rng([self.seed, step])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        sources = {
            "keyword": self.config.keyword,
            "synthetic_keyword": self.config.synthetic_keyword if len(self._synthetic[0]) else 0.0,
            "partial": self.config.partial,
            "fragment": self.config.fragment,
            "near_miss": self.config.near_miss if len(self._near_miss) else 0.0,
            "word": self.config.word if len(self._words) else 0.0,
            "speech": self.config.speech,
            "sound": self.config.sound,
        }
        weights = np.array(list(sources.values()))
        draws = rng.choice(len(sources), size=size, p=weights / weights.sum())
        names = list(sources)
        bins = self.pool.frames.shape[1]
        windows = np.empty((size, self.config.num_frames, bins), dtype=np.float32)
        targets = torch.zeros(size, len(self.labels) + len(self._word_index))
        for i, draw in enumerate(draws):
            windows[i], label = getattr(self, f"_draw_{names[draw]}")(rng)
            if label is not None:
                targets[i, label] = 1.0
        noise = np.stack([self._noise_window(rng) for _ in range(size)])

        fbank = random_level(torch.from_numpy(windows), self.augment, generator)
        fbank = add_noise(fbank, torch.from_numpy(noise), self.augment, generator)
        fbank = spec_augment(fbank, self.fill, self.augment, generator)
        starts = torch.rand(size, generator=generator) < self.config.start_chance
        for i in torch.nonzero(starts & (targets.sum(1) == 0)).flatten().tolist():
            fbank[i, : int(rng.integers(8, self.config.num_frames - 8))] = 0.0
        return fbank, targets

    # --- one window of each kind: (window, index of the keyword in it or None) ---

    def _draw_keyword(self, rng: np.random.Generator) -> tuple[Window, int | None]:
        label = int(rng.integers(len(self.labels)))
        return self._whole(rng, self._keywords[label]), label

    def _draw_synthetic_keyword(self, rng: np.random.Generator) -> tuple[Window, int | None]:
        label = int(rng.integers(len(self.labels)))
        return self._whole(rng, self._synthetic[label]), label

    def _draw_partial(self, rng: np.random.Generator) -> tuple[Window, int | None]:
        row = self._row(rng, self._keywords[int(rng.integers(len(self.labels)))])
        start, end = int(row["start"]), int(row["end"])
        inside = rng.uniform(0.05, 0.6) * (end - start)
        if rng.random() < 0.7:  # not yet
            return self._cut(rng, row, int(start + inside)), None
        return self._cut(rng, row, int(end - inside) + self.config.num_frames), None

    def _draw_fragment(self, rng: np.random.Generator) -> tuple[Window, int | None]:
        row = self._row(rng, self._keywords[int(rng.integers(len(self.labels)))])
        start, end = int(row["start"]), int(row["end"])
        middle = int(start + rng.uniform(0.35, 0.65) * (end - start))
        first, last = (start, middle) if rng.random() < 0.6 else (middle, end)
        piece = self._features(row, first, last)
        return self._place(rng, piece, speech_chance=0.9), None

    def _draw_near_miss(self, rng: np.random.Generator) -> tuple[Window, int | None]:
        features = self._features(self._row(rng, self._near_miss))
        return self._place(rng, features, speech_chance=self.config.context_chance), None

    def _draw_word(self, rng: np.random.Generator) -> tuple[Window, int | None]:
        row = self._row(rng, self._words)
        label = self._word_index.get(self.pool.clips[int(row["clip"])].word)
        features = self._features(row)
        return self._place(rng, features, speech_chance=self.config.context_chance), label

    def _draw_speech(self, rng: np.random.Generator) -> tuple[Window, int | None]:
        return self._speech_window(rng), None

    def _draw_sound(self, rng: np.random.Generator) -> tuple[Window, int | None]:
        return self._noise_window(rng), None

    # --- composition ---

    def _row(self, rng: np.random.Generator, rows: NDArray[np.intp]) -> np.void:
        chosen: np.void = self.pool.rows[rows[rng.integers(len(rows))]]
        return chosen

    def _features(self, row: np.void, first: int = 0, last: int | None = None) -> Window:
        """Frames first..last of a rendering; converting from float16 is what costs."""
        offset, last = int(row["offset"]), int(row["frames"]) if last is None else last
        return self._frames[offset + first : offset + last].astype(np.float32)

    def _whole(self, rng: np.random.Generator, rows: NDArray[np.intp]) -> Window:
        """The whole word somewhere in the window, a little more often near its end."""
        row = self._row(rng, rows)
        start, end = int(row["start"]), int(row["end"])
        room = max(0, self.config.num_frames - (end - start))
        after = int(room * rng.random() ** 1.3)
        own_context = start > 0 or end < int(row["frames"])
        if own_context and rng.random() > self.config.context_chance:
            return self._cut(rng, row, end + after)
        word = self._features(row, start, end)
        return self._place(rng, word, speech_chance=0.6, after=after)

    def _cut(self, rng: np.random.Generator, row: np.void, stop: int) -> Window:
        """The window of a rendering that ends at frame `stop`, what lies outside as room tone."""
        window = self._bed(rng)
        first = stop - self.config.num_frames
        low, high = max(first, 0), min(stop, int(row["frames"]))
        if high > low:
            window[low - first : high - first] = self._features(row, low, high)
        return window

    def _place(
        self,
        rng: np.random.Generator,
        piece: Window,
        *,
        speech_chance: float,
        after: int | None = None,
    ) -> Window:
        """A piece of speech inside the window, with speech or room tone around it."""
        frames = self.config.num_frames
        if len(piece) > frames:
            first = int(rng.integers(len(piece) - frames + 1))
            return piece[first : first + frames]
        window = self._speech_window(rng) if rng.random() < speech_chance else self._bed(rng)
        if after is None:
            after = int(rng.integers(frames - len(piece) + 1))
        first = frames - len(piece) - after
        loudness = _level(piece)
        window += loudness - _level(window) if _level(window) > -11 else 0.0
        gap = int(rng.integers(0, 12))  # frames of quiet on both sides
        low, high = max(0, first - gap), min(frames, first + len(piece) + gap)
        window[low:high] = np.minimum(window[low:high], piece.min(axis=0) + 1.0)
        window[first : first + len(piece)] = piece
        return window

    def _bed(self, rng: np.random.Generator) -> Window:
        """Quiet: digital silence to faint noise with a random slope over frequency."""
        size = self.config.num_frames * self._slope.size
        first = int(rng.integers(self._hiss.size - size))
        bed = self._hiss[first : first + size].reshape(self.config.num_frames, -1)
        tilt = self._slope * np.float32(rng.uniform(0, 3))
        level = np.float32(LOG_FLOOR + rng.exponential(2.5))
        quiet: Window = np.maximum(bed + (tilt + level), np.float32(LOG_FLOOR))
        return quiet

    def _speech_window(self, rng: np.random.Generator) -> Window:
        pack = self._speech[int(rng.integers(len(self._speech)))]
        row = self._row(rng, pack)
        last = max(int(row["frames"]), 40)
        return self._cut(rng, row, int(rng.integers(40, last + 20)))

    def _noise_window(self, rng: np.random.Generator) -> Window:
        row = self._row(rng, self._sounds)
        frames = self.config.num_frames
        first = int(rng.integers(max(0, int(row["frames"]) - frames) + 1))
        window = self._features(row, first, min(first + frames, int(row["frames"])))
        if len(window) < frames:
            window = np.tile(window, (-(-frames // len(window)), 1))[:frames]
        if rng.random() < 0.15:  # a voice in the background
            window = np.logaddexp(window, self._speech_window(rng) - rng.uniform(0, 3))
        return window


def _level(features: Window) -> float:
    """Mean log-mel of the louder half."""
    per_frame = features.mean(axis=1)
    return float(np.sort(per_frame)[len(per_frame) // 2 :].mean())
