"""A word in PARTS equal parts, however long it was said to be: what is compared of two of them.

People say a word half as fast again or as slow, and rows of an embedding lie a fixed time apart. So
the last rows of an embedding, as many as the word is long, become means over parts; a fraction of
a row counts by that fraction. S rows of an embedding, the last one the newest.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["PARTS", "lengths_of", "parts_of", "part_means"]

FloatArray = NDArray[np.float32]

PARTS = 8
STRETCHES = (0.8, 1.0, 1.25)  # lengths at which a word is looked for, of that it was learned at
FEWEST_ROWS = 1.0


def part_means(length: float, rows: int) -> FloatArray:
    """(PARTS, rows) weights that give the means of the last `length` rows in PARTS parts."""
    length = float(np.clip(length, FEWEST_ROWS, rows))
    edges = rows - length + np.linspace(0, length, PARTS + 1)
    row = np.arange(rows)
    overlap = np.minimum(edges[1:, None], row + 1) - np.maximum(edges[:-1, None], row)
    return (overlap.clip(0) / (length / PARTS)).astype(np.float32)


def parts_of(rows: FloatArray, length: float) -> FloatArray:
    """(N, S, P) to (N, PARTS * P)."""
    means = part_means(length, rows.shape[1])
    return np.asarray(means @ rows, np.float32).reshape(len(rows), -1)


def lengths_of(length: float, rows: int) -> Sequence[float]:
    """The lengths at which a word of `length` rows is looked for, each once."""
    return tuple(dict.fromkeys(float(min(length * stretch, rows)) for stretch in STRETCHES))
