"""Classes of sounds laid under a sequence, and which token of it has just heard which of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from train.composition import Composer, Rows, Window, loud_from

__all__ = ["SoundLayer", "told_sounds"]

_HEARD_FOR = 100  # frames after a loud one for which a sound counts as there
_ENOUGH = 10  # loud frames among them
_MAYBE_FOR = 200  # frames after a loud one for which it may count as there
_SHORTEST, _LONGEST = 60, 500  # frames of one recording
_UNDER_SPEECH = (-2.3, 0.7)  # log-mel, -10 to 3 dB: loud frames of a sound beside what is said
_MASKED = 1.5  # log-mel: a frame of a sound so far below all that sounds is not heard


class SoundLayer:
    """Recordings of classes of sounds one after the other, some of them two at a time.

    rows: of the pool, one array a class. mix_chance: that one begins before another has ended.
    """

    def __init__(self, compose: Composer, rows: list[Rows], *, mix_chance: float) -> None:
        self._compose, self._rows, self._mix_chance = compose, rows, mix_chance

    def lay(
        self, rng: np.random.Generator, sequence: Window, *, speech: float | None
    ) -> NDArray[np.uint8]:
        """Add sounds to a sequence (T, bins) in place; returns (classes, T) of loud frames.

        speech: the level of what is said in it; None: nothing is, a sound is as loud as recorded.
        Of a class, 0: silent, 1: loud and heard, 2: loud and drowned.
        """
        frames = len(sequence)
        laid: list[tuple[int, int, Window, NDArray[np.bool_]]] = []
        at = -int(rng.integers(0, 200))
        while at < frames:
            sound = int(rng.integers(len(self._rows)))
            row = self._compose.row(rng, self._rows[sound])
            features, is_loud = self._excerpt(rng, row)
            if speech is not None:
                its_own = features[is_loud].mean()
                features = features + np.float32(speech - its_own + rng.uniform(*_UNDER_SPEECH))
            length = len(features)
            first, last = max(at, 0), min(at + length, frames)
            if last > first:
                shown = slice(first - at, last - at)
                sequence[first:last] = np.logaddexp(sequence[first:last], features[shown])
                laid.append((sound, first, features[shown].mean(axis=1), is_loud[shown]))
            at += length
            if rng.random() < self._mix_chance:
                at -= int(rng.integers(length))
            elif rng.random() < 0.5:
                at += int(rng.integers(0, 150))
        return self._loud(laid, sequence.mean(axis=1))

    def _excerpt(self, rng: np.random.Generator, row: np.void) -> tuple[Window, NDArray[np.bool_]]:
        """A stretch of a recording that holds its sound, and which frames of it are loud."""
        features = self._compose.features(row)
        loudness = features.mean(axis=1)
        is_loud = loudness >= loud_from(loudness)
        length = min(len(features), int(rng.integers(_SHORTEST, _LONGEST)))
        held = int(rng.choice(np.flatnonzero(is_loud)))
        first, last = max(0, held - length + 1), min(held, len(features) - length)
        begin = int(rng.integers(first, last + 1))
        return features[begin : begin + length], is_loud[begin : begin + length]

    def _loud(
        self, laid: list[tuple[int, int, Window, NDArray[np.bool_]]], whole: Window
    ) -> NDArray[np.uint8]:
        """Which loud frames are heard in the whole, once all sounds are laid.

        laid: the class, where it begins, its level (T,) and its loud frames (T,) of each.
        """
        loud = np.zeros((len(self._rows), len(whole)), dtype=np.uint8)
        for sound, first, its_level, is_loud in laid:
            last = first + len(its_level)
            is_heard = its_level >= whole[first:last] - _MASKED
            found = (np.where(is_heard, 1, 2) * is_loud).astype(np.uint8)
            of_class = loud[sound, first:last]
            np.copyto(of_class, found, where=(found > 0) & (of_class != 1))
        return loud


def told_sounds(
    loud: NDArray[np.uint8], ends: NDArray[np.intp], *, begins: int, ignored: int
) -> NDArray[np.uint8]:
    """(N, classes): 1 where enough of a class was heard just before a token's end, 0 or `ignored`.

    loud: (classes, T) of `SoundLayer.lay`; ends: (N,) frames; begins: of the stream, what lay
    before it was not heard.
    """
    loud = loud.copy()
    loud[:, :begins] = 0

    def within(frames: NDArray[np.bool_], last: int) -> NDArray[np.intp]:
        total = np.concatenate([np.zeros((len(frames), 1), np.intp), frames.cumsum(axis=1)], axis=1)
        counts: NDArray[np.intp] = total[:, ends] - total[:, np.maximum(ends - last, 0)]
        return counts

    told = np.zeros((len(loud), len(ends)), dtype=np.uint8)
    told[within(loud > 0, _MAYBE_FOR) > 0] = ignored
    told[within(loud == 1, _HEARD_FOR) >= _ENOUGH] = 1
    by_token: NDArray[np.uint8] = told.T
    return by_token
