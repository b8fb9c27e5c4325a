"""Directions in which recordings of a word stand out from the background, and how far that comes.

A direction is Fisher's, between the mean of the recordings and that of the background, drawn again
against the windows that it takes for the word most: what is nothing like the word says little of
where to part it from what is. Such windows lie lower along it than others as like the word would,
so each window's score is that by a direction which was drawn without it. Knows nothing of audio or
files. N windows of the background, R numbers that describe a word, whatever its length, V
directions and lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssast_edge.enrollment.background import Background
from ssast_edge.enrollment.stretches import parts_of

__all__ = ["ALIKE_SHARE", "Directions", "Discriminant", "Recorded", "Scale", "Tail", "Towards"]

FloatArray = NDArray[np.float32]
Doubles = NDArray[np.float64]

WITHIN_SHARE = 0.3  # of the covariance: how much recordings of one word differ
SHRINKAGE = 0.1  # of the mean variance, added to each
CONFUSABLE_SHARE = 0.1  # of the background's windows: those that are most like the word
CONFUSABLE_WEIGHT = 0.8  # of their mean and covariance, in those of the background
ROUNDS = 2  # that a direction is drawn again
PARTITIONS = 4  # of the background: each is scored by what was drawn without it
TAIL_SHARE = 0.05  # of the background's windows: those that the tail is fitted to
ALIKE_SHARE = 1e-4  # of the background's windows: where all directions fire alike


@dataclass(frozen=True)
class Tail:
    """Scores of the background above `start`: exponential, with this mean excess."""

    start: float
    share: float  # of all windows
    excess: float
    count: int  # windows that it is fitted to

    @classmethod
    def of(cls, scores: FloatArray) -> Tail:
        """Of (N,) scores."""
        ordered = np.sort(scores)
        count = max(10, round(TAIL_SHARE * len(ordered)))
        start = float(ordered[-count - 1])
        excess = float(np.mean(ordered[-count:] - start))
        return cls(start, count / len(ordered), max(excess, 1e-9), count)

    def threshold(self, share: float) -> float:
        """The score that so small a share of the windows exceeds."""
        return self.start + self.excess * float(np.log(self.share / share))


@dataclass(frozen=True, eq=False)
class Recorded:
    """A recording of a word, as it is and in noise."""

    parts: FloatArray  # (M, R), of its own length
    windows: FloatArray  # (M, S, P), what the parts were taken from
    is_noisy: NDArray[np.bool_]  # (M,)


class Scale(NamedTuple):
    """What score counts as 0, and what beyond it as 1."""

    zero: float
    one: float


class Directions(NamedTuple):
    """weights (V, S, P) and bias (V,): the score of a window is the highest over V."""

    weights: FloatArray
    bias: FloatArray

    def scores(self, windows: FloatArray) -> FloatArray:
        """(M,) of windows (M, S, P), as the runtime has it."""
        flat = windows.reshape(len(windows), -1) @ self.weights.reshape(len(self.weights), -1).T
        return np.asarray((flat + self.bias).max(axis=1), np.float32)

    def scaled(self, scale: Scale) -> Directions:
        """The same in scores of that scale."""
        weights = np.asarray(self.weights / scale.one, np.float32)
        return Directions(weights, np.asarray((self.bias - scale.zero) / scale.one, np.float32))


class Towards(NamedTuple):
    """Directions towards recordings, and what the background is to them."""

    directions: Directions
    background: FloatArray  # (N,) scores of its windows, each by directions drawn without it
    scales: tuple[Scale, ...]  # of the direction as recorded, and of that in noise


class _Moments(NamedTuple):
    """Mean (R,) and covariance (R, R)."""

    mean: Doubles
    covariance: Doubles

    def mixed(self, other: _Moments, share: float) -> _Moments:
        """With so large a share of the other's."""
        return _Moments(*((1 - share) * a + share * b for a, b in zip(self, other, strict=True)))


class _Sums(NamedTuple):
    """Over rows (M, R), so that moments of some parts of many come without the rows."""

    rows: int
    first: Doubles  # (R,)
    second: Doubles  # (R, R)

    @classmethod
    def of(cls, rows: FloatArray) -> _Sums:
        """Products in single precision: half the time."""
        return cls(len(rows), rows.sum(axis=0, dtype=np.float64), (rows.T @ rows).astype(float))

    @classmethod
    def total(cls, parts: Sequence[_Sums]) -> _Sums:
        """Of all parts."""
        rows, first, second = zip(*parts, strict=True)
        return cls(sum(rows), np.sum(first, axis=0), np.sum(second, axis=0))

    def moments(self) -> _Moments:
        mean = self.first / self.rows
        return _Moments(mean, self.second / self.rows - np.outer(mean, mean))


class _Aim(NamedTuple):
    """parts @ direction + bias is 0 at the mean of the background, 1 at that of the recordings."""

    direction: FloatArray  # (R,)
    bias: float


class Discriminant:
    """Directions in which recordings stand out from the background at some lengths."""

    def __init__(self, background: Background, lengths: Sequence[float]) -> None:
        self.background, self.lengths = background, tuple(lengths)
        self._parts = np.stack([parts_of(background.windows, length) for length in lengths])
        # Any will do: the windows lie in random order.
        self._partition = np.arange(self._parts.shape[1]) % PARTITIONS
        parts = [self._parts[:, self._partition == number] for number in range(PARTITIONS)]
        sums = [_Sums.of(one.reshape(-1, one.shape[-1])) for one in parts]
        self._whole = _Sums.total(sums).moments()
        self._without = [
            _Sums.total([one for one in sums if one is not own]).moments() for own in sums
        ]

    def towards(self, clips: Sequence[Recorded]) -> Towards:
        """To the recordings as they are, and in noise where each of them has such windows.

        Each recording counts as much, and each direction fires alike on the background: its tail
        begins at 0, and reaches 1 in ALIKE_SHARE of the windows.
        """
        found, background, scales = [], [], []
        for mean in _means(clips):
            scores = self._cross_fitted(mean)
            tail = Tail.of(scores)
            scale = Scale(tail.start, tail.threshold(ALIKE_SHARE) - tail.start)
            found.append(self._directions(mean).scaled(scale))
            background.append((scores - scale.zero) / scale.one)
            scales.append(scale)
        return Towards(_joined(found), np.max(background, axis=0), tuple(scales))

    def held_out_scores(self, clips: Sequence[Recorded], scales: Sequence[Scale]) -> FloatArray:
        """(clips,) the highest score of each by directions from the others.

        scales: of the directions from all of them. Those from fewer would have scales of their own,
        by which a recording scores a little higher.
        """
        found = []
        for index, clip in enumerate(clips):
            means = _means([other for i, other in enumerate(clips) if i != index])
            # Where this one alone has no noise, the others have a direction without a scale.
            scaled = [self._directions(m).scaled(s) for m, s in zip(means, scales, strict=False)]
            found.append(_joined(scaled).scores(clip.windows[~clip.is_noisy]).max())
        return np.array(found, np.float32)

    def _cross_fitted(self, mean: Doubles) -> FloatArray:
        """(N,) scores of the background, by aims that were drawn without the window."""
        scores = np.empty(len(self._partition), np.float32)
        for number in range(PARTITIONS):
            own = self._partition == number
            aim = self._aim(mean, without=number)
            scores[own] = (self._parts @ aim.direction)[:, own].max(axis=0) + aim.bias
        return scores

    def _aim(self, mean: Doubles, without: int | None = None) -> _Aim:
        """without: a partition that the direction shall not know."""
        everything = self._whole if without is None else self._without[without]
        known = np.arange(len(self._partition))
        if without is not None:
            known = known[self._partition != without]
        count = max(1, round(CONFUSABLE_SHARE * len(known)))
        direction = self._fisher(mean, everything)
        for _ in range(ROUNDS):
            scores = (self._parts @ direction.astype(np.float32))[:, known]
            like = np.argpartition(scores.max(axis=0), -count)[-count:]
            at = scores[:, like].argmax(axis=0)  # the length at which each is most like it
            confusable = _Sums.of(self._parts[at, known[like]]).moments()
            direction = self._fisher(mean, everything.mixed(confusable, CONFUSABLE_WEIGHT))
        centre = self._whole.mean
        direction = direction / ((mean - centre) @ direction)
        return _Aim(direction.astype(np.float32), -float(centre @ direction))

    def _fisher(self, mean: Doubles, against: _Moments) -> Doubles:
        size = len(mean)
        both = (1 - WITHIN_SHARE) * against.covariance + WITHIN_SHARE * self.background.within
        both += SHRINKAGE * np.trace(both) / size * np.eye(size)
        found = np.linalg.solve(both, mean - against.mean)
        return np.asarray(found / np.linalg.norm(found))

    def _directions(self, mean: Doubles) -> Directions:
        aim = self._aim(mean)
        weights = self.background.along(aim.direction, self.lengths)
        return Directions(weights, np.full(len(weights), aim.bias, np.float32))


def _means(clips: Sequence[Recorded]) -> list[Doubles]:
    """(R,) of the recordings as they are, and in noise where each has such windows."""
    found = []
    for is_noisy in (False, True):
        parts = [clip.parts[clip.is_noisy == is_noisy] for clip in clips]
        if all(map(len, parts)):
            means = [of_clip.mean(axis=0, dtype=np.float64) for of_clip in parts]
            found.append(np.asarray(np.mean(means, axis=0)))
    return found


def _joined(found: Sequence[Directions]) -> Directions:
    return Directions(
        np.concatenate([one.weights for one in found]), np.concatenate([one.bias for one in found])
    )
