"""The classifier of a new word: directions, and the threshold on them for a false-accept rate.

There is a direction towards the recordings as they are and one towards them in noise, which moves a
word far (`discriminant.py`). Along both a word is looked for at some lengths, and its score is the
highest. Knows nothing of audio or files. V directions and lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssast_edge.enrollment.background import Background
from ssast_edge.enrollment.discriminant import Discriminant, Recorded, Scale, Tail
from ssast_edge.enrollment.stretches import lengths_of

__all__ = ["CONFIDENT", "LearnedWord", "learn_word"]

FloatArray = NDArray[np.float32]

HOPS_PER_EVENT = 3.0  # a peak of the score lasts about so many hops
CONFIDENT = 4.0  # logit of the median recording: a score of 0.98


@dataclass(frozen=True, eq=False)
class LearnedWord:
    """max(weights * embedding + bias), over V, is the logit; 0 at the threshold."""

    weights: FloatArray  # (V, segments, width)
    bias: FloatArray  # (V,)
    threshold: float  # in scores along the directions
    range_per_hour: tuple[float, float]  # 95 % of the false-accept rate at 0.5, from the fit alone
    clip_scores: FloatArray  # (clips,), each by a direction learned without it, as logits


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
    tail, as the background is an hour or two and the rate one of many.
    """
    lengths = lengths_of(length, background.windows.shape[1])
    fisher = Discriminant(background, lengths)
    directions, others, scales = fisher.towards(clips)
    tail = Tail.of(others)
    hops_per_hour = 3_600_000 / hop_ms
    share = false_accepts_per_hour * HOPS_PER_EVENT / hops_per_hour
    threshold = tail.threshold(min(share, tail.share))
    as_recorded = [directions.scores(c.windows[~c.is_noisy]).max() for c in clips]
    median = float(np.median(as_recorded))
    slope = CONFIDENT / max(median - threshold, tail.excess)
    weights, bias = background.unfold(*directions.scaled(Scale(threshold, 1 / slope)))
    # An exponential's mean from n values is known to 2 / sqrt(n), and the rate goes by it.
    spread = 2 / np.sqrt(tail.count) * (threshold - tail.start) / tail.excess
    ends = false_accepts_per_hour * np.exp([-spread, spread])
    held_out = fisher.held_out_scores(clips, scales)
    return LearnedWord(
        weights=weights,
        bias=bias,
        threshold=threshold,
        range_per_hour=(float(ends[0]), float(ends[1])),
        clip_scores=np.asarray(slope * (held_out - threshold), np.float32),
    )
