"""Directions in which recordings of a word stand out from the background, and how far that comes.

A direction is Fisher's, between the mean of the recordings and that of the background, drawn again
against the windows that it takes for the word most: what is nothing like the word says little of
where to part it from what is. Such windows lie lower along it than others as like the word would,
so what the background scores comes from directions that were drawn without the window in question.
Knows nothing of audio or files. N windows of the background, R numbers that describe a word,
whatever its length, V directions and lengths.
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

    def share_above(self, score: float) -> float:
        """Share of the windows above a score in the tail."""
        return self.share * float(np.exp(-(score - self.start) / self.excess))


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


class _Aim(NamedTuple):
    """parts @ direction + bias is 0 at the mean of the background, 1 at that of the recordings."""

    direction: FloatArray  # (R,)
    bias: float


class Discriminant:
    """Directions in which recordings stand out from the background at some lengths."""

    def __init__(self, background: Background, lengths: Sequence[float]) -> None:
        self.background, self.lengths = background, tuple(lengths)
        self._parts = np.stack([parts_of(background.windows, length) for length in lengths])
        every = self._parts.reshape(-1, self._parts.shape[-1])
        self._centre, self._covariance = _moments(every)
        self._partition = np.arange(self._parts.shape[1]) % PARTITIONS  # they lie in random order

    def towards(self, clips: Sequence[Recorded]) -> Towards:
        """To the recordings as they are, and in noise where each of them has such windows.

        Each recording counts as much, and each direction fires alike on the background: its tail
        begins at 0, and reaches 1 in ALIKE_SHARE of the windows.
        """
        found, background, scales = [], [], []
        everything = np.ones(len(self._partition), np.bool_)
        for mean in _means(clips):
            scores = self._cross_fitted(mean)
            tail = Tail.of(scores)
            scale = Scale(tail.start, tail.threshold(ALIKE_SHARE) - tail.start)
            found.append(self._directions(self._aim(mean, everything)).scaled(scale))
            background.append((scores - scale.zero) / scale.one)
            scales.append(scale)
        return Towards(_joined(found), np.max(background, axis=0), tuple(scales))

    def held_out_scores(self, clips: Sequence[Recorded], scales: Sequence[Scale]) -> FloatArray:
        """(clips,) the highest score of each by directions from the others, in those scales."""
        everything = np.ones(len(self._partition), np.bool_)
        found = []
        for index, clip in enumerate(clips):
            means = _means([other for i, other in enumerate(clips) if i != index])
            aims = [self._directions(self._aim(mean, everything)) for mean in means]
            aimed = _joined([a.scaled(s) for a, s in zip(aims, scales, strict=False)])
            found.append(aimed.scores(clip.windows[~clip.is_noisy]).max())
        return np.array(found, np.float32)

    def _cross_fitted(self, mean: Doubles) -> FloatArray:
        """(N,) scores of the background, by aims that were drawn without the window."""
        scores = np.empty(len(self._partition), np.float32)
        for number in range(PARTITIONS):
            own = self._partition == number
            aim = self._aim(mean, ~own)
            scores[own] = (self._parts[:, own] @ aim.direction).max(axis=0) + aim.bias
        return scores

    def _aim(self, mean: Doubles, drawn_against: NDArray[np.bool_]) -> _Aim:
        """drawn_against: windows (N,) that may be among the confusable ones."""
        among = np.flatnonzero(drawn_against)
        count = max(1, round(CONFUSABLE_SHARE * len(among)))
        centre, covariance = self._centre, self._covariance
        for number in range(ROUNDS + 1):
            direction = self._fisher(mean, centre, covariance)
            if number == ROUNDS:
                break
            scores = self._parts[:, among] @ direction.astype(np.float32)
            like = np.argpartition(scores.max(axis=0), -count)[-count:]
            at = scores[:, like].argmax(axis=0)  # the length at which each is most like it
            its_centre, its_covariance = _moments(self._parts[at, among[like]])
            centre = _mixed(self._centre, its_centre)
            covariance = _mixed(self._covariance, its_covariance)
        direction = direction / ((mean - self._centre) @ direction)
        return _Aim(direction.astype(np.float32), -float(self._centre @ direction))

    def _fisher(self, mean: Doubles, centre: Doubles, covariance: Doubles) -> Doubles:
        size = len(mean)
        both = (1 - WITHIN_SHARE) * covariance + WITHIN_SHARE * self.background.within
        both += SHRINKAGE * np.trace(both) / size * np.eye(size)
        found = np.linalg.solve(both, mean - centre)
        return np.asarray(found / np.linalg.norm(found))

    def _directions(self, aim: _Aim) -> Directions:
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


def _moments(rows: FloatArray) -> tuple[Doubles, Doubles]:
    """Mean (R,) and covariance (R, R) of (M, R); summed in single precision: half the time."""
    mean = rows.mean(axis=0, dtype=np.float64)
    centred = rows - mean.astype(np.float32)
    return mean, (centred.T @ centred).astype(np.float64) / len(rows)


def _mixed(every: Doubles, confusable: Doubles) -> Doubles:
    return (1 - CONFUSABLE_WEIGHT) * every + CONFUSABLE_WEIGHT * confusable


def _joined(found: Sequence[Directions]) -> Directions:
    return Directions(
        np.concatenate([one.weights for one in found]), np.concatenate([one.bias for one in found])
    )
