"""Which phone is said when: transcribed recordings aligned by PocketSphinx, 10 ms at a time.

    python -m train align --data DIR --synthetic runs/synthetic --out runs/phones.npz

Frame t of an alignment begins t * 10 ms into the recording, as in the front end. Recordings of
running speech without a transcript (LibriSpeech) are recognised first, and what was recognised is
aligned: words may be wrong there, their phones are mostly near. Knows nothing about models.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ssast_edge.audio import read_audio
from ssast_edge.errors import SsastEdgeError
from train.packs import Clip

__all__ = [
    "PHONES",
    "UNKNOWN",
    "Aligner",
    "PhoneLabels",
    "align_clips",
    "clip_key",
    "load_phones",
    "spoken",
]

PHONES = (
    "SIL", "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G",
    "HH", "IH", "IY", "JH", "K", "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH",
    "UH", "UW", "V", "W", "Y", "Z", "ZH",
)  # fmt: skip
UNKNOWN = 255
# Words of the packs that the CMU dictionary lacks.
WORDS = {
    "snowboy": "S N OW B OY",
    "onword": "AO N W ER D",
    "thinkengine": "TH IH NG K EH N JH AH N",
}
_INDEX = {name: number for number, name in enumerate(PHONES)} | {"+NSN+": 0}  # noise is no phone
_FRAME_S = 0.01
_LONGEST = 50  # frames; a longer phone is a failed alignment, not a phone
_TASK_CLIPS = 8

Labels = NDArray[np.uint8]


class PhonesError(SsastEdgeError):
    """Phones cannot be aligned, or a file of them cannot be used."""


@dataclass(frozen=True)
class PhoneLabels:
    """The phone of every 10 ms frame, an index into `phones` or UNKNOWN, by `clip_key`."""

    phones: tuple[str, ...]
    labels: Mapping[str, Labels]

    def save(self, path: Path) -> None:
        """One .npz of plain arrays, by rename."""
        partial = path.with_name(f".{path.name}.tmp.npz")
        try:
            np.savez_compressed(
                partial,
                phones=np.array(self.phones),
                keys=np.array(list(self.labels)),
                lengths=np.array([len(found) for found in self.labels.values()], dtype=np.int64),
                frames=np.concatenate(list(self.labels.values())),
            )
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)


def load_phones(path: Path) -> PhoneLabels:
    """Inverse of `PhoneLabels.save`."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            phones = tuple(str(name) for name in arrays["phones"])
            ends = np.cumsum(arrays["lengths"])
            parts = np.split(arrays["frames"], ends[:-1])
            labels = dict(zip((str(key) for key in arrays["keys"]), parts, strict=True))
            frames = arrays["frames"]
            is_whole = frames.dtype == np.uint8 and int(ends[-1]) == len(frames)
            is_known = (frames < len(phones)) | (frames == UNKNOWN)
    except FileNotFoundError as error:
        raise PhonesError(f"{path}: no aligned phones, run `python -m train align`") from error
    except (OSError, EOFError, ValueError, KeyError, TypeError, IndexError, BadZipFile) as error:
        raise PhonesError(f"{path}: not a file of `python -m train align`") from error
    if not (is_whole and is_known.all()):
        raise PhonesError(f"{path}: damaged: run `python -m train align` again")
    if phones != PHONES:
        raise PhonesError(f"{path}: phones {' '.join(phones)}, wanted {' '.join(PHONES)}")
    return PhoneLabels(phones, labels)


def clip_key(clip: Clip) -> str:
    """What a clip is called wherever its folder lies."""
    return f"{clip.pack}/{clip.split}/{clip.path.parent.name}/{clip.path.name}"


def spoken(clip: Clip) -> str:
    """The words of a clip, lower case; empty where they are not known or not all understood."""
    text = clip.word.replace("_", " ").replace("\u2019", "'").lower()
    if re.search(r"\(\(\s*\)\)", text):  # something that the transcriber did not understand
        return ""
    text = re.sub(r"\[[^\]]*\]|\{[^}]*\}", " ", text)  # [noises], {smacks}
    if re.search(r"[^\W_a-z]", text):  # digits, accents: how they are said is not told
        return ""
    return " ".join(re.findall(r"[a-z]+(?:'[a-z]+)*", text))


def align_clips(clips: Sequence[Clip], *, jobs: int) -> tuple[PhoneLabels, list[str]]:
    """Phones of all clips of speech that can be aligned, and a line for each that cannot."""
    _pocketsphinx()
    said = [clip for clip in clips if clip.kind not in ("sound", "silence")]
    said.sort(key=lambda clip: clip.pack != "librispeech")  # what takes longest comes first
    parts = [said[i : i + _TASK_CLIPS] for i in range(0, len(said), _TASK_CLIPS)]
    labels: dict[str, Labels] = {}
    skipped: list[str] = []
    with (
        ProcessPoolExecutor(
            jobs, initializer=_open, initargs=(any(not clip.word for clip in said),)
        ) as pool,
        tqdm(total=len(said), desc="phones", unit="clip", mininterval=2) as progress,
    ):
        for part, found in zip(parts, pool.map(_align_all, parts), strict=True):
            for clip, result in zip(part, found, strict=True):
                if isinstance(result, str):
                    skipped.append(f"{clip.path}: {result}")
                else:
                    labels[clip_key(clip)] = result
            progress.update(len(part))
    if not labels:
        first = f", the first: {skipped[0]}" if skipped else ""
        raise PhonesError(f"none of {len(said)} recordings of speech could be aligned{first}")
    return PhoneLabels(PHONES, labels), skipped


class Aligner:
    """PocketSphinx with its US English model; `can_recognise` loads its language model too."""

    def __init__(self, *, can_recognise: bool) -> None:
        sphinx = _pocketsphinx()
        self._decoder = sphinx.Decoder(
            lm=None,
            bestpath=False,  # its lattice is not connected for a third of long sentences
            beam=1e-60,
            pbeam=1e-60,
            wbeam=1e-45,  # wider ones underflow
            loglevel="FATAL",
        )
        self._recogniser = None
        if can_recognise:  # one pass of few hypotheses: half the time, nearly the same words
            self._recogniser = sphinx.Decoder(
                fwdflat=False, maxhmmpf=3000, maxwpf=20, loglevel="FATAL"
            )
        for word, phones in WORDS.items():
            self._decoder.add_word(word, phones, True)

    def align(self, samples: NDArray[np.float32], text: str) -> Labels | str:
        """Phones of 16 kHz samples in which `text` is said, or why there are none."""
        words = self._align(samples, text)
        if isinstance(words, str):
            return words
        return _frames([phone for _, phones in words for phone in phones])

    def words(self, samples: NDArray[np.float32], text: str) -> list[tuple[str, float, float]]:
        """Each word of `text` and from when to when it is said, in s; none where unknown."""
        words = self._align(samples, text)
        if isinstance(words, str):
            return []
        return [
            (word, phones[0][1] * _FRAME_S, (phones[-1][1] + phones[-1][2]) * _FRAME_S)
            for word, phones in words
            if phones and not word.startswith("<")
        ]

    def _align(
        self, samples: NDArray[np.float32], text: str
    ) -> list[tuple[str, list[tuple[str, int, int]]]] | str:
        """Each word and its phones, (name, first frame, frames) each, or why there are none."""
        if not len(samples):
            return "is empty"
        sound = (np.clip(samples, -1, 1) * 32767).astype(np.int16).tobytes()
        if not text and self._recogniser is not None:
            found = _decode(self._recogniser, sound).hyp()
            text = found.hypstr if found is not None else ""
        if not text:
            return "no known words"
        unknown = [word for word in text.split() if self._decoder.lookup_word(word) is None]
        if unknown:
            return f"{unknown[0]!r} is not in the dictionary"
        try:
            self._decoder.set_align_text(text)
            if _decode(self._decoder, sound).hyp() is None:
                return "not aligned"
            self._decoder.set_alignment()  # words to phones
            words = _decode(self._decoder, sound).get_alignment()
        except RuntimeError as error:
            return f"not aligned: {error}"
        if words is None:
            return "not aligned"
        return [
            # "good(2)" is another way to say good
            (word.name.partition("(")[0], [(p.name, p.start, p.duration) for p in word])
            for word in words
        ]


def _frames(phones: Sequence[tuple[str, int, int]]) -> Labels:
    labels = np.full(max(start + duration for _, start, duration in phones), UNKNOWN, np.uint8)
    for name, start, duration in phones:
        number = _INDEX.get(name, UNKNOWN)
        if number in (0, UNKNOWN) or duration <= _LONGEST:
            labels[start : start + duration] = number
    return labels


def _decode(decoder: Any, sound: bytes) -> Any:
    decoder.reinit_feat()  # what it heard before shall not matter
    decoder.start_utt()
    try:
        decoder.process_raw(sound, no_search=False, full_utt=True)
    finally:
        decoder.end_utt()
    return decoder


def _pocketsphinx() -> Any:
    try:
        import pocketsphinx
    except ImportError as error:
        raise PhonesError(
            "PocketSphinx is not installed: pip install 'ssast-edge[align]'"
        ) from error
    return pocketsphinx


_aligner: Aligner | None = None  # of this process


def _open(can_recognise: bool) -> None:
    global _aligner
    _aligner = Aligner(can_recognise=can_recognise)


def _align_all(clips: Sequence[Clip]) -> list[Labels | str]:
    return list(_aligned(clips))


def _aligned(clips: Iterable[Clip]) -> Iterator[Labels | str]:
    assert _aligner is not None
    for clip in clips:
        text = spoken(clip)
        if clip.word and not text:  # said, and not all of it understood
            yield "not all words are known"
            continue
        try:
            yield _aligner.align(read_audio(clip.path), text)
        except SsastEdgeError as error:
            yield str(error)
