"""Batches of clips: order, cropping, mixing of waveforms, features, SpecAugment.

A batch depends on (seed, step) alone, whatever the number of processes and workers, so that a
resumed run sees what it would have seen. T frames, F mel bins, B clips of one part of a batch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssast_edge.fbank import FbankConfig, fbank
from train.data.manifest import Example
from train.data.source import DecodeError

if TYPE_CHECKING:
    from train.data.source import ClipSource

__all__ = ["Batch", "BatchOrder", "ClipBatches", "ClipConfig", "cut_windows"]

Samples = NDArray[np.float32]
_WINDOW, _HOP = 400, 160  # samples of a frame and between frames, 16 kHz
_TRIES = 20  # recordings in a row that may be unreadable


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """How a clip becomes T frames, and what is changed about it in training."""

    num_frames: int = 1024  # T
    crop: str = "start"  # where a longer clip is cut; or "random"
    fill: str = "zeros"  # after a shorter clip; or "clips": other clips of the batch's source
    mixup: float = 0.0  # chance to mix a second clip into the waveform
    mixup_beta: float = 10.0  # both parameters of the mixing weight's distribution
    mask_bins: int = 0  # widest frequency mask of SpecAugment
    mask_frames: int = 0  # widest time mask
    noise: bool = False  # uniform noise of random level on the normalised log-mel, and
    roll_frames: int = 10  # with it a cyclic shift by up to this many frames
    validation_windows: int = 1  # of a longer clip, spread evenly and averaged; 0: half overlaps

    def __post_init__(self) -> None:
        """Refuse words and ranges that no batch can be made of."""
        if self.num_frames < 2:
            raise ValueError(f"num_frames must be at least 2, got {self.num_frames}")
        if self.crop not in ("start", "random"):
            raise ValueError(f"crop must be start or random, got {self.crop!r}")
        if self.fill not in ("zeros", "clips"):
            raise ValueError(f"fill must be zeros or clips, got {self.fill!r}")
        if not (0 <= self.mixup <= 1 and self.mixup_beta > 0):
            raise ValueError(
                f"mixup must be in [0, 1] and mixup_beta above 0, got {self.mixup} and "
                f"{self.mixup_beta}"
            )
        for name in ("validation_windows", "mask_bins", "mask_frames", "roll_frames"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")

    @property
    def num_samples(self) -> int:
        """Samples that T frames are made of."""
        return (self.num_frames - 1) * _HOP + _WINDOW


@dataclass(frozen=True)
class Batch:
    """One part of a step's batch, on its way to the model."""

    fbank: Tensor  # (B, T, F) raw log-mel
    target: Tensor  # (B, classes) in [0, 1], or the pretext task's masks (passes, B, M)
    names: tuple[str, ...]  # of the recordings, for the report of a loss that is not finite
    unreadable: tuple[str, ...] = ()  # recordings whose place others took, a line each

    def pin_memory(self) -> Batch:
        """Page-locked copy, for copies to a GPU beside its work."""
        return dataclasses.replace(
            self, fbank=self.fbank.pin_memory(), target=self.target.pin_memory()
        )

    def to(self, device: torch.device) -> Batch:
        """The same on `device`."""
        return dataclasses.replace(
            self,
            fbank=self.fbank.to(device, non_blocking=True),
            target=self.target.to(device, non_blocking=True),
        )


class BatchOrder:
    """Which examples each step sees: every epoch all of them, in another order.

    `weights` (one an example) draws with replacement instead. `blocks` (arrays of examples that lie
    together, such as a shard's) are shuffled as wholes first and then within `mixed_blocks` of
    them, so that a reader needs few shards at a time.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int,
        *,
        weights: NDArray[np.float64] | None = None,
        blocks: Sequence[NDArray[np.intp]] = (),
        mixed_blocks: int = 8,
    ) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.blocks, self.mixed_blocks = blocks, mixed_blocks
        self.shares = None if weights is None else weights / weights.sum()
        self._epochs: dict[int, NDArray[np.intp]] = {}

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which as many examples are seen as there are; seldom a whole number."""
        return self.count / self.batch_size

    def __getitem__(self, step: int) -> NDArray[np.intp]:
        """(batch_size,) indices of the examples of `step`; a batch may span two epochs."""
        position = step * self.batch_size + np.arange(self.batch_size)
        epochs = position // self.count
        for old in [epoch for epoch in self._epochs if epoch < epochs[0]]:
            del self._epochs[old]
        out = np.empty(self.batch_size, dtype=np.intp)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            out[here] = self._order(int(epoch))[position[here] % self.count]
        return out

    def _order(self, epoch: int) -> NDArray[np.intp]:
        if epoch not in self._epochs:
            rng = np.random.default_rng([self.seed, epoch, 1])
            self._epochs[epoch] = self._draw(rng)
        return self._epochs[epoch]

    def _draw(self, rng: np.random.Generator) -> NDArray[np.intp]:
        if self.shares is not None:
            return rng.choice(self.count, size=self.count, p=self.shares)
        if not self.blocks:
            return rng.permutation(self.count)
        places = rng.permutation(len(self.blocks))
        groups = [
            np.concatenate([self.blocks[place] for place in places[i : i + self.mixed_blocks]])
            for i in range(0, len(places), self.mixed_blocks)
        ]
        return np.concatenate([rng.permutation(group) for group in groups])


class ClipBatches:
    """Training batches: from (step, part) to features and targets."""

    def __init__(
        self,
        source: ClipSource,
        examples: Sequence[Example],
        order: BatchOrder,
        config: ClipConfig,
        fbank_config: FbankConfig,
        *,
        classes: Sequence[str] = (),
        std: float,
        seed: int,
    ) -> None:
        self.source, self.examples, self.order = source, examples, order
        self.config, self.fbank_config = config, fbank_config
        self.classes = {label: number for number, label in enumerate(classes)}
        self.std, self.seed = std, seed

    def batch(self, step: int, part: int, parts: int) -> Batch:
        """Every `parts`-th example of the step's batch, from `part` on."""
        places = range(part, self.order.batch_size, parts)
        chosen = self.order[step]
        failed: list[str] = []
        drawn = [self._draw(step, place, int(chosen[place]), failed) for place in places]
        features = torch.from_numpy(np.stack([features for features, _ in drawn]))
        targets = torch.from_numpy(np.stack([target for _, target in drawn]))
        names = tuple(self.examples[chosen[place]].path for place in places)
        return Batch(features, targets, names, tuple(failed))

    def _draw(
        self, step: int, place: int, index: int, failed: list[str]
    ) -> tuple[Samples, NDArray[np.float32]]:
        """Features (T, F) and targets (classes,) of one place in the batch."""
        rng = np.random.default_rng([self.seed, step, place])
        samples, target = self._clip(rng, index, failed)
        if rng.random() < self.config.mixup:
            other = int(rng.integers(len(self.examples)))
            weight = np.float32(rng.beta(self.config.mixup_beta, self.config.mixup_beta))
            second, its_target = self._clip(rng, other, failed)
            mixed = weight * samples  # the partner is cut or padded to the first's length
            common = min(len(samples), len(second))
            mixed[:common] += (1 - weight) * second[:common]
            samples, target = mixed, weight * target + (1 - weight) * its_target
        features = fbank(samples, self.fbank_config)[: self.config.num_frames]
        out = np.zeros((self.config.num_frames, features.shape[1]), dtype=np.float32)
        out[: len(features)] = features
        for axis, widest in enumerate((self.config.mask_frames, self.config.mask_bins)):
            if widest:
                width = int(rng.integers(widest + 1))
                start = int(rng.integers(max(1, out.shape[axis] - width + 1)))
                cut = [slice(None), slice(None)]
                cut[axis] = slice(start, start + width)
                out[tuple(cut)] = 0  # as the padding: zero before normalisation
        return (self._with_noise(out, rng) if self.config.noise else out), target

    def _clip(
        self, rng: np.random.Generator, index: int, failed: list[str]
    ) -> tuple[Samples, NDArray[np.float32]]:
        """At most T frames' samples and the targets of an example.

        Filled up with other examples where that is asked.
        """
        wanted = self.config.num_samples
        index, samples = self._read(rng, index, failed)
        target = self._target(index)
        if len(samples) > wanted:
            is_random = self.config.crop == "random"
            start = int(rng.integers(len(samples) - wanted + 1)) if is_random else 0
            return samples[start : start + wanted], target
        while self.config.fill == "clips" and len(samples) < wanted:
            _, other = self._read(rng, int(rng.integers(len(self.examples))), failed)
            samples = np.concatenate([samples, other])[:wanted]
        return samples, target

    def _read(self, rng: np.random.Generator, index: int, failed: list[str]) -> tuple[int, Samples]:
        """Samples of an example, or of another one when it cannot be read."""
        for _ in range(_TRIES):
            try:
                return index, self.source.samples(index)
            except DecodeError as error:
                failed.append(str(error))
                index = int(rng.integers(len(self.examples)))
        raise DecodeError(f"{_TRIES} recordings in a row cannot be read, the last: {failed[-1]}")

    def _target(self, index: int) -> NDArray[np.float32]:
        target = np.zeros(len(self.classes), dtype=np.float32)
        for label in self.examples[index].labels if self.classes else ():
            target[self.classes[label]] = 1
        return target

    def _with_noise(self, features: Samples, rng: np.random.Generator) -> Samples:
        """The authors' noise and roll, which they put on normalised values, on raw ones."""
        level = np.float32(2 * self.std / 10 * rng.random())
        reach = self.config.roll_frames
        noisy = features + level * rng.random(features.shape, dtype=np.float32)
        return np.roll(noisy, int(rng.integers(-reach, reach + 1)), axis=0)


def cut_windows(
    samples: Samples, config: ClipConfig, fbank_config: FbankConfig, count: int
) -> NDArray[np.float32]:
    """(count, T, F): windows spread evenly over a clip, for validation; a short clip gives one.

    count 0: as many as overlap by half.
    """
    spare = max(0, len(samples) - config.num_samples)
    count = count or 1 + math.ceil(2 * spare / config.num_samples)
    starts = np.linspace(0, spare, count).astype(int) if spare and count > 1 else [0]
    windows = np.zeros((len(starts), config.num_frames, fbank_config.num_mel_bins), np.float32)
    for window, start in zip(windows, starts, strict=True):
        features = fbank(samples[start : start + config.num_samples], fbank_config)
        window[: len(features)] = features[: config.num_frames]
    return windows
