"""Draws training windows from the feature pool as the runtime will see them, with their labels.

A word counts as present when the whole of it lies in the window and, where the recipe says so, has
ended a moment ago; a window that holds only a part of it counts as "not yet" or "no more", and one
that holds nearly all of it is not drawn.
Batch `step` depends on (seed, step) alone, so a resumed run sees what it would have seen.

Labels are what is said (wake words, words of Speech Commands), classes of sounds, and two names of
their own: `_unknown_` for other words and speech, `_silence_` for windows without speech.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.augment import LogMelAugmentConfig, add_noise, random_level, spec_augment
from train.composition import LOUD, Composer, Placed, Rows, Window
from train.pool import FeaturePool

__all__ = ["SILENCE", "UNKNOWN", "WindowConfig", "WindowSampler"]

UNKNOWN, SILENCE = "_unknown_", "_silence_"

Labels = tuple[int, ...]
_SNIPPET = (22, 70)  # frames: as short and as long as words are


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """What a batch is made of (weights, normalised) and how windows are composed."""

    num_frames: int = 152
    keyword: float = 0.22  # a recorded keyword, whole
    synthetic_keyword: float = 0.10
    partial: float = 0.12  # a keyword that is not yet or no more whole
    fragment: float = 0.10  # half a keyword, then other speech
    near_miss: float = 0.14
    word: float = 0.08  # other words of Speech Commands
    snippet: float = 0.0  # a piece of running speech, alone as a word would be
    speech: float = 0.17
    sound: float = 0.07
    mined: float = 0.0  # what an earlier round got wrong (train/mining.py)
    labelled_sound: float = 0.0  # a class of sounds, one or two at a time
    context_chance: float = (
        0.4  # other speech around a keyword instead of its own recording's quiet
    )
    start_chance: float = 0.04  # the stream has just begun: the window's first part is zeros
    babble_chance: float = 0.0  # noise is many voices
    mix_chance: float = 0.3  # a second class of sounds in a window of one
    # Frames after its end for which a word counts as present; later it is "no more". 0: as long as
    # the window holds all of it.
    latest_end: int = 0

    def __post_init__(self) -> None:
        """Refuse windows too short to be composed and weights that nothing can be drawn by."""
        if self.num_frames < 17:
            raise ValueError(f"num_frames must be at least 17, got {self.num_frames}")
        weights = (
            self.keyword, self.synthetic_keyword, self.partial, self.fragment, self.near_miss,
            self.word, self.snippet, self.speech, self.sound, self.mined, self.labelled_sound,
        )  # fmt: skip
        if not (min(weights) >= 0 and 0 < sum(weights) < float("inf")):
            raise ValueError(f"weights must be 0 or more and not all 0, got {weights}")
        if not 0 <= self.latest_end < self.num_frames:
            raise ValueError(f"latest_end must be in [0, num_frames), got {self.latest_end}")
        for name in ("context_chance", "start_chance", "babble_chance", "mix_chance"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")


class WindowSampler:
    """Batches of (windows, targets) for keyword spotting and tagging.

    mined: windows (M, num_frames, bins) and their targets (M, labels) from `train.mining`.
    """

    def __init__(
        self,
        pool: FeaturePool,
        labels: tuple[str, ...],
        config: WindowConfig,
        augment: LogMelAugmentConfig,
        *,
        seed: int,
        fill: float,
        auxiliary_labels: tuple[str, ...] = (),
        mined: tuple[NDArray[np.float16], NDArray[np.float32]] | None = None,
    ) -> None:
        self.pool, self.labels, self.config, self.augment = pool, labels, config, augment
        self.seed, self.fill, self.mined = seed, fill, mined
        self._index = {name: i for i, name in enumerate((*labels, *auxiliary_labels))}
        kinds = np.array([clip.kind for clip in pool.clips])[pool.rows["clip"]]
        packs = np.array([clip.pack for clip in pool.clips])[pool.rows["clip"]]
        words = np.array([clip.word for clip in pool.clips])[pool.rows["clip"]]
        long_enough = pool.rows["frames"] >= 20

        def rows(*conditions: NDArray[np.bool_]) -> Rows:
            return np.flatnonzero(np.logical_and.reduce([long_enough, *conditions]))

        recorded = packs != "synthetic"
        spoken = (kinds == "keyword") | (kinds == "word")
        sounds = {str(w) for w in np.unique(words[kinds == "sound"])}
        self._sound_labels = [w for w in labels if w in sounds]
        self._spoken = [w for w in labels if w not in sounds and w not in (UNKNOWN, SILENCE)]
        self._keywords = [rows(recorded, spoken, words == w) for w in self._spoken]
        self._synthetic = [rows(~recorded, kinds == "keyword", words == w) for w in self._spoken]
        self._near_miss = rows(kinds == "near-miss")
        self._words = rows(kinds == "word", ~np.isin(words, self._spoken))
        self._labelled = [rows(kinds == "sound", words == w) for w in self._sound_labels]
        speech_packs = [rows(kinds == "speech", packs == p) for p in np.unique(packs)]
        speech = [found for found in speech_packs if len(found)]
        noises = rows(kinds == "sound", ~np.isin(words, self._sound_labels))
        self._check(speech, noises)
        self._weights = self._drawable()
        self._compose = Composer(
            pool, config.num_frames, speech=speech, noises=noises,
            babble_chance=config.babble_chance, seed=seed,
        )  # fmt: skip

    def _check(self, speech: list[Rows], noises: Rows) -> None:
        named = [*zip(self._spoken, self._keywords, strict=True)]
        named += zip(self._sound_labels, self._labelled, strict=True)
        empty = [w for w, found in named if not len(found)]
        if empty:
            raise ValueError(f"no training recording of {', '.join(empty)}")
        unsaid = [
            w for w, found in zip(self._spoken, self._synthetic, strict=True) if not len(found)
        ]
        if 0 < len(unsaid) < len(self._spoken):
            raise ValueError(f"synthetic keywords, but none of {', '.join(unsaid)}")
        for name, found in (("speech", speech), ("sound", noises)):
            if not len(found):
                raise ValueError(f"no training clip of kind {name}")

    def _drawable(self) -> dict[str, float]:
        """Weights of the kinds that there are recordings of, summing to 1."""
        config = self.config
        says = float(bool(self._spoken))
        weights = {
            "keyword": config.keyword * says,
            "synthetic_keyword": config.synthetic_keyword
            * (len(self._synthetic[0]) > 0 if self._synthetic else 0),
            "partial": config.partial * says,
            "fragment": config.fragment * says,
            "near_miss": config.near_miss * (len(self._near_miss) > 0),
            "word": config.word * (len(self._words) > 0),
            "snippet": config.snippet,
            "speech": config.speech,
            "sound": config.sound,
            "mined": config.mined * (self.mined is not None and len(self.mined[0]) > 0),
            "labelled_sound": config.labelled_sound * bool(self._sound_labels),
        }
        total = sum(weights.values())
        if not total:
            raise ValueError("no recording of any kind of window that has a weight")
        return {name: weight / total for name, weight in weights.items()}

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Windows (size, frames, bins), raw log-mel; targets (size, labels + auxiliary), 0 or 1."""
        rng = np.random.default_rng([self.seed, step])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        names = list(self._weights)
        draws = rng.choice(len(names), size=size, p=list(self._weights.values()))
        bins = self.pool.frames.shape[1]
        windows = np.empty((size, self.config.num_frames, bins), dtype=np.float32)
        targets = torch.zeros(size, len(self._index))
        begins = np.zeros(size, dtype=np.int64)
        for i, draw in enumerate(draws):
            placed, labels = getattr(self, f"_draw_{names[draw]}")(rng)
            windows[i], begins[i] = placed.window, placed.begins
            targets[i, list(labels)] = 1.0
        noise = np.stack([self._compose.noise_window(rng) for _ in range(size)])

        fbank = random_level(torch.from_numpy(windows), self.augment, generator)
        fbank = add_noise(fbank, torch.from_numpy(noise), self.augment, generator)
        fbank = spec_augment(fbank, self.fill, self.augment, generator)
        for i in np.flatnonzero(rng.random(size) < self.config.start_chance).tolist():
            fbank[i, : self._start(rng, bool(targets[i].any()), int(begins[i]))] = 0.0
        return fbank, targets

    def _start(self, rng: np.random.Generator, is_labelled: bool, begins: int) -> int:
        """Frames before the stream began: what is labelled lies after them, whole."""
        if is_labelled:
            return int(rng.integers(begins + 1))
        return int(rng.integers(8, self.config.num_frames - 8))

    def _unknown(self) -> Labels:
        return (self._index[UNKNOWN],) if UNKNOWN in self._index else ()

    def _silence(self) -> Labels:
        return (self._index[SILENCE],) if SILENCE in self._index else ()

    # --- one window of each kind, and what it holds ---

    def _draw_keyword(self, rng: np.random.Generator) -> tuple[Placed, Labels]:
        word = int(rng.integers(len(self._spoken)))
        return self._whole(rng, self._keywords[word]), (self._index[self._spoken[word]],)

    def _draw_synthetic_keyword(self, rng: np.random.Generator) -> tuple[Placed, Labels]:
        word = int(rng.integers(len(self._spoken)))
        return self._whole(rng, self._synthetic[word]), (self._index[self._spoken[word]],)

    def _draw_partial(self, rng: np.random.Generator) -> tuple[Placed, Labels]:
        row = self._compose.row(rng, self._keywords[int(rng.integers(len(self._spoken)))])
        start, end = int(row["start"]), int(row["end"])
        over = self.config.latest_end + 12  # frames from the end from which a word is no more
        room = self.config.num_frames - (end - start)
        if self.config.latest_end and room > over and rng.random() < 0.25:
            return Placed(self._compose.cut(rng, row, end + int(rng.integers(over, room)))), ()
        inside = rng.uniform(0.05, 0.6) * (end - start)
        if rng.random() < 0.7:  # not yet
            return Placed(self._compose.cut(rng, row, int(start + inside))), ()
        stop = int(end - inside) + self.config.num_frames
        return Placed(self._compose.cut(rng, row, stop)), ()

    def _draw_fragment(self, rng: np.random.Generator) -> tuple[Placed, Labels]:
        row = self._compose.row(rng, self._keywords[int(rng.integers(len(self._spoken)))])
        start, end = int(row["start"]), int(row["end"])
        middle = int(start + rng.uniform(0.35, 0.65) * (end - start))
        first, last = (start, middle) if rng.random() < 0.6 else (middle, end)
        piece = self._compose.features(row, first, last)
        return self._compose.place(rng, piece, speech_chance=0.9), ()

    def _draw_near_miss(self, rng: np.random.Generator) -> tuple[Placed, Labels]:
        features = self._compose.features(self._compose.row(rng, self._near_miss))
        chance = self.config.context_chance
        return self._compose.place(rng, features, speech_chance=chance), self._unknown()

    def _draw_word(self, rng: np.random.Generator) -> tuple[Placed, Labels]:
        row = self._compose.row(rng, self._words)
        label = self._index.get(self.pool.clips[int(row["clip"])].word)
        features = self._compose.features(row)
        placed = self._compose.place(rng, features, speech_chance=self.config.context_chance)
        return placed, self._unknown() if label is None else (label,)

    def _draw_snippet(self, rng: np.random.Generator) -> tuple[Placed, Labels]:
        piece = self._compose.snippet(rng, _SNIPPET)
        return self._compose.place(rng, piece, speech_chance=0.0), self._unknown()

    def _draw_speech(self, rng: np.random.Generator) -> tuple[Placed, Labels]:
        return Placed(self._compose.speech_window(rng)), self._unknown()

    def _draw_sound(self, rng: np.random.Generator) -> tuple[Placed, Labels]:
        if self._silence() and rng.random() < 0.4:
            return Placed(self._compose.bed(rng), self.config.num_frames - 8), self._silence()
        row = self._compose.row(rng, self._compose.noises)
        window = self._compose.sound_window(row, rng)
        return Placed(window, self.config.num_frames - 8), self._silence()

    def _draw_mined(self, rng: np.random.Generator) -> tuple[Placed, Labels]:
        assert self.mined is not None
        windows, targets = self.mined
        chosen = int(rng.integers(len(windows)))
        labels = tuple(int(i) for i in np.flatnonzero(targets[chosen]))
        return Placed(windows[chosen].astype(np.float32)), labels

    def _draw_labelled_sound(self, rng: np.random.Generator) -> tuple[Placed, Labels]:
        first = int(rng.integers(len(self._sound_labels)))
        window = self._compose.loud_window(self._compose.row(rng, self._labelled[first]), rng)
        if window is None:  # between two barks: nobody could tell
            return Placed(self._compose.bed(rng)), ()
        labels: Labels = (self._index[self._sound_labels[first]],)
        if rng.random() < self.config.mix_chance:
            other, its = self._beside(rng)
            # As loud as the first within 6 dB: both can be heard.
            shift = window.max(axis=0).mean() - other.max(axis=0).mean()
            window = np.logaddexp(window, other + np.float32(shift + rng.uniform(-1.4, 1.4)))
            labels = tuple({*labels, *its})
        loudness = window.mean(axis=1)
        return Placed(window, int(np.argmax(loudness > loudness.max() - LOUD))), labels

    def _beside(self, rng: np.random.Generator) -> tuple[Window, Labels]:
        """What may be heard together with a class of sounds: another, a keyword, or speech."""
        chance = rng.random()
        if chance < 0.5:
            second = int(rng.integers(len(self._sound_labels)))
            other = self._compose.loud_window(self._compose.row(rng, self._labelled[second]), rng)
            if other is not None:
                return other, (self._index[self._sound_labels[second]],)
        if chance > 0.7 and self._spoken:
            placed, labels = self._draw_keyword(rng)
            return placed.window, labels
        return self._compose.speech_window(rng), ()

    def _whole(self, rng: np.random.Generator, rows: Rows) -> Placed:
        """The whole word somewhere in the window, a little more often near its end."""
        frames = self.config.num_frames
        row = self._compose.row(rng, rows)
        start, end = int(row["start"]), int(row["end"])
        room = max(0, frames - (end - start))
        if self.config.latest_end:
            room = min(room, self.config.latest_end)
        after = int(room * rng.random() ** 1.3)
        own_context = start > 0 or end < int(row["frames"])
        if own_context and rng.random() > self.config.context_chance:
            begins = max(0, frames - after - (end - start))
            return Placed(self._compose.cut(rng, row, end + after), begins)
        word = self._compose.features(row, start, end)
        return self._compose.place(rng, word, speech_chance=0.6, after=after)
