"""Recordings of words that no bundle has as a class, for `benchmarks.enrollment`.

They are said alone, or cut out of sentences with room tone around them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from ssast_edge.audio import read_audio
from train.packs import Split, read_packs, split_of
from train.phone_alignment import Aligner
from train.phone_alignment import spoken as spoken_text
from train.telephone import telephone_sentences

SAMPLE_RATE = 16000
TEST_WORDS = ("yes", "no", "on", "off", "stop")
# Of one syllable, and read by eight speakers or more who are not of the test split.
READ_WORDS = (
    "good", "time", "back", "want", "now", "get", "look", "like", "make", "love", "day", "come",
)  # fmt: skip
_SHORTEST_S, _FADE_S, _ROOM_S = 0.12, 0.01, 0.3  # of a word cut out of a sentence

Array = NDArray[np.float32]


def words_of(data: Path, split: Split) -> list[tuple[str, str, str, Array]]:
    """(word, speaker, name, samples) of the words to enroll."""
    found = []
    for clip in read_packs(data, ("speech_commands",)):
        is_wanted = clip.word in TEST_WORDS if split == "test" else clip.kind == "word"
        if clip.split == split and is_wanted:
            found.append((clip.word, clip.speaker, clip.path.name, read_audio(clip.path)))
    found += _wuw_words(data, split)
    return found if split == "test" else found + _read_words(data)


def _read_words(data: Path) -> list[tuple[str, str, str, Array]]:
    """Short words cut out of sentences of speechocean762, where the alignment finds them.

    Of the training speakers too, as those of WUW: none was ever a class. People do say them in the
    background, which is the same for whatever is compared.
    """
    aligner = Aligner(can_recognise=False)
    rng = np.random.default_rng(2)
    found = []
    clips = [c for c in read_packs(data, ("speechocean",)) if c.split != "test"]
    with click.progressbar(clips, label="sentences", file=sys.stderr) as bar:
        for clip in bar:
            text = spoken_text(clip)
            if not set(text.split()) & set(READ_WORDS):
                continue
            samples = read_audio(clip.path)
            for word, start_s, end_s in aligner.words(samples, text):
                if word in READ_WORDS and end_s - start_s >= _SHORTEST_S:
                    cut = samples[int(start_s * SAMPLE_RATE) : int(end_s * SAMPLE_RATE)]
                    found.append((word, clip.speaker, clip.path.name, _apart(cut, rng)))
    return found


def _apart(samples: Array, rng: np.random.Generator) -> Array:
    """A word that was cut out, faded in and out, with room tone around it."""
    fade = np.linspace(0, 1, int(_FADE_S * SAMPLE_RATE), dtype=np.float32)
    word = samples.copy()
    word[: len(fade)] *= fade
    word[-len(fade) :] *= fade[::-1]
    return np.concatenate([room_tone(rng, _ROOM_S), word, room_tone(rng, _ROOM_S)])


def _wuw_words(data: Path, split: Split) -> list[tuple[str, str, str, Array]]:
    """Words cut out of telephone sentences.

    For validation of the training speakers too: it has 74 sentences, and words in the middle of
    what trained as speech were never a class.
    """
    return [
        (sentence.word, sentence.session, sentence.path.name, sentence.cut()[1])
        for sentence in telephone_sentences(data)
        if (split_of("wuw", sentence.session) == "test") == (split == "test")
    ]


def room_tone(rng: np.random.Generator, seconds: float) -> Array:
    """A hiss at a level of its own, 60 to 90 dB below full scale."""
    level = 10 ** rng.uniform(-4.5, -3)
    return (level * rng.standard_normal(int(seconds * SAMPLE_RATE))).astype(np.float32)
