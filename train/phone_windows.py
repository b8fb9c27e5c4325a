"""Draws windows of speech with the phone that is said at each patch token.

A window holds a stretch of one recording, or several short recordings of a pack one after another.
Batch `step` depends on (seed, step) alone.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.augment import LogMelAugmentConfig, add_noise, random_level, spec_augment
from train.composition import Composer, Rows, Window, level
from train.encoder import EncoderConfig
from train.phone_alignment import PHONES, UNKNOWN, PhoneLabels, clip_key
from train.pool import FeaturePool

__all__ = ["PackWeights", "PhoneSampler", "PhoneWindowConfig"]

Targets = NDArray[np.uint8]
_SILENT = PHONES.index("SIL")


@dataclass(frozen=True, kw_only=True)
class PackWeights:
    """How often a window is of each pack; normalised over those that have aligned recordings."""

    speech_commands: float = 0.25
    wake_words: float = 0.1
    speechocean: float = 0.2
    wuw: float = 0.15
    librispeech: float = 0.1  # aligned to what was recognised, not to what was said
    synthetic: float = 0.2

    def __post_init__(self) -> None:
        """Refuse weights that nothing can be drawn by."""
        weights = [getattr(self, pack.name) for pack in fields(self)]
        if not (min(weights) >= 0 and 0 < sum(weights) < float("inf")):
            raise ValueError(f"weights must be 0 or more and not all 0, got {weights}")


@dataclass(frozen=True, kw_only=True)
class PhoneWindowConfig:
    """How windows are composed."""

    num_frames: int = 152
    chain_chance: float = 0.6  # recordings follow one another, instead of quiet around one
    start_chance: float = 0.04  # the stream has just begun: the window's first part is zeros
    babble_chance: float = 0.1  # noise is many voices

    def __post_init__(self) -> None:
        """Refuse windows too short to be composed and what is no chance."""
        if self.num_frames < 17:
            raise ValueError(f"num_frames must be at least 17, got {self.num_frames}")
        for name in ("chain_chance", "start_chance", "babble_chance"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")


class PhoneSampler:
    """Batches of windows, the phones of their tokens and their packs.

    fill: what masked parts hold, the data's mean.
    """

    def __init__(
        self,
        pool: FeaturePool,
        phones: PhoneLabels,
        config: PhoneWindowConfig,
        weights: PackWeights,
        augment: LogMelAugmentConfig,
        encoder: EncoderConfig,
        *,
        seed: int,
        fill: float,
    ) -> None:
        self.pool, self.config, self.augment = pool, config, augment
        self.seed, self.fill = seed, fill
        self._labels = [phones.labels.get(clip_key(clip)) for clip in pool.clips]
        row_clips = pool.rows["clip"]
        # The first rendering of a clip is as recorded: what the others' length says of their speed.
        first = np.unique(row_clips, return_index=True)
        self._plain = np.ones(len(pool.clips))
        self._plain[first[0]] = pool.rows["frames"][first[1]]
        kinds = np.array([clip.kind for clip in pool.clips])[row_clips]
        packs = np.array([clip.pack for clip in pool.clips])[row_clips]
        is_aligned = np.array([found is not None for found in self._labels])[row_clips]
        usable = is_aligned & (pool.rows["frames"] >= 20)
        rows = {p.name: np.flatnonzero(usable & (packs == p.name)) for p in fields(weights)}
        shares = {p: getattr(weights, p) for p, found in rows.items() if len(found)}
        if not sum(shares.values()):
            raise ValueError("no aligned recording of a pack that has a weight")
        self.packs = tuple(shares)
        self._rows = [rows[pack] for pack in self.packs]
        self._shares = np.array(list(shares.values())) / sum(shares.values())
        speech = [np.flatnonzero((kinds == "speech") & (packs == p)) for p in np.unique(packs)]
        noises = np.flatnonzero((kinds == "sound") & (pool.rows["frames"] >= 20))
        if not len(noises):
            raise ValueError("no recording of kind sound")
        self._compose = Composer(
            pool, config.num_frames,
            speech=[found for found in speech if len(found)] or self._rows,
            noises=noises, babble_chance=config.babble_chance, seed=seed,
        )  # fmt: skip
        columns = encoder.grid[1]
        self._centres = np.arange(columns) * encoder.stride_frames + encoder.patch_frames // 2

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor, NDArray[np.intp]]:
        """Raw log-mel (size, T, F); phones (size, N) or UNKNOWN; index of each window's pack."""
        rng = np.random.default_rng([self.seed, step])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        frames = self.config.num_frames
        windows = np.empty((size, frames, self.pool.frames.shape[1]), dtype=np.float32)
        targets = np.empty((size, frames), dtype=np.uint8)
        packs = rng.choice(len(self.packs), size=size, p=self._shares)
        for i, pack in enumerate(packs):
            draw = self._chain if rng.random() < self.config.chain_chance else self._alone
            windows[i], targets[i] = draw(rng, self._rows[pack])
        noise = np.stack([self._compose.noise_window(rng) for _ in range(size)])
        fbank = random_level(torch.from_numpy(windows), self.augment, generator)
        fbank = add_noise(fbank, torch.from_numpy(noise), self.augment, generator)
        fbank = spec_augment(fbank, self.fill, self.augment, generator)
        for i in np.flatnonzero(rng.random(size) < self.config.start_chance).tolist():
            begins = int(rng.integers(8, frames - 8))
            fbank[i, :begins], targets[i, :begins] = 0.0, _SILENT
        return fbank, torch.from_numpy(targets[:, self._centres].astype(np.int64)), packs

    def phones(self, row: np.void) -> Targets:
        """The phone of each frame of a rendering."""
        labels = self._labels[int(row["clip"])]
        assert labels is not None
        speed = self._plain[int(row["clip"])] / int(row["frames"])
        # Frame t of the labels is the 10 ms from t on, so that its middle is half a frame on.
        at = ((np.arange(int(row["frames"])) + 0.5) * speed).astype(np.intp)
        known = at < len(labels)
        return np.where(known, labels[np.minimum(at, len(labels) - 1)], UNKNOWN).astype(np.uint8)

    def _alone(self, rng: np.random.Generator, rows: Rows) -> tuple[Window, Targets]:
        """A stretch of one recording, or all of it with quiet around."""
        row, frames = self._compose.row(rng, rows), self.config.num_frames
        short, long = sorted((int(row["frames"]), frames))
        stop = int(rng.integers(int(0.6 * short), int(long + 0.4 * short) + 1))
        targets = np.full(frames, _SILENT, dtype=np.uint8)
        first = stop - frames
        low, high = max(first, 0), min(stop, int(row["frames"]))
        targets[low - first : high - first] = self.phones(row)[low:high]
        return self._compose.cut(rng, row, stop), targets

    def _chain(self, rng: np.random.Generator, rows: Rows) -> tuple[Window, Targets]:
        """Recordings one after another, alike in level."""
        frames = self.config.num_frames
        window = np.empty((frames, self.pool.frames.shape[1]), dtype=np.float32)
        targets = np.empty(frames, dtype=np.uint8)
        loudness: float | None = None
        end = 0
        while end < frames:
            row = self._compose.row(rng, rows)
            length = int(row["frames"])
            first = int(rng.integers(max(1, length - 20))) if end == 0 else 0
            last = min(length, first + frames - end)
            piece = self._compose.features(row, first, last)
            loudness = level(piece) if loudness is None else loudness
            place = slice(end, end + last - first)
            window[place] = piece + np.float32(loudness - level(piece))
            targets[place] = self.phones(row)[first:last]
            end += last - first
        return window, targets
