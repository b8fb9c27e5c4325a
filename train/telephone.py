"""Telephone sentences of WUW apart: the wake-up word of each, and what is said beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssast_edge.audio import read_audio
from train.packs import Split, read_rows, split_of

__all__ = ["TELEPHONE_WORDS", "TelephoneSentence", "telephone_sentences", "telephone_speech"]

FloatArray = NDArray[np.float32]

TELEPHONE_WORDS = ("operator", "thinkengine", "onword", "wildfire", "voyager")
SAMPLE_RATE = 16_000
MARGIN_S = 0.2
SHORTEST_S = 0.64  # of speech beside a word


@dataclass(frozen=True)
class TelephoneSentence:
    """A sentence of WUW that says one of its words, once, and where."""

    path: Path
    session: str
    word: str
    start_s: float
    end_s: float

    def cut(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Samples before the word, of it, and after it; MARGIN_S on both sides are the word's."""
        samples = read_audio(self.path)
        first = max(0, int((self.start_s - MARGIN_S) * SAMPLE_RATE))
        last = int((self.end_s + MARGIN_S) * SAMPLE_RATE)
        return samples[:first], samples[first:last], samples[last:]


def telephone_sentences(root: Path) -> list[TelephoneSentence]:
    """Those that say one word, once, at a known place."""
    found = []
    columns = "path", "session", "keyword_start_s", "keyword_end_s", "transcript"
    for row in read_rows(root / "wuw.csv", *columns):
        text = row["transcript"].lower().replace(" ", "")
        said = [word for word in TELEPHONE_WORDS for _ in range(text.count(word))]
        first, last = (float(row[f"keyword_{name}_s"]) for name in ("start", "end"))
        if len(said) == 1 and last > first:
            found.append(
                TelephoneSentence(root / row["path"], row["session"], said[0], first, last)
            )
    return found


def telephone_speech(root: Path, split: Split) -> list[FloatArray]:
    """Samples of the telephone sentences of a split beside their words."""
    sentences = [s for s in telephone_sentences(root) if split_of("wuw", s.session) == split]
    parts = [part for sentence in sentences for part in sentence.cut()[::2]]
    return [samples for samples in parts if len(samples) >= SHORTEST_S * SAMPLE_RATE]
