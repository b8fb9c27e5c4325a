"""The recordings of ../shared/data as clips with a split, a speaker and a label.

One rule decides the split of every recording, so that training, the validation track and the
test track can never share a speaker (or a recording, where speakers are not known). Knows nothing
about features or models.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["DATA_LICENCES", "Clip", "read_packs", "read_rows", "read_synthetic", "says", "split_of"]

Split = Literal["train", "val", "test"]
Kind = Literal["keyword", "word", "speech", "near-miss", "sound", "silence"]

# What a bundle trained on these packs must carry.
DATA_LICENCES: dict[str, dict[str, str]] = {
    "wake_words": {
        "name": "Picovoice wake-word-benchmark recordings",
        "licence": "Apache-2.0",
        "attribution": "Picovoice Inc. and contributors",
        "source": "https://github.com/Picovoice/wake-word-benchmark",
    },
    "speech_commands": {
        "name": "Google Speech Commands v0.02",
        "licence": "CC-BY-4.0",
        "attribution": "Pete Warden, Google",
        "source": "https://arxiv.org/abs/1804.03209",
    },
    "esc10": {
        "name": "ESC-10 (the CC BY part of ESC-50)",
        "licence": "CC-BY-3.0",
        "attribution": "Karol J. Piczak and the Freesound authors",
        "source": "https://github.com/karolpiczak/ESC-50",
    },
    "esc50_nc": {
        "name": "ESC-50 without ESC-10: NON-COMMERCIAL use only",
        "licence": "CC-BY-NC-3.0",
        "attribution": "Karol J. Piczak and the Freesound authors",
        "source": "https://github.com/karolpiczak/ESC-50",
    },
    "librispeech": {
        "name": "LibriSpeech",
        "licence": "CC-BY-4.0",
        "attribution": "Vassil Panayotov et al.",
        "source": "https://www.openslr.org/12",
    },
    "speechocean": {
        "name": "speechocean762",
        "licence": "CC-BY-4.0",
        "attribution": "Junbo Zhang et al., SpeechOcean",
        "source": "https://www.openslr.org/101",
    },
    "wuw": {
        "name": "Wake-Up-Word Corpus II",
        "licence": "CC-BY-SA-4.0",
        "attribution": "Veton Kepuska",
        "source": "WUW Corpus II",
    },
    "synthetic": {
        "name": "Synthetic speech of eSpeak NG, Flite and Festival voices",
        "licence": "output of free software (GPL-3.0, BSD-style); no recording",
        "attribution": "eSpeak NG, Flite and Festival authors",
        "source": "python -m train.synthesize",
    },
}

# Shares of the speakers (or recordings) that go to test and to validation.
_SHARES: dict[str, tuple[float, float]] = {
    "wake_words": (0.2, 0.1),
    "librispeech": (0.3, 0.12),
    "speechocean": (0.3, 0.12),
    "wuw": (0.3, 0.12),
}


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording. `word` is what is said or the sound's class, empty for running speech."""

    path: Path
    pack: str
    split: Split
    speaker: str  # empty where not known
    word: str = ""
    kind: Kind = "speech"


def split_of(pack: str, group: str) -> Split:
    """The split of a speaker or recording: a hash of its name, stable for ever."""
    test, val = _SHARES[pack]
    draw = int(hashlib.sha256(f"{pack}/{group}".encode()).hexdigest()[:8], 16) / 2**32
    return "test" if draw < test else "val" if draw < test + val else "train"


def read_packs(root: Path, packs: tuple[str, ...], *, esc10_test_fold: int = 0) -> list[Clip]:
    """All clips of the named packs below `root` (the data folder), in a stable order.

    esc10_test_fold: for cross-validation, this fold of ESC-10 is test and all others are training.

    Raises ValueError for an unknown pack, FileNotFoundError for one that is not there.
    """
    readers = {
        "wake_words": _wake_words,
        "speech_commands": _speech_commands,
        "background_noise": _background_noise,
        "esc10": lambda root: _esc10(root, esc10_test_fold),
        "esc50_nc": _esc50_nc,
        "librispeech": _librispeech,
        "speechocean": _speechocean,
        "wuw": _wuw,
    }
    clips: list[Clip] = []
    for pack in packs:
        if pack not in readers:
            raise ValueError(f"unknown pack {pack!r}, known: {', '.join(readers)}")
        found = list(readers[pack](root))
        if not found:
            raise FileNotFoundError(f"pack {pack} has no clips below {root}")
        clips += found
    return clips


def says(text: str, words: Iterable[str]) -> bool:
    """Whether a transcript holds one of the words, or of the phrases ("smart_mirror")."""
    spoken = f" {' '.join(re.findall('[a-z]+', text.lower()))} "
    return any(f" {word.replace('_', ' ')} " in spoken for word in words)


def read_synthetic(folder: Path) -> list[Clip]:
    """Clips written by `python -m train.synthesize`."""
    kinds: dict[str, Kind] = {
        "keyword": "keyword",
        "near-miss": "near-miss",
        "sentence": "speech",
        "word": "speech",
        "noise": "sound",
    }
    clips = []
    columns = "path", "text", "keyword", "kind", "speaker", "split"
    for row in read_rows(folder / "manifest.csv", *columns):
        split: Split = "val" if row["split"] == "val" else "train"
        word = row["keyword"] or row["text"]
        path = folder / row["path"]
        clips.append(Clip(path, "synthetic", split, row["speaker"], word, kinds[row["kind"]]))
    return clips


def read_rows(path: Path, *columns: str) -> list[dict[str, str]]:
    """The rows of a table. ValueError for a column that it lacks."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path} has no column {missing[0]}")
        return list(reader)


def _wake_words(root: Path) -> Iterator[Clip]:
    for path in sorted(root.glob("wake_words/*/*.ogg")):
        word = path.parent.name
        split = split_of("wake_words", f"{word}/{path.stem}")
        yield Clip(path, "wake_words", split, "", word, "keyword")


def _speech_commands(root: Path) -> Iterator[Clip]:
    folder = root / "speech_commands"
    for row in read_rows(folder / "manifest.csv", "path", "word", "speaker", "split"):
        kind: Kind = "silence" if row["word"] == "_silence_" else "word"
        split: Split = row["split"]  # type: ignore[assignment]
        yield Clip(
            folder / row["path"], "speech_commands", split, row["speaker"], row["word"], kind
        )


def _background_noise(root: Path) -> Iterator[Clip]:
    # Test noise must be noise that training never heard: two of the six are kept for it.
    kept = {"exercise_bike": "test", "running_tap": "val"}
    for path in sorted(root.glob("speech_commands/_background_noise_/*.flac")):
        split: Split = kept.get(path.stem, "train")  # type: ignore[assignment]
        yield Clip(path, "speech_commands", split, "", path.stem, "sound")


def _esc10(root: Path, test_fold: int) -> Iterator[Clip]:
    folds: dict[str, Split] = {"1": "train", "2": "train", "3": "val", "4": "test"}
    if test_fold:
        folds = {fold: "test" if fold == str(test_fold) else "train" for fold in folds}
    yield from _sounds(root, "esc10", folds)


def _esc50_nc(root: Path) -> Iterator[Clip]:
    """For tracks alone: nothing that ships may train on it."""
    yield from _sounds(root, "esc50_nc", {"1": "val", "2": "val", "3": "test", "4": "test"})


def _sounds(root: Path, pack: str, folds: dict[str, Split]) -> Iterator[Clip]:
    wanted = "1" if pack == "esc10" else "0"
    for row in read_rows(root / "esc_meta.csv", "path", "fold", "class", "esc10", "freesound_id"):
        if row["esc10"] == wanted:
            split, speaker = folds[row["fold"]], row["freesound_id"]
            yield Clip(root / row["path"], pack, split, speaker, row["class"], "sound")


def _librispeech(root: Path) -> Iterator[Clip]:
    for path in sorted(root.glob("librispeech/*.ogg")):
        speaker = path.stem.split("-")[0]
        yield Clip(path, "librispeech", split_of("librispeech", speaker), speaker)


def _speechocean(root: Path) -> Iterator[Clip]:
    for row in read_rows(root / "speechocean.csv", "path", "speaker", "transcript"):
        split = split_of("speechocean", row["speaker"])
        yield Clip(root / row["path"], "speechocean", split, row["speaker"], row["transcript"])


def _wuw(root: Path) -> Iterator[Clip]:
    for row in read_rows(root / "wuw.csv", "path", "session", "transcript"):
        split = split_of("wuw", row["session"])
        yield Clip(root / row["path"], "wuw", split, row["session"], row["transcript"])
