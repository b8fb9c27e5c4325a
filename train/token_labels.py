"""Which tokens of a stream tell which word, other speech and silence, from what is said in it.

A token tells a word when its last frame lies between `earliest` and `latest` frames after the
word's end; around that it may do either. Other speech and silence are told likewise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.windows import SILENCE as SILENCE_LABEL
from train.windows import UNKNOWN as UNKNOWN_LABEL

__all__ = ["IGNORED", "NO_LABEL", "Said", "TokenLabels"]

IGNORED = 255  # a token that counts as neither
NO_LABEL = -1
_TELLING = 25  # frames of other speech before it can be told to be other


@dataclass(frozen=True)
class Said:
    """Speech in a sequence, in frames: a word with a label, or something else."""

    label: int
    begin: int
    end: int
    is_broken_off: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenLabels:
    """Labels of tokens by their last frames. Times are in frames of a sequence.

    ends: (N,) the frame after the last of each token. classes: labels, then auxiliary words, which
    are other words to who hears the first `labels` of them.
    """

    ends: NDArray[np.intp]
    classes: tuple[str, ...]
    labels: int
    earliest: int
    latest: int
    unsure: int

    def told(self, heard: Sequence[Said], begins: int) -> NDArray[np.uint8]:
        """(N, words): which token tells which word.

        begins: of the stream; a word that had begun before is not whole and may be told, or not.
        """
        told = np.zeros((len(self.ends), len(self.classes)), dtype=np.uint8)
        words = [said for said in heard if said.label != NO_LABEL]
        for word in words:
            after = self.ends - word.end
            near = (after >= -self.unsure) & (after <= self.latest + self.unsure)
            told[near & (told[:, word.label] == 0), word.label] = IGNORED
            if word.begin >= begins:
                sure = (after >= self.earliest) & (after <= self.latest)
                told[sure, word.label] = 1
        if UNKNOWN_LABEL in self.classes:
            # Words that are learned beside the labels are other words to who hears the labels.
            labelled = [word for word in words if word.label < self.labels]
            others = [said for said in heard if said not in labelled]
            told[:, self.classes.index(UNKNOWN_LABEL)] = self._other_speech(labelled, others)
        if SILENCE_LABEL in self.classes:
            told[:, self.classes.index(SILENCE_LABEL)] = self._silence(heard)
        return told

    def _other_speech(self, words: Sequence[Said], others: Sequence[Said]) -> NDArray[np.uint8]:
        """(N,): whether what is or was said last is none of the words."""
        latest, unsure = self.latest, self.unsure
        told = np.zeros(len(self.ends), dtype=np.uint8)
        for said in others:
            is_near = (self.ends >= said.begin) & (self.ends <= said.end + latest + unsure)
            told[is_near & (told == 0)] = IGNORED
            if said.is_broken_off:  # recordings of single words often are, too
                continue
            told[(self.ends >= said.begin + _TELLING) & (self.ends <= said.end + latest)] = 1
        for word in words:
            is_near = (self.ends >= word.begin) & (self.ends <= word.end + latest)
            is_told = self.ends >= word.end + self.earliest
            told[is_near & (~is_told | (told == 1))] = IGNORED
        return told

    def _silence(self, heard: Sequence[Said]) -> NDArray[np.uint8]:
        """(N,): whether nothing is said, and nothing was for a while."""
        latest, unsure = self.latest, self.unsure
        told = np.ones(len(self.ends), dtype=np.uint8)
        for said in heard:
            near = (self.ends >= said.begin) & (self.ends <= said.end + latest + 2 * unsure)
            told[near & (told == 1)] = IGNORED
            begin, end = said.begin + unsure, said.end + latest
            told[(self.ends >= begin) & (self.ends <= end)] = 0
        return told
