"""The classifier of a new word: directions, and the threshold on them for a false-accept rate.

A direction is Fisher's, between the mean of the background and that of the recordings; its
covariance is half that of the background and half that of recordings of one and the same word,
which a few recordings cannot tell. There is one towards the recordings as they are and one towards
them in noise, which moves a word far. Along both a word is looked for at some lengths, and its
score is the highest. Knows nothing of audio or files. R numbers describe a word, whatever its
length; V directions and lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssast_edge.enrollment.background import Background
from ssast_edge.enrollment.stretches import lengths_of, parts_of

__all__ = [
    "CONFIDENT",
    "Directions",
    "Discriminant",
    "LearnedWord",
    "Recorded",
    "Tail",
    "learn_word",
]

FloatArray = NDArray[np.float32]

WITHIN_SHARE = 0.5  # of the covariance: how much recordings of one word differ
SHRINKAGE = 0.1  # of the mean variance, added to each
TAIL_SHARE = 0.05  # of the background's windows: those that the tail is fitted to
HOPS_PER_EVENT = 3.0  # a peak of the score lasts about so many hops
ALIKE_SHARE = 1e-4  # of the background's windows: where all directions fire alike
CONFIDENT = 4.0  # logit of the median recording: a score of 0.98


@dataclass(frozen=True)
class Tail:
    """Scores of the background above `start`: exponential, with this mean excess."""

    start: float
    share: float  # of all windows
    excess: float
    count: int  # windows that it is fitted to

    def threshold(self, share: float) -> float:
        """The score that so small a share of the windows exceeds."""
        return self.start + self.excess * float(np.log(self.share / share))

    def share_above(self, score: float) -> float:
        """Share of the windows above a score in the tail."""
        return self.share * float(np.exp(-(score - self.start) / self.excess))


@dataclass(frozen=True, eq=False)
class LearnedWord:
    """max(weights * embedding + bias), over V, is the logit; 0 at the threshold."""

    weights: FloatArray  # (V, segments, width)
    bias: FloatArray  # (V,)
    threshold: float  # in scores along the directions
    range_per_hour: tuple[float, float]  # 95 % of the false-accept rate at 0.5, from the fit alone
    clip_scores: FloatArray  # (clips,), each by a direction learned without it, as logits


@dataclass(frozen=True, eq=False)
class Recorded:
    """A recording of a word, as it is and in noise."""

    parts: FloatArray  # (N, R), of its own length
    windows: FloatArray  # (N, S, P), what the parts were taken from
    is_noisy: NDArray[np.bool_]  # (N,)


class Directions(NamedTuple):
    """weights (V, S, P) and bias (V,): the score of a window is the highest over V."""

    weights: FloatArray
    bias: FloatArray

    def scores(self, windows: FloatArray) -> FloatArray:
        """(N,) of windows (N, S, P), as the runtime has it."""
        flat = windows.reshape(len(windows), -1) @ self.weights.reshape(len(self.weights), -1).T
        return np.asarray((flat + self.bias).max(axis=1), np.float32)

    def scaled(self, zero: float, one: float) -> Directions:
        """The same with 0 where the score was `zero`, and 1 where it was `one` above that."""
        weights = np.asarray(self.weights / one, np.float32)
        return Directions(weights, np.asarray((self.bias - zero) / one, np.float32))


class Discriminant:
    """Directions in which recordings stand out from the background at some lengths."""

    def __init__(self, background: Background, lengths: Sequence[float]) -> None:
        self.background, self.lengths = background, tuple(lengths)
        other = np.concatenate([parts_of(background.windows, length) for length in lengths])
        covariance = (1 - WITHIN_SHARE) * np.cov(other.T) + WITHIN_SHARE * background.within
        size = len(covariance)
        self._covariance = covariance + SHRINKAGE * np.trace(covariance) / size * np.eye(size)
        self._centre = other.mean(axis=0)

    def towards(self, clips: Sequence[Recorded]) -> Directions:
        """To the recordings as they are, and in noise where each of them has such windows.

        Each recording counts as much, and each direction fires alike on the background: its tail
        begins at 0, and reaches 1 in ALIKE_SHARE of the windows.
        """
        found = []
        for is_noisy in (False, True):
            parts = [clip.parts[clip.is_noisy == is_noisy] for clip in clips]
            if not all(map(len, parts)):
                continue
            mean = np.mean([of_clip.mean(axis=0) for of_clip in parts], axis=0)
            weights = self.background.along(self._direction(mean), self.lengths)
            plain = Directions(weights, np.zeros(len(weights), np.float32))
            tail = self.tail(plain)
            found.append(plain.scaled(tail.start, tail.threshold(ALIKE_SHARE) - tail.start))
        return Directions(
            np.concatenate([one.weights for one in found]),
            np.concatenate([one.bias for one in found]),
        )

    def _direction(self, mean: FloatArray) -> FloatArray:
        found = np.linalg.solve(self._covariance, mean - self._centre)
        return np.asarray(found / np.linalg.norm(found), np.float32)

    def tail(self, directions: Directions) -> Tail:
        """Of the background's scores along directions."""
        scores = np.sort(directions.scores(self.background.windows))
        count = max(10, round(TAIL_SHARE * len(scores)))
        start = float(scores[-count - 1])
        excess = float(np.mean(scores[-count:] - start))
        return Tail(start, count / len(scores), max(excess, 1e-9), count)

    def held_out_scores(self, clips: Sequence[Recorded]) -> FloatArray:
        """(clips,) the highest score of each by directions from the others, above their tail.

        In excesses of the tail, so that scores along different directions compare.
        """
        found = []
        for index, clip in enumerate(clips):
            others = self.towards([c for i, c in enumerate(clips) if i != index])
            tail = self.tail(others)
            best = float(others.scores(clip.windows[~clip.is_noisy]).max())
            found.append((best - tail.start) / tail.excess)
        return np.array(found, np.float32)


def learn_word(
    background: Background,
    clips: Sequence[Recorded],
    *,
    length: float,
    false_accepts_per_hour: float,
    hop_ms: float,
) -> LearnedWord:
    """The classifier from recordings of a word of `length` rows.

    false_accepts_per_hour: on audio like the background's; the threshold is extrapolated by the
    tail, as the background is minutes and the rate one of hours.
    """
    lengths = lengths_of(length, background.windows.shape[1])
    fisher = Discriminant(background, lengths)
    directions = fisher.towards(clips)
    tail = fisher.tail(directions)
    hops_per_hour = 3_600_000 / hop_ms
    share = false_accepts_per_hour * HOPS_PER_EVENT / hops_per_hour
    threshold = tail.threshold(min(share, tail.share))
    as_recorded = [directions.scores(c.windows[~c.is_noisy]).max() for c in clips]
    median = float(np.median(as_recorded))
    slope = CONFIDENT / max(median - threshold, tail.excess)
    weights, bias = background.unfold(*directions.scaled(threshold, 1 / slope))
    # An exponential's mean from n values is known to 2 / sqrt(n), and the rate goes by it.
    spread = 2 / np.sqrt(tail.count) * (threshold - tail.start) / tail.excess
    ends = false_accepts_per_hour * np.exp([-spread, spread])
    held_out = fisher.held_out_scores(clips) * tail.excess + tail.start
    return LearnedWord(
        weights=weights,
        bias=bias,
        threshold=threshold,
        range_per_hour=(float(ends[0]), float(ends[1])),
        clip_scores=np.asarray(slope * (held_out - threshold), np.float32),
    )
