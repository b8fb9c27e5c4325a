"""The classifier of a new word: one direction, and the threshold on it for a false-accept rate.

The direction is Fisher's, between the mean of the background and that of the recordings; its
covariance is half that of the background and half that of recordings of one and the same word,
which a few recordings cannot tell. Knows nothing of audio or files. R numbers describe a window.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssast_edge.enrollment.background import Background

__all__ = ["CONFIDENT", "LearnedWord", "Tail", "background_tail", "held_out_scores", "learn_word"]

FloatArray = NDArray[np.float32]

WITHIN_SHARE = 0.5  # of the covariance: how much recordings of one word differ
SHRINKAGE = 0.1  # of the mean variance, added to each
TAIL_SHARE = 0.05  # of the background's windows: those that the tail is fitted to
HOPS_PER_EVENT = 3.0  # a peak of the score lasts about so many hops
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
    """sigmoid(weights * embedding + bias) is 0.5 at the threshold."""

    weights: FloatArray  # (segments, width)
    bias: float
    threshold: float  # in scores along the direction
    range_per_hour: tuple[float, float]  # 95 % of the false-accept rate at 0.5, from the fit alone
    clip_scores: FloatArray  # (clips,), each by a direction learned without it, as logits


def direction(background: Background, clips: Sequence[FloatArray]) -> FloatArray:
    """(R,) from windows (N, R) of each recording; every recording counts as much."""
    covariance = (1 - WITHIN_SHARE) * background.covariance + WITHIN_SHARE * background.within
    size = len(covariance)
    covariance = covariance + SHRINKAGE * np.trace(covariance) / size * np.eye(size)
    mean = np.mean([clip.mean(axis=0) for clip in clips], axis=0)
    found = np.linalg.solve(covariance, mean - background.centre)
    return np.asarray(found / np.linalg.norm(found), np.float32)


def background_tail(background: Background, along: FloatArray) -> Tail:
    """The tail of the background's scores along a direction."""
    scores = np.sort(background.windows @ along)
    count = max(10, round(TAIL_SHARE * len(scores)))
    start = float(scores[-count - 1])
    excess = float(np.mean(scores[-count:] - start))
    return Tail(start, count / len(scores), max(excess, 1e-9), count)


def held_out_scores(background: Background, clips: Sequence[FloatArray]) -> FloatArray:
    """(clips,) the highest score of each by a direction from the others, above its tail's start.

    In excesses of the tail, so that scores along different directions compare.
    """
    found = []
    for index, clip in enumerate(clips):
        along = direction(background, [c for i, c in enumerate(clips) if i != index])
        tail = background_tail(background, along)
        found.append((float((clip @ along).max()) - tail.start) / tail.excess)
    return np.array(found, np.float32)


def learn_word(
    background: Background,
    clips: Sequence[FloatArray],
    *,
    false_accepts_per_hour: float,
    hop_ms: float,
) -> LearnedWord:
    """The classifier from windows (N, R) of each recording.

    false_accepts_per_hour: on audio like the background's; the threshold is extrapolated by the
    tail, as the background is minutes and the rate one of hours.
    """
    along = direction(background, clips)
    tail = background_tail(background, along)
    hops_per_hour = 3_600_000 / hop_ms
    share = false_accepts_per_hour * HOPS_PER_EVENT / hops_per_hour
    threshold = tail.threshold(min(share, tail.share))
    median = float(np.median([(clip @ along).max() for clip in clips]))
    slope = CONFIDENT / max(median - threshold, tail.excess)
    weights, bias = background.unfold(along * np.float32(slope))
    # An exponential's mean from n values is known to 2 / sqrt(n), and the rate goes by it.
    spread = 2 / np.sqrt(tail.count) * (threshold - tail.start) / tail.excess
    ends = false_accepts_per_hour * np.exp([-spread, spread])
    held_out = held_out_scores(background, clips) * tail.excess + tail.start
    return LearnedWord(
        weights=weights,
        bias=bias - slope * threshold,
        threshold=threshold,
        range_per_hour=(float(ends[0]), float(ends[1])),
        clip_scores=np.asarray(slope * (held_out - threshold), np.float32),
    )
