"""The track and the noise of Picovoice's wake-word benchmark, for figures that compare with it.

Keyword recordings lie evenly apart, each once. The gaps hold utterances, each drawn one heard with
probability 0.2, else silence as long as it. Every recording has its peak at full scale, a word is
as long as its recording, and noise lies under all of it by the energy of the loudest frame of 512
samples. What differs from that benchmark: all keywords share one track; an utterance whose
transcript holds a keyword is left out (there the check never finds one); events are matched one
to one (there every frame that fires in a word counts as a hit); utterances repeat only when all
were heard.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssast_edge.audio import read_audio
from ssast_edge.errors import AudioError, SsastEdgeError
from ssast_edge.evaluation.recordings import Recording
from ssast_edge.evaluation.reel import Piece, Reel, bounds_of
from ssast_edge.evaluation.track import SAMPLE_RATE, Source, Track, Unreadable, Word

__all__ = ["NoisyParts", "background", "build_picovoice", "holds_keyword", "mix_picovoice_noise"]

Samples = NDArray[np.float32]

_HEARD = 0.2  # probability of an utterance that was drawn
_FRAME = 512  # samples


@dataclass(frozen=True)
class _Clip:
    """A recording that was read. energy: of its loudest frame when its peak is at full scale."""

    recording: Recording
    num_samples: int
    gain: float
    energy: float
    key: str

    def piece(self, start: int) -> Piece:
        return Piece(start, self.num_samples, self.recording.path, gain=self.gain)


class _Parts(Reel):
    """A reel that knows the energy of the loudest frame of each piece."""

    def __init__(self, pieces: Sequence[Piece], total: int, energies: Sequence[float]) -> None:
        super().__init__(pieces, total)
        self.energies = tuple(energies)


def build_picovoice(
    recordings: Sequence[Recording],
    *,
    seed: int,
    hours: float | None = None,
    on_unreadable: Unreadable | None = None,
    progress: Callable[[int], object] | None = None,
) -> Track:
    """The track of the keyword and speech recordings among these; no noise.

    hours: length; default so long that the utterances are heard about once each. on_unreadable,
    progress: as for `build_track`. Raises SsastEdgeError where keywords or speech are missing or
    the keywords alone are longer than that. What became of the utterances: `background`.
    """
    keywords = [r for r in recordings if r.kind == "keyword"]
    labels = sorted({r.label for r in keywords})
    speech = [r for r in recordings if r.kind == "speech" and not holds_keyword(r.text, labels)]
    for found, what in ((keywords, "keywords"), (speech, "speech without a keyword in it")):
        if not found:
            raise SsastEdgeError(
                f"the protocol picovoice needs recordings of {what}: there is none"
            )
    words_read = _read(keywords, on_unreadable, progress)
    speech_read = _read(speech, on_unreadable, progress)
    said = sum(clip.num_samples for clip in words_read)
    total = said + int(sum(clip.num_samples for clip in speech_read) / _HEARD)
    if hours is not None:
        total = int(hours * 3600 * SAMPLE_RATE)
    if total <= said:
        raise SsastEdgeError(
            f"{hours:g} h are too short: the {len(words_read)} keyword recordings alone last "
            f"{said / SAMPLE_RATE / 3600:.2f} h"
        )
    return _lay(words_read, speech_read, total - said, seed)


def holds_keyword(text: str, labels: Sequence[str]) -> bool:
    """Whether a transcript holds one of the keywords, in any case, joined or apart, or inflected.

    "Computers" holds computer and "snow boy" snowboy; "Alexander" does not hold alexa.
    """
    words = _spoken(text)
    for label in labels:
        wanted = "".join(_spoken(label))
        for first in range(len(words)):
            joined = ""
            for word in words[first:]:
                joined += word
                if len(joined) >= len(wanted):
                    break
            if wanted and joined in (wanted, wanted + "s", wanted + "es"):
                return True
    return False


def background(recordings: Sequence[Recording], track: Track) -> dict[str, int]:
    """How many utterances there are, were left out for a keyword, were heard, more than once.

    without_transcript: taken as they are, whatever is said in them.
    """
    speech = [r for r in recordings if r.kind == "speech"]
    labels = sorted({r.label for r in recordings if r.kind == "keyword"})
    times = Counter(source.name for source in track.sources if source.kind == "speech")
    return {
        "utterances": len(speech),
        "with_keyword": sum(holds_keyword(r.text, labels) for r in speech),
        "without_transcript": sum(not r.text.strip() for r in speech),
        "heard": len(times),
        "repeated": sum(count > 1 for count in times.values()),
    }


def _spoken(text: str) -> list[str]:
    kept = (c if c.isalnum() else "" if c in "'\u2019" else " " for c in text.casefold())
    return "".join(kept).split()


def _read(
    recordings: Sequence[Recording],
    on_unreadable: Unreadable | None,
    progress: Callable[[int], object] | None,
) -> list[_Clip]:
    found = []
    for recording in recordings:
        try:
            found.append(_read_one(recording))
        except AudioError as error:
            if on_unreadable is None:
                raise
            on_unreadable(recording, str(error))
        if progress is not None:
            progress(1)
    if not found:
        raise SsastEdgeError(
            f"none of {len(recordings)} recordings of kind {recordings[0].kind} can be read"
        )
    return found


def _read_one(recording: Recording) -> _Clip:
    samples = read_audio(recording.path)
    if len(samples) < _FRAME:
        raise AudioError(f"{recording.path}: holds {len(samples)} samples, wanted {_FRAME} or more")
    peak = float(np.abs(samples).max())
    gain = 1 / peak if peak > 0 else 1.0
    key = hashlib.sha256(samples.tobytes()).hexdigest()
    energy = gain**2 * _loudest(samples)
    return _Clip(recording, len(samples), gain, energy, key)


def _lay(words_read: list[_Clip], speech_read: list[_Clip], background: int, seed: int) -> Track:
    """All keywords with gaps between them whose lengths sum to about `background` samples."""
    rng = np.random.default_rng(seed)
    digest = hashlib.sha256(f"picovoice 1 {seed} {background}".encode())
    utterances = _endless(speech_read, rng)
    clips: list[tuple[_Clip, int]] = []  # each with its first sample
    words: list[Word] = []
    position = said = 0
    order = rng.permutation(len(words_read)).tolist()
    for number in range(len(order) + 1):
        # An overlong utterance shortens the gap after it: the words stay evenly apart.
        gap_end = said + background * (number + 1) // (len(order) + 1)
        while position < gap_end:
            drawn = speech_read[int(rng.integers(len(speech_read)))].num_samples
            if rng.uniform() < _HEARD:
                clip = next(utterances)
                clips.append((clip, position))
                drawn = clip.num_samples
            position += drawn
        if number < len(order):
            clip = words_read[order[number]]
            clips.append((clip, position))
            first, last = position / SAMPLE_RATE, (position + clip.num_samples) / SAMPLE_RATE
            words.append(Word(clip.recording.label, first, last, clip.recording.path.name))
            position += clip.num_samples
            said += clip.num_samples
    for clip, start in clips:
        digest.update(f"{clip.key} {start} {clip.recording.label}".encode())
    reel = _Parts(
        [clip.piece(start) for clip, start in clips], position, [clip.energy for clip, _ in clips]
    )
    sources = tuple(Source.of(clip.recording, start) for clip, start in clips)
    return Track(reel, tuple(words), sources, digest.hexdigest())


def _endless(clips: list[_Clip], rng: np.random.Generator) -> Iterator[_Clip]:
    """All in random order, then all again in another."""
    while True:
        for index in rng.permutation(len(clips)).tolist():
            yield clips[index]


def mix_picovoice_noise(
    track: Track, noise: Sequence[Samples], *, snr_db: float, seed: int
) -> "NoisyParts":
    """A track of `build_picovoice` over noise, recordings in random order with their peaks equal.

    The loudest frame of every recording is `snr_db` above that of the noise under it; silence
    has the noise alone. Raises ValueError for another track, or without noise that has any sound.
    """
    if not isinstance(track.samples, _Parts):
        raise ValueError("only a track of build_picovoice can be mixed by its rule")
    level = [clip / np.abs(clip).max() for clip in noise if len(clip) and np.abs(clip).max() > 0]
    if not level:
        raise ValueError(f"none of {len(noise)} noise recordings has any sound")
    return NoisyParts(track.samples, level, snr_db=snr_db, seed=seed)


class NoisyParts:
    """Parts at a level above the noise under each, made while it is read; full scale is 1."""

    def __init__(
        self, parts: _Parts, noise: Sequence[Samples], *, snr_db: float, seed: int
    ) -> None:
        self._parts = parts
        self._noise = noise
        rng = np.random.default_rng([seed, 3])
        starts, self._chosen = [0], []
        while starts[-1] < len(parts):
            self._chosen.append(int(rng.integers(len(noise))))
            starts.append(starts[-1] + len(noise[self._chosen[-1]]))
        self._starts = np.array(starts)
        self._ends = np.array([piece.end for piece in parts.pieces], np.int64)
        self._scales = np.zeros(len(parts.pieces), np.float32)
        for index, (piece, energy) in enumerate(zip(parts.pieces, parts.energies, strict=True)):
            if energy > 0:
                under = _loudest(self._bed(piece.start, piece.end))
                self._scales[index] = np.sqrt(under * 10 ** (snr_db / 10) / energy)
        # Noise and parts have their peaks at 1 before they are scaled: no sum is louder than this.
        self._full_scale = np.float32(1 + self._scales.max(initial=0))

    def __len__(self) -> int:
        """How many samples."""
        return len(self._parts)

    def __getitem__(self, cut: slice, /) -> Samples:
        """The samples first:last."""
        first, last = bounds_of(cut, len(self._parts))
        out = self._bed(first, last)
        speech = self._parts[first:last]
        index = int(np.searchsorted(self._ends, first, side="right"))
        while index < len(self._scales) and self._parts.pieces[index].start < last:
            piece = self._parts.pieces[index]
            begin, end = max(first, piece.start) - first, min(last, piece.end) - first
            out[begin:end] += speech[begin:end] * self._scales[index]
            index += 1
        out /= self._full_scale
        return out

    def _bed(self, first: int, last: int) -> Samples:
        """The noise from sample first to last."""
        bed = np.empty(last - first, np.float32)
        index = int(np.searchsorted(self._starts, first, side="right")) - 1
        while index < len(self._chosen) and self._starts[index] < last:
            start, end = int(self._starts[index]), int(self._starts[index + 1])
            begin, stop = max(first, start), min(last, end)
            clip = self._noise[self._chosen[index]]
            bed[begin - first : stop - first] = clip[begin - start : stop - start]
            index += 1
        return bed


def _loudest(samples: Samples) -> float:
    """Energy of the loudest whole frame."""
    frames = samples[: len(samples) // _FRAME * _FRAME].reshape(-1, _FRAME).astype(np.float64)
    return float((frames**2).sum(axis=1).max())
