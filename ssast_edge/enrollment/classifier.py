"""The classifier of a new word: directions, and the threshold on them for a false-accept rate.

A direction is Fisher's, between the mean of the background and that of the recordings; its
covariance is half that of the background and half that of recordings of one and the same word,
which a few recordings cannot tell. There is one towards the recordings as they are and one towards
them in noise, which moves a word far. Along both a word is looked for at some lengths, and its
score is the highest. Knows nothing of audio or files. R numbers describe a word, whatever its
length; V directions and lengths.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssast_edge.enrollment.background import Background
from ssast_edge.enrollment.stretches import lengths_of, parts_of

__all__ = [
    "CONFIDENT",
    "Discriminant",
    "LearnedWord",
    "Recorded",
    "Tail",
    "learn_word",
    "scores_along",
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


class Discriminant:
    """Directions in which recordings stand out from the background at some lengths."""

    def __init__(self, background: Background, lengths: Sequence[float]) -> None:
        self.background, self.lengths = background, tuple(lengths)
        other = np.concatenate([parts_of(background.windows, length) for length in lengths])
        covariance = (1 - WITHIN_SHARE) * np.cov(other.T) + WITHIN_SHARE * background.within
        size = len(covariance)
        self._covariance = covariance + SHRINKAGE * np.trace(covariance) / size * np.eye(size)
        self._centre = other.mean(axis=0)

    def along(self, clips: Sequence[Recorded]) -> FloatArray:
        """(V, S, P) weights towards the recordings; each of them counts as much."""
        found = []
        for is_noisy in (False, True):
            means = [c.parts[c.is_noisy == is_noisy] for c in clips]
            if all(map(len, means)):
                towards = np.mean([parts.mean(axis=0) for parts in means], axis=0)
                along = self.background.along(self._direction(towards), self.lengths)
                found.append(along / max(self.tail(along).threshold(ALIKE_SHARE), 1e-6))
        return np.concatenate(found)

    def _direction(self, mean: FloatArray) -> FloatArray:
        found = np.linalg.solve(self._covariance, mean - self._centre)
        return np.asarray(found / np.linalg.norm(found), np.float32)

    def scores(self, along: FloatArray, windows: FloatArray) -> FloatArray:
        """(N,) of windows (N, S, P), the highest over V, as the runtime has it."""
        return scores_along(along, windows)

    def tail(self, along: FloatArray) -> Tail:
        """Of the background's scores along a direction."""
        scores = np.sort(self.scores(along, self.background.windows))
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
            along = self.along([c for i, c in enumerate(clips) if i != index])
            tail = self.tail(along)
            best = float(self.scores(along, clip.windows).max())
            found.append((best - tail.start) / tail.excess)
        return np.array(found, np.float32)


def scores_along(weights: FloatArray, windows: FloatArray) -> FloatArray:
    """(N,) the highest over V, of weights (V, S, P) and windows (N, S, P)."""
    flat = windows.reshape(len(windows), -1) @ weights.reshape(len(weights), -1).T
    return np.asarray(flat.max(axis=1), np.float32)


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
    along = fisher.along(clips)
    tail = fisher.tail(along)
    hops_per_hour = 3_600_000 / hop_ms
    share = false_accepts_per_hour * HOPS_PER_EVENT / hops_per_hour
    threshold = tail.threshold(min(share, tail.share))
    median = float(np.median([fisher.scores(along, clip.windows).max() for clip in clips]))
    slope = CONFIDENT / max(median - threshold, tail.excess)
    weights, bias = background.unfold(along * np.float32(slope))
    # An exponential's mean from n values is known to 2 / sqrt(n), and the rate goes by it.
    spread = 2 / np.sqrt(tail.count) * (threshold - tail.start) / tail.excess
    ends = false_accepts_per_hour * np.exp([-spread, spread])
    held_out = fisher.held_out_scores(clips) * tail.excess + tail.start
    return LearnedWord(
        weights=weights,
        bias=np.asarray(bias - slope * threshold, np.float32),
        threshold=threshold,
        range_per_hour=(float(ends[0]), float(ends[1])),
        clip_scores=np.asarray(slope * (held_out - threshold), np.float32),
    )
