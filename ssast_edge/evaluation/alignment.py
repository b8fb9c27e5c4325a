"""Finds the word inside a loosely cut recording that holds one word and nothing else.

Energy above the recording's own noise floor, per mel bin, so that hum and hiss do not count.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["share_outside", "word_extent"]

_SPEECH_BINS = slice(12, 124)  # about 200 Hz to 7.5 kHz of 128 mel bins
_LONGEST_PAUSE = 22  # frames of 10 ms that may be quiet inside a word ("smart mirror")
_MARGIN_START, _MARGIN_END = 3, 5


def word_extent(fbank: NDArray[np.float32]) -> tuple[int, int]:
    """First and one-past-last frame of the word in (T, F) raw log-mel."""
    loudness = _loudness(fbank)
    peak = int(np.argmax(loudness))
    active = loudness > 0.2 * loudness[peak]
    start = _walk(active[: peak + 1][::-1])
    end = _walk(active[peak:])
    return max(0, peak - start - _MARGIN_START), min(len(fbank), peak + end + 1 + _MARGIN_END)


def share_outside(fbank: NDArray[np.float32], first: int, last: int) -> float:
    """Loud frames outside of a word, per loud frame of it: 1 where it is said twice."""
    loudness = _loudness(fbank)
    loud = loudness > 0.5 * loudness.max()
    inside = int(loud[first:last].sum())
    return (int(loud.sum()) - inside) / max(1, inside)


def _loudness(fbank: NDArray[np.float32]) -> NDArray[np.float64]:
    """(T,) above the recording's floor, smoothed."""
    bands = fbank[:, _SPEECH_BINS]
    floor = np.percentile(bands, 15, axis=0)
    loudness = np.clip(bands - np.maximum(floor, bands.max() - 12), 0, None).mean(axis=1)
    return np.convolve(loudness, np.ones(7) / 7, mode="same")


def _walk(active: NDArray[np.bool_]) -> int:
    """Index of the last active frame before a pause longer than a word's inner one."""
    last = 0
    for index, value in enumerate(active):
        if value:
            last = index
        elif index - last > _LONGEST_PAUSE:
            break
    return last
