"""A long streaming track: keywords among hours of speech, sounds and quiet, with their times.

Seeded; every recording is used once, whole and at its own level; nothing is trimmed or chosen. A
keyword's extent inside its recording is found by `word_extent` where it is not known.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssast_edge.audio import file_blocks
from ssast_edge.errors import AudioError
from ssast_edge.evaluation.alignment import word_extent
from ssast_edge.evaluation.recordings import Recording
from ssast_edge.evaluation.reel import Audio, Piece, Reel
from ssast_edge.fbank import fbank

__all__ = ["SAMPLE_RATE", "Heard", "Source", "Track", "Unreadable", "Word", "build_track", "hear"]

Samples = NDArray[np.float32]
Unreadable = Callable[[Recording, str], object]

SAMPLE_RATE = 16000
_GAP_S = (0.3, 1.5)  # quiet between two recordings
_END_S = 2.0  # quiet at the end: a word may be detected after it
_ROUNDED_S = 0.05  # by which a word may seem to outlast its recording
_LONGEST_WORD_S = 60.0  # of a recording in which a word is looked for


@dataclass(frozen=True)
class Word:
    """A keyword that is said in the track, seconds; or a sound that has a label, as long as it."""

    label: str
    start_s: float
    end_s: float
    source: str
    kind: str = "keyword"


@dataclass(frozen=True)
class Source:
    """A recording in the track, from its first sample on."""

    start_s: float
    pack: str
    name: str  # its folder and file
    kind: str = ""
    label: str = ""
    text: str = ""

    @classmethod
    def of(cls, recording: Recording, start: int) -> "Source":
        """What is told of a recording when it begins at that sample."""
        name = f"{recording.path.parent.name}/{recording.path.name}"
        return cls(
            start / SAMPLE_RATE,
            recording.pack,
            name,
            recording.kind,
            recording.label,
            recording.text,
        )


@dataclass(frozen=True, eq=False)
class Track:
    """samples: float32 at 16 kHz, `samples[:]` is an array of all; words and sources in order.

    key: changes with the recordings' content, the seed and how they are put together.
    """

    samples: Audio
    words: tuple[Word, ...]
    sources: tuple[Source, ...]
    key: str = ""

    @property
    def hours(self) -> float:
        """Length of the track."""
        return len(self.samples) / SAMPLE_RATE / 3600

    @property
    def bounds(self) -> list[int]:
        """Where each source begins, the first from the track's start, and the track's end."""
        starts = [int(source.start_s * SAMPLE_RATE) for source in self.sources]
        return [0, *starts[1:], len(self.samples)]

    def source_at(self, time_s: float) -> Source | None:
        """The recording that plays at a time, or played last."""
        starts = [source.start_s for source in self.sources]
        index = int(np.searchsorted(starts, time_s, side="right")) - 1
        return self.sources[index] if index >= 0 else None


@dataclass(frozen=True)
class Heard:
    """A recording that was read once. extent_s: of its word; key: of its content."""

    recording: Recording
    num_samples: int
    extent_s: tuple[float, float]
    key: str

    def word(self, start: int, *, sounds: bool = False) -> Word | None:
        """What is to be detected when the recording begins at that sample; None: nothing is.

        sounds: whether sounds that have a label are.
        """
        recording = self.recording
        if recording.kind != "keyword" and not (sounds and recording.kind == "sound"):
            return None
        if not recording.label:
            return None
        first, last = self.extent_s
        at = start / SAMPLE_RATE
        return Word(recording.label, at + first, at + last, recording.path.name, recording.kind)


def build_track(
    recordings: Sequence[Recording],
    *,
    seed: int,
    sounds: bool = False,
    on_unreadable: Unreadable | None = None,
    progress: Callable[[int], object] | None = None,
) -> Track:
    """Put all recordings in random order with faint room tone between them; no noise.

    sounds: whether sounds that have a label are words too, for a bundle that tags them.
    on_unreadable: told of a recording that cannot be read, which is left out; None: raises
    AudioError, as where none can be. progress: called with 1 after each recording.
    """
    heard = hear(recordings, on_unreadable=on_unreadable, progress=progress)
    rng = np.random.default_rng(seed)
    pieces: list[Piece] = []
    words: list[Word] = []
    sources: list[Source] = []
    digest = hashlib.sha256(f"strict 1 {seed}".encode())
    position = 0
    for number, index in enumerate(rng.permutation(len(heard)).tolist()):
        one = heard[index]
        gap = Piece(position, int(rng.uniform(*_GAP_S) * SAMPLE_RATE), tone=(seed, number))
        piece = Piece(gap.end, one.num_samples, one.recording.path)
        word = one.word(piece.start, sounds=sounds)
        words += [] if word is None else [word]
        sources.append(Source.of(one.recording, piece.start))
        pieces += [gap, piece]
        digest.update(f"{one.key} {word}".encode())
        position = piece.end
    end = Piece(position, int(_END_S * SAMPLE_RATE), tone=(seed, len(heard)))
    reel = Reel([*pieces, end], end.end)
    return Track(reel, tuple(words), tuple(sources), digest.hexdigest())


def hear(
    recordings: Sequence[Recording],
    *,
    on_unreadable: Unreadable | None = None,
    progress: Callable[[int], object] | None = None,
) -> list[Heard]:
    """Read every recording once: how long it is, and where its word lies."""
    found = []
    reason = ""
    for recording in recordings:
        try:
            found.append(_hear(recording))
        except AudioError as error:
            if on_unreadable is None:
                raise
            reason = reason or str(error)
            on_unreadable(recording, str(error))
        if progress is not None:
            progress(1)
    if not found:
        if recordings:
            raise AudioError(f"none of {len(recordings)} recordings can be read: {reason}")
        raise ValueError("there is no recording to put into a track")
    return found


def _hear(recording: Recording) -> Heard:
    digest = hashlib.sha256()
    begin: list[Samples] = []
    length = 0
    for block in file_blocks(recording.path, block_ms=10_000):
        if length < _LONGEST_WORD_S * SAMPLE_RATE:
            begin.append(block.samples)
        length += len(block.samples)
        digest.update(block.samples.tobytes())
    if length < SAMPLE_RATE // 100:
        raise AudioError(f"{recording.path}: holds {length} samples, no audio")
    extent_s = (0.0, length / SAMPLE_RATE)
    if recording.kind == "keyword":
        if recording.start_s is not None and recording.end_s is not None:
            if recording.end_s > extent_s[1] + _ROUNDED_S:
                raise AudioError(
                    f"{recording.path}: is {extent_s[1]:.2f} s long, its word is said to end at "
                    f"{recording.end_s:g} s"
                )
            extent_s = (recording.start_s, recording.end_s)
        else:
            features = fbank(np.concatenate(begin))
            if len(features):
                first, end = word_extent(features)
                extent_s = (first / 100, end / 100 + 0.015)
    return Heard(recording, length, extent_s, digest.hexdigest())
