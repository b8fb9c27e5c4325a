"""A long streaming track: keywords among hours of speech, sounds and quiet, with their times.

Seeded; every recording is used at most once, whole and at its own level; nothing is trimmed or
chosen. A keyword's extent inside its recording is found by `word_extent` where it is not known.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssast_edge.audio import read_audio
from ssast_edge.evaluation.alignment import word_extent
from ssast_edge.evaluation.recordings import Recording
from ssast_edge.fbank import fbank

__all__ = ["SAMPLE_RATE", "Source", "Track", "Word", "build_track"]

Samples = NDArray[np.float32]
SAMPLE_RATE = 16000
_GAP_S = (0.3, 1.5)  # quiet between two recordings


@dataclass(frozen=True)
class Word:
    """A keyword that is said in the track, seconds."""

    label: str
    start_s: float
    end_s: float
    source: str


@dataclass(frozen=True)
class Source:
    """A recording in the track, from its first sample on."""

    start_s: float
    pack: str
    name: str  # its folder and file
    kind: str = ""
    label: str = ""
    text: str = ""


@dataclass(frozen=True)
class Track:
    """samples: (N,) float32 at 16 kHz; words and sources in order."""

    samples: Samples
    words: tuple[Word, ...]
    sources: tuple[Source, ...]

    @property
    def hours(self) -> float:
        """Length of the track."""
        return len(self.samples) / SAMPLE_RATE / 3600


def build_track(recordings: Sequence[Recording], *, seed: int) -> Track:
    """Put all recordings in random order with faint room tone between them.

    Speech Commands words are 1 s each and many, so they follow each other as the rest does.
    """
    rng = np.random.default_rng(seed)
    pieces: list[Samples] = []
    words: list[Word] = []
    sources: list[Source] = []
    position = 0
    for index in rng.permutation(len(recordings)):
        recording = recordings[index]
        gap = _room_tone(rng, int(rng.uniform(*_GAP_S) * SAMPLE_RATE))
        samples = read_audio(recording.path)
        start = position + len(gap)
        at = start / SAMPLE_RATE
        if recording.kind == "keyword":
            first, end = word_extent(fbank(samples))
            words.append(
                Word(recording.label, at + first / 100, at + end / 100 + 0.015, recording.path.name)
            )
        name = f"{recording.path.parent.name}/{recording.path.name}"
        sources.append(
            Source(at, recording.pack, name, recording.kind, recording.label, recording.text)
        )
        pieces += [gap, samples]
        position = start + len(samples)
    pieces.append(_room_tone(rng, 2 * SAMPLE_RATE))
    return Track(np.concatenate(pieces), tuple(words), tuple(sources))


def _room_tone(rng: np.random.Generator, length: int) -> Samples:
    return (rng.standard_normal(length) * 10 ** rng.uniform(-4.5, -3)).astype(np.float32)
