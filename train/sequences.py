"""Draws seconds of a stream, and what each token of it has just heard the end of.

A sequence is what a microphone hears: words, pieces of words, other speech and sounds one after
the other over one room tone, with noise. A token is one patch of all mel bins; it knows what came
before it and nothing of what follows. Batch `step` depends on (seed, step) alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssast_edge.fbank import FbankConfig
from train.augment import (
    LogMelAugmentConfig,
    add_noise,
    random_level,
    spec_augment,
    warp_frequencies,
)
from train.composition import Composer, Rows, Window, level
from train.encoder import EncoderConfig
from train.phone_alignment import PHONES, UNKNOWN, PhoneLabels, clip_key
from train.pool import FeaturePool
from train.sound_layer import SoundLayer, told_sounds
from train.token_labels import IGNORED, NO_LABEL, Said, TokenLabels
from train.windows import SILENCE as SILENCE_LABEL
from train.windows import UNKNOWN as UNKNOWN_LABEL

__all__ = ["SequenceConfig", "SequenceSampler"]

_SILENT = PHONES.index("SIL")


@dataclass(frozen=True, kw_only=True)
class SequenceConfig:
    """What a sequence is made of (weights, normalised) and how. Times are in fbank frames."""

    num_frames: int = 400
    keyword: float = 0.24  # recorded, whole
    synthetic_keyword: float = 0.10
    fragment: float = 0.14  # part of a keyword, and at once something else
    near_miss: float = 0.14
    word: float = 0.12  # other words of Speech Commands
    snippet: float = 0.06  # a piece of running speech, alone as a word would be
    speech: float = 0.16
    sound: float = 0.04
    gap_chance: float = 0.6  # room tone before the next piece
    longest_gap: int = 60
    alike_chance: float = 0.5  # all speech as loud as the first of it
    start_chance: float = 0.08  # the stream has just begun: the first part is zeros
    babble_chance: float = 0.15  # noise is many voices
    warp: tuple[float, float] = (1.0, 1.0)  # factor on all frequencies: throats of other lengths
    # Where classes of sounds are among the labels: that a sequence holds some, that two of them
    # sound at once, and that something is said in it at all.
    labelled_sound_chance: float = 0.5
    mix_chance: float = 0.35
    speech_chance: float = 1.0
    # Of noise_chance and tilt_db, where labelled sounds are: hardly anything tells rain in noise.
    labelled_sound_noise_share: float = 1.0
    labelled_sound_tilt_share: float = 1.0
    # A token tells a word when its last frame lies so many frames after the word's end; before, in
    # `unsure` frames, and after, in as many, it may do either.
    earliest: int = 2
    latest: int = 38
    unsure: int = 12
    phone_delay: int = 10  # a token tells the phone so many frames before its last one

    def __post_init__(self) -> None:
        """Refuse sequences too short to be composed and weights that nothing can be drawn by."""
        if self.num_frames < 100:
            raise ValueError(f"num_frames must be at least 100, got {self.num_frames}")
        weights = (
            self.keyword, self.synthetic_keyword, self.fragment, self.near_miss, self.word,
            self.snippet, self.speech, self.sound,
        )  # fmt: skip
        if not (min(weights) >= 0 and 0 < sum(weights) < float("inf")):
            raise ValueError(f"weights must be 0 or more and not all 0, got {weights}")
        for name in (
            "gap_chance", "alike_chance", "start_chance", "babble_chance",
            "labelled_sound_chance", "mix_chance", "speech_chance",
            "labelled_sound_noise_share", "labelled_sound_tilt_share",
        ):  # fmt: skip
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if not 0 <= self.earliest < self.latest or min(self.unsure, self.phone_delay) < 0:
            raise ValueError("wanted 0 <= earliest < latest, and unsure and phone_delay 0 or more")
        if not 0.5 <= self.warp[0] <= self.warp[1] <= 2:
            raise ValueError(f"warp must be a range within [0.5, 2], got {list(self.warp)}")
        if self.longest_gap < 6:
            raise ValueError(f"longest_gap must be at least 6, got {self.longest_gap}")


@dataclass(frozen=True)
class _Piece:
    """Features, their phones, and the word that they hold from frame `begin` to frame `end`."""

    features: Window
    phones: NDArray[np.uint8]
    is_speech: bool
    label: int = NO_LABEL
    begin: int = 0
    end: int = 0
    is_broken_off: bool = False  # no word, and not another one either


class SequenceSampler:
    """Batches of sequences, with the words that each token tells and the phone that it tells.

    labels: keywords, and `_unknown_` (other speech) and `_silence_`; auxiliary_labels: words of
    Speech Commands, or near misses, that are told beside them.
    fill: what masked parts hold, the data's mean; front_end: of the pool, None: as on the device.
    """

    def __init__(
        self,
        pool: FeaturePool,
        labels: tuple[str, ...],
        config: SequenceConfig,
        augment: LogMelAugmentConfig,
        encoder: EncoderConfig,
        phones: PhoneLabels | None,
        *,
        seed: int,
        fill: float,
        auxiliary_labels: tuple[str, ...] = (),
        front_end: FbankConfig | None = None,
    ) -> None:
        self.pool, self.config, self.augment = pool, config, augment
        self._sounding = replace(
            augment,
            noise_chance=augment.noise_chance * config.labelled_sound_noise_share,
            tilt_db=augment.tilt_db * config.labelled_sound_tilt_share,
        )
        self.seed, self.fill = seed, fill
        self._front_end = front_end or FbankConfig(num_mel_bins=pool.frames.shape[1])
        self._index = {name: i for i, name in enumerate((*labels, *auxiliary_labels))}
        self._labels = len(labels)
        aligned = phones.labels if phones is not None else {}
        self._phones = [aligned.get(clip_key(clip)) for clip in pool.clips]
        row_clips = pool.rows["clip"]
        # The first rendering of a clip is as recorded: what the others' length says of their speed.
        first = np.unique(row_clips, return_index=True)
        self._plain = np.ones(len(pool.clips))
        self._plain[first[0]] = pool.rows["frames"][first[1]]
        kinds = np.array([clip.kind for clip in pool.clips])[row_clips]
        packs = np.array([clip.pack for clip in pool.clips])[row_clips]
        words = np.array([clip.word for clip in pool.clips])[row_clips]
        long_enough = pool.rows["frames"] >= 20

        def rows(*conditions: NDArray[np.bool_]) -> Rows:
            return np.flatnonzero(np.logical_and.reduce([long_enough, *conditions]))

        recorded = packs != "synthetic"
        spoken = (kinds == "keyword") | (kinds == "word")
        has_word = pool.rows["end"] > pool.rows["start"]
        sounds = {str(w) for w in np.unique(words[kinds == "sound"])} & set(labels)
        self._sounds = [self._index[w] for w in labels if w in sounds]
        reserved = {UNKNOWN_LABEL, SILENCE_LABEL}
        labels = tuple(w for w in labels if w not in sounds | reserved)
        self._keywords = [rows(recorded, spoken, has_word, words == w) for w in labels]
        self._synthetic = [
            found for w in labels
            if len(found := rows(~recorded, kinds == "keyword", has_word, words == w))
        ]  # fmt: skip
        self._near_misses = rows(kinds == "near-miss")
        others = [w for w in np.unique(words[kinds == "word"]) if w not in labels]
        self._other_words = [
            found for w in others if len(found := rows(kinds == "word", has_word, words == w))
        ]
        speech = [rows(kinds == "speech", packs == p) for p in np.unique(packs)]
        speech = [found for found in speech if len(found)]
        noises = rows(kinds == "sound", ~np.isin(words, list(sounds)))
        empty = [w for w, its in zip(labels, self._keywords, strict=True) if not len(its)]
        if empty:
            raise ValueError(f"no recording of {', '.join(empty)}")
        for name, has in (("speech", len(speech)), ("sound", len(noises))):
            if not has:
                raise ValueError(f"no recording of kind {name}")
        drawable = {
            "keyword": config.keyword * bool(labels),
            "synthetic_keyword": config.synthetic_keyword * bool(self._synthetic),
            "fragment": config.fragment * bool(labels),
            "near_miss": config.near_miss * bool(len(self._near_misses)),
            "word": config.word * bool(self._other_words),
            "snippet": config.snippet,
            "speech": config.speech,
            "sound": config.sound,
        }
        total = sum(drawable.values())
        if not total:
            raise ValueError("no recording of any kind of piece that has a weight")
        self._draws = [getattr(self, f"_{name}") for name in drawable]
        self._shares = np.array(list(drawable.values())) / total
        self._compose = Composer(
            pool, config.num_frames, speech=speech, noises=noises,
            babble_chance=config.babble_chance, seed=seed,
        )  # fmt: skip
        labelled = [rows(kinds == "sound", words == name) for name in self._index if name in sounds]
        self._layer = SoundLayer(self._compose, labelled, mix_chance=config.mix_chance)
        # The last frame of each token, counted from 1.
        self._ends = np.arange(encoder.grid[1]) * encoder.stride_frames + encoder.patch_frames
        self._token_labels = TokenLabels(
            ends=self._ends, classes=tuple(self._index), labels=self._labels,
            earliest=config.earliest, latest=config.latest, unsure=config.unsure,
        )  # fmt: skip

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Raw log-mel (size, T, F); targets (size, N, labels + auxiliary + 1) of uint8.

        0, 1 or IGNORED for each word, then the index of the phone or UNKNOWN.
        """
        rng = np.random.default_rng([self.seed, step])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        frames, words = self.config.num_frames, len(self._index)
        windows = np.empty((size, frames, self.pool.frames.shape[1]), dtype=np.float32)
        targets = np.empty((size, len(self._ends), words + 1), dtype=np.uint8)
        is_sounding = torch.empty(size, dtype=torch.bool)
        for i in range(size):
            windows[i], heard, phones, loud = self._sequence(rng)
            is_sounding[i] = bool(loud.any())
            begins = 0
            if rng.random() < self.config.start_chance:
                begins = int(rng.integers(8, frames // 2))
            targets[i, :, :words] = self._token_labels.told(heard, begins)
            targets[i][:, self._sounds] = told_sounds(
                loud, self._ends, begins=begins, ignored=IGNORED
            )
            phones[:begins] = _SILENT
            at = np.maximum(self._ends - 1 - self.config.phone_delay, 0)
            targets[i, :, words] = phones[at]
            windows[i, :begins] = np.nan  # zeros, once noise lies over the rest
        begun = torch.from_numpy(np.isnan(windows[:, :, :1]))
        noise = np.stack([self._compose.noise_window(rng) for _ in range(size)])
        fbank = torch.from_numpy(windows).nan_to_num(nan=self.fill)
        if self.config.warp != (1.0, 1.0):
            fbank = warp_frequencies(fbank, self._front_end, self.config.warp, generator)
        fbank = self._augmented(fbank, torch.from_numpy(noise), is_sounding, generator)
        return fbank.masked_fill(begun, 0.0), torch.from_numpy(targets)

    def _augmented(
        self, fbank: Tensor, noise: Tensor, is_sounding: Tensor, generator: torch.Generator
    ) -> Tensor:
        """(B, T, F) at other levels, in noise, masked; is_sounding (B,): holds labelled sounds."""
        if self._sounding == self.augment:  # one group, drawn as one
            is_sounding = torch.zeros_like(is_sounding)
        out = torch.empty_like(fbank)
        for config, among in ((self.augment, ~is_sounding), (self._sounding, is_sounding)):
            if among.any():
                part = random_level(fbank[among], config, generator)
                part = add_noise(part, noise[among], config, generator)
                out[among] = spec_augment(part, self.fill, config, generator)
        return out

    def _sequence(
        self, rng: np.random.Generator
    ) -> tuple[Window, list[Said], NDArray[np.uint8], NDArray[np.uint8]]:
        """A sequence, what is said in it, the phone of each frame, and its loud sounds."""
        sequence = self._compose.bed(rng)
        phones = np.full(len(sequence), _SILENT, dtype=np.uint8)
        heard: list[Said] = []
        if not self._sounds or rng.random() < self.config.speech_chance:
            heard = self._say(rng, sequence, phones)
        loud = np.zeros((len(self._sounds), len(sequence)), dtype=np.uint8)
        if self._sounds and rng.random() < self.config.labelled_sound_chance:
            loud = self._layer.lay(rng, sequence, speech=level(sequence) if heard else None)
        return sequence, heard, phones, loud

    def _say(
        self, rng: np.random.Generator, sequence: Window, phones: NDArray[np.uint8]
    ) -> list[Said]:
        """Fill a sequence and its phones, both in place; returns what is said in it."""
        config, frames = self.config, len(sequence)
        heard: list[Said] = []
        at = -int(rng.integers(0, 60))  # the first piece may have begun already
        are_alike, loudness = rng.random() < config.alike_chance, None
        while at < frames:
            piece = self._draws[int(rng.choice(len(self._draws), p=self._shares))](rng)
            features = piece.features
            if piece.is_speech and are_alike:
                its = level(features)
                loudness = its if loudness is None else loudness
                features = features + np.float32(loudness - its + rng.uniform(-0.7, 0.7))
            first, last = max(at, 0), min(at + len(features), frames)
            if last > first:
                shown = slice(first - at, last - at)
                sequence[first:last] = features[shown]
                phones[first:last] = piece.phones[shown]
            if piece.label != NO_LABEL:  # its end may come too late to be heard
                heard.append(Said(piece.label, at + piece.begin, at + piece.end))
            elif piece.is_speech:
                heard.append(Said(NO_LABEL, at, at + len(features), piece.is_broken_off))
            at += len(features)
            if rng.random() < config.gap_chance:
                at += int(rng.integers(5, config.longest_gap))
        return heard

    # --- one piece of each kind ---

    def _keyword(self, rng: np.random.Generator) -> _Piece:
        return self._whole(rng, self._keywords[int(rng.integers(len(self._keywords)))])

    def _synthetic_keyword(self, rng: np.random.Generator) -> _Piece:
        return self._whole(rng, self._synthetic[int(rng.integers(len(self._synthetic)))])

    def _word(self, rng: np.random.Generator) -> _Piece:
        return self._whole(rng, self._other_words[int(rng.integers(len(self._other_words)))])

    def _fragment(self, rng: np.random.Generator) -> _Piece:
        row = self._compose.row(rng, self._keywords[int(rng.integers(len(self._keywords)))])
        start, end = int(row["start"]), int(row["end"])
        middle = int(start + rng.uniform(0.3, 0.75) * (end - start))
        first, last = (start, middle) if rng.random() < 0.6 else (middle, end)
        part = self._part(row, first, last)
        if rng.random() < 0.3:
            return replace(part, is_broken_off=True)
        other = self._snippet(rng)
        matched = other.features + np.float32(level(part.features) - level(other.features))
        both = (part.features, matched) if rng.random() < 0.6 else (matched, part.features)
        said = np.concatenate(
            [part.phones, other.phones] if both[0] is part.features else [other.phones, part.phones]
        )
        return _Piece(np.concatenate(both), said, is_speech=True)

    def _near_miss(self, rng: np.random.Generator) -> _Piece:
        return self._whole(rng, self._near_misses)

    def _snippet(self, rng: np.random.Generator) -> _Piece:
        return self._stretch(rng, 22, 70)

    def _speech(self, rng: np.random.Generator) -> _Piece:
        return self._stretch(rng, 60, 300)

    def _sound(self, rng: np.random.Generator) -> _Piece:
        row = self._compose.row(rng, self._compose.noises)
        length = min(int(row["frames"]), int(rng.integers(30, 200)))
        first = int(rng.integers(int(row["frames"]) - length + 1))
        features = self._compose.features(row, first, first + length)
        return _Piece(features, np.full(length, _SILENT, dtype=np.uint8), is_speech=False)

    def _stretch(self, rng: np.random.Generator, shortest: int, longest: int) -> _Piece:
        speech = self._compose.speech
        row = self._compose.row(rng, speech[int(rng.integers(len(speech)))])
        length = min(int(row["frames"]), int(rng.integers(shortest, longest)))
        first = int(rng.integers(int(row["frames"]) - length + 1))
        return self._part(row, first, first + length)

    def _whole(self, rng: np.random.Generator, rows: Rows) -> _Piece:
        """A word, with some of its recording's quiet around it; all of it where none is known."""
        row = self._compose.row(rng, rows)
        start, end = int(row["start"]), int(row["end"]) or int(row["frames"])
        first = int(rng.integers(start + 1))
        last = int(rng.integers(end, int(row["frames"]) + 1))
        piece = self._part(row, first, last)
        label = self._index.get(self.pool.clips[int(row["clip"])].word, NO_LABEL)
        return _Piece(
            piece.features, piece.phones, is_speech=True,
            label=label, begin=start - first, end=end - first,
        )  # fmt: skip

    def _part(self, row: np.void, first: int, last: int) -> _Piece:
        features = self._compose.features(row, first, last)
        return _Piece(features, self._phones_of(row)[first:last], is_speech=True)

    def _phones_of(self, row: np.void) -> NDArray[np.uint8]:
        """The phone of each frame of a rendering."""
        clip, frames = int(row["clip"]), int(row["frames"])
        labels = self._phones[clip]
        if labels is None:
            return np.full(frames, UNKNOWN, dtype=np.uint8)
        # Frame t of the labels is the 10 ms from t on, so that its middle is half a frame on.
        at = ((np.arange(frames) + 0.5) * (self._plain[clip] / frames)).astype(np.intp)
        known = at < len(labels)
        return np.where(known, labels[np.minimum(at, len(labels) - 1)], UNKNOWN).astype(np.uint8)
