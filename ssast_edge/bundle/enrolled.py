"""Words that a bundle was taught on the device: a linear classifier each, over the embedding.

Knows how they are stored and scored; nothing of audio, of models, or of how they are learned
(`ssast_edge.enrollment`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssast_edge.npz import read_npz

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig:
    """The model's second output: a vector for each of `segments` equal stretches of the window."""

    segments: int
    width: int
    background: str = ""  # path inside the bundle of what other audio gives; empty: none

    def __post_init__(self) -> None:
        """Refuse an embedding of nothing."""
        if min(self.segments, self.width) < 1:
            raise ValueError(
                f"segments and width must be at least 1, got {self.segments} and {self.width}"
            )


@dataclass(frozen=True, kw_only=True)
class EnrolledWord:
    """What a bundle's manifest says of an enrolled word."""

    label: str
    file: str  # path inside the bundle of its weights
    clips: int  # recordings it was learned from
    false_accepts_per_hour: float  # that its threshold was chosen for
    date: str = ""  # of the enrolment

    def __post_init__(self) -> None:
        """Refuse what no enrolment gives."""
        if self.clips < 1:
            raise ValueError(f"clips must be at least 1, got {self.clips}")
        if not self.false_accepts_per_hour >= 0:
            raise ValueError(
                f"false_accepts_per_hour must be 0 or more, got {self.false_accepts_per_hour}"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Enrolled:
    """An enrolled word and its classifier: sigmoid(max(sum(weights * embedding) + bias)).

    The highest over the lengths at which the word is looked for.
    """

    word: EnrolledWord
    weights: FloatArray  # (lengths, segments, width)
    bias: FloatArray  # (lengths,)


class EnrolledScores:
    """Scores of all enrolled words from one embedding."""

    def __init__(self, enrolled: Sequence[Enrolled]) -> None:
        self._weights = np.concatenate([w.weights.reshape(len(w.weights), -1) for w in enrolled])
        self._bias = np.concatenate([one.bias for one in enrolled])
        lengths = [len(one.weights) for one in enrolled]
        self._first = np.cumsum([0, *lengths[:-1]])

    def logits(self, embedding: FloatArray) -> FloatArray:
        """(words,) for an embedding (segments, width)."""
        at_lengths = self._weights @ embedding.ravel() + self._bias
        logits: FloatArray = np.maximum.reduceat(at_lengths, self._first)
        return logits


def read_enrolled(folder: Path, word: EnrolledWord) -> Enrolled:
    """The word's classifier. Raises ValueError, in one line, for a file that holds none."""
    arrays = read_npz(folder / word.file, ("weights", "bias"), f"enrolled file {word.file}")
    weights, bias = arrays["weights"], arrays["bias"]
    for array, rank in ((weights, 3), (bias, 1)):
        if array.dtype != np.float32 or array.ndim != rank or not np.isfinite(array).all():
            raise ValueError(
                f"enrolled file {word.file} of {word.label!r} must hold finite float32 numbers, "
                "weights for each of some lengths: an older version's is taught again, "
                f"ssast-edge enroll {word.label!r} CLIP... --bundle wake-words --out DIR"
            )
    if not 0 < len(weights) == len(bias):
        raise ValueError(f"enrolled file {word.file} must hold a bias for each length")
    return Enrolled(word=word, weights=weights, bias=bias)
