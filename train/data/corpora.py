"""Manifests of known corpora, with their official splits.

    python -m train prepare esc50 --root DIR

Reads folder layouts as published; nothing is downloaded. `packs` are the recordings of this
project's own data folder (train/packs.py).
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from train.data.evaluation import write_evaluation_manifests
from train.data.manifest import Example, Manifest, ManifestError, write_manifest
from train.packs import read_packs

__all__ = ["CORPORA", "prepare"]

_V1_V2_WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
_NOISE = "_background_noise_"
_EVALUATION = "eval"  # not one corpus: tracks of `ssast-edge eval` out of all packs
_NOISE_SECONDS = 60  # the shortest of the published ones


def prepare(name: str, root: Path, out: Path) -> list[Path]:
    """Write the manifests of corpus `name`, whose files lie below `root`, into `out`."""
    if name not in (*CORPORA, _EVALUATION):
        raise ManifestError(f"unknown corpus {name!r}, known: {', '.join([*CORPORA, _EVALUATION])}")
    if not root.is_dir():
        raise ManifestError(f"{root}: no such folder; give the one that holds {name} with --root")
    if name == _EVALUATION:
        return write_evaluation_manifests(root, out)
    written = []
    try:
        manifests = list(CORPORA[name](root))
    except (KeyError, IndexError, TypeError, UnicodeDecodeError) as error:
        raise ManifestError(f"{root}: not the published layout of {name}: {error!r}") from error
    except ValueError as error:
        if isinstance(error, ManifestError):
            raise
        raise ManifestError(f"{root}: not the published layout of {name}: {error}") from error
    for manifest in manifests:
        if not manifest.examples:
            raise ManifestError(f"{root}: no recording of {manifest.name} found")
        written.append(out / f"{manifest.name}.csv")
        write_manifest(written[-1], manifest)
    return written


def _need(path: Path) -> Path:
    if not path.exists():
        raise ManifestError(f"{path} is missing: this is not the corpus's published layout")
    return path


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with _need(path).open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def _manifest(name: str, root: Path, examples: list[Example]) -> Manifest:
    classes = tuple(sorted({label for example in examples for label in example.labels}))
    return Manifest(name, str(root), examples, classes)


def _audioset(root: Path) -> Iterator[Manifest]:
    """Local copy: the three segment CSVs, class_labels_indices.csv, and audio named by video id.

    Files may lie in any subfolder, as <id>.<suffix>, Y<id>... or <id>_<start>...; segments whose
    audio is not there are left out (videos disappear). Balanced and unbalanced become `audioset20k`
    and `audioset`, both validated on the evaluation set.
    """
    labels = {row["mid"] for row in _rows(root / "class_labels_indices.csv")}
    order = tuple(row["mid"] for row in _rows(root / "class_labels_indices.csv"))
    files: dict[str, Path] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in (".wav", ".flac", ".ogg", ".opus", ".mp3"):
            files.setdefault(path.stem[-11:], path)
            files.setdefault(path.stem[:11], path)
            files.setdefault(path.stem[1:12], path)

    def segments(name: str, split: str) -> list[Example]:
        found = []
        for line in _need(root / name).read_text(encoding="utf-8").splitlines():
            if line.startswith("#"):
                continue
            video, _, _, marked = (part.strip() for part in line.split(",", 3))
            mids = tuple(m for m in marked.strip('"').split(",") if m in labels)
            if video in files:
                place = str(files[video].relative_to(root))
                found.append(Example(path=place, labels=mids, split=split, source="audioset"))
        return found

    test = segments("eval_segments.csv", "val")
    balanced = segments("balanced_train_segments.csv", "train")
    yield Manifest("audioset20k", str(root), balanced + test, order)
    if (root / "unbalanced_train_segments.csv").is_file():
        unbalanced = segments("unbalanced_train_segments.csv", "train")
        yield Manifest("audioset", str(root), balanced + unbalanced + test, order)


def _librispeech(root: Path) -> Iterator[Manifest]:
    """SPLIT/SPEAKER/CHAPTER/*.flac; dev sets validate, test sets test; unlabelled."""
    examples = []
    for path in sorted(root.glob("*/*/*/*.flac")):
        place = path.relative_to(root)
        part = place.parts[0]
        split = "val" if part.startswith("dev") else "test" if part.startswith("test") else "train"
        speaker = place.parts[1]
        examples.append(
            Example(path=str(place), split=split, speaker=speaker, source="librispeech")
        )
    yield Manifest("librispeech", str(root), examples)


def _esc50(root: Path) -> Iterator[Manifest]:
    """meta/esc50.csv and audio/; five folds, non-commercial but for ESC-10."""
    examples = [
        Example(
            path=f"audio/{row['filename']}",
            labels=(row["category"],),
            fold=int(row["fold"]),
            source="esc10" if row["esc10"] == "True" else "esc50_nc",
        )
        for row in _rows(root / "meta" / "esc50.csv")
    ]
    yield _manifest("esc50", root, examples)


def _speech_commands(root: Path, name: str, words: tuple[str, ...]) -> Iterator[Manifest]:
    """Folders of words with validation_list.txt and testing_list.txt.

    words: the ten of the twelve-class task, whose other classes are `_unknown_` (all other words)
    and `_silence_` (seconds of the background noises, at most as many as an average word has clips;
    the published task draws both anew in every batch); or empty for every word.
    """
    lists = {
        split: set(_need(root / f"{file}_list.txt").read_text().split())
        for split, file in (("val", "validation"), ("test", "testing"))
    }
    examples = []
    for path in sorted(root.glob("*/*.wav")):
        word = path.parent.name
        if word.startswith("_"):
            continue
        place = f"{word}/{path.name}"
        split = next((split for split, files in lists.items() if place in files), "train")
        label = word if not words or word in words else "_unknown_"
        speaker = path.name.split("_nohash_")[0]
        examples.append(
            Example(
                path=place, labels=(label,), split=split, speaker=speaker, source="speech_commands"
            )
        )
    if words:
        named = len({example.path.split("/")[0] for example in examples})
        examples += _silences(root, max(1, len(examples) // max(1, named)))
    yield _manifest(name, root, examples)


def _silences(root: Path, most: int) -> list[Example]:
    """Seconds of the background noises that do not overlap; five at a time go to one split."""
    examples = []
    for path in sorted((root / _NOISE).glob("*.wav")):
        for start in range(_NOISE_SECONDS):
            draw = int(hashlib.sha1(f"{path.name} {start // 5}".encode()).hexdigest()[:8], 16)
            split = ("test", "val", *("train",) * 8)[draw % 10]
            examples.append(
                Example(
                    path=f"{_NOISE}/{path.name}", labels=("_silence_",), split=split,
                    start_s=float(start), duration_s=1.0, source="speech_commands",
                )
            )  # fmt: skip
    step = max(1, -(-len(examples) // most))
    return examples[::step]


def _voxceleb1(root: Path) -> Iterator[Manifest]:
    """iden_split.txt (1 train, 2 validation, 3 test) and id.../video/*.wav, at or below wav/."""
    folder = root / "wav" if (root / "wav").is_dir() else root
    splits = {"1": "train", "2": "val", "3": "test"}
    examples = []
    for line in _need(root / "iden_split.txt").read_text().splitlines():
        if not line.strip():
            continue
        number, place = line.split()
        speaker = place.split("/")[0]
        if (folder / place).is_file():
            examples.append(
                Example(
                    path=str((folder / place).relative_to(root)), labels=(speaker,),
                    split=splits[number], speaker=speaker, source="voxceleb1",
                )
            )  # fmt: skip
    yield _manifest("voxceleb1", root, examples)


def _iemocap(root: Path) -> Iterator[Manifest]:
    """Session1..5: four classes (neutral, happy with excited, sad, angry), a fold a session."""
    names = {"neu": "neutral", "hap": "happy", "exc": "happy", "sad": "sad", "ang": "angry"}
    line = re.compile(r"^\[.*?\]\t(\S+)\t(\S+)\t\[")
    examples = []
    for fold in range(1, 6):
        session = _need(root / f"Session{fold}")
        for report in sorted((session / "dialog" / "EmoEvaluation").glob("*.txt")):
            for text in report.read_text(encoding="utf-8", errors="replace").splitlines():
                match = line.match(text)
                if not match or match[2] not in names:
                    continue
                turn = match[1]
                place = f"Session{fold}/sentences/wav/{turn.rsplit('_', 1)[0]}/{turn}.wav"
                if (root / place).is_file():
                    examples.append(
                        Example(
                            path=place, labels=(names[match[2]],), fold=fold,
                            speaker=f"{fold}{turn.rsplit('_', 1)[1][0]}", source="iemocap",
                        )
                    )  # fmt: skip
    yield _manifest("iemocap", root, examples)


def _packs(root: Path) -> Iterator[Manifest]:
    """This project's data folder: unlabelled audio, twelve words, ESC-50 and ESC-10 (folds 1 to 4).

    No sound of ESC-50 is in the unlabelled audio, so that its folds stay unheard, and nothing
    non-commercial is.
    """
    unlabelled = (
        "wake_words", "speech_commands", "background_noise", "librispeech", "speechocean", "wuw",
    )  # fmt: skip
    examples = [
        Example(
            path=str(clip.path.relative_to(root)), split=clip.split, speaker=clip.speaker,
            source=clip.pack,
        )
        for clip in read_packs(root, unlabelled)
        if clip.split != "test" and clip.kind != "silence"
    ]  # fmt: skip
    yield Manifest("packs_unlabelled", str(root), examples)
    clips = read_packs(root, ("speech_commands",))
    words = {clip.word for clip in clips if clip.split == "train"}
    yield _manifest(
        "packs_speech_commands",
        root,
        [
            Example(
                path=str(clip.path.relative_to(root)), labels=(clip.word,), split=clip.split,
                speaker=clip.speaker, source="speech_commands",
            )
            for clip in clips
            if clip.word in words
        ],
    )  # fmt: skip
    for name, kept in (("packs_esc50", ("0", "1")), ("packs_esc10", ("1",))):
        yield _manifest(
            name,
            root,
            [
                Example(
                    path=row["path"], labels=(row["class"],), fold=int(row["fold"]),
                    source="esc10" if row["esc10"] == "1" else "esc50_nc",
                )
                for row in _rows(root / "esc_meta.csv")
                if row["esc10"] in kept
            ],
        )  # fmt: skip


CORPORA: dict[str, Callable[[Path], Iterator[Manifest]]] = {
    "audioset": _audioset,
    "librispeech": _librispeech,
    "esc50": _esc50,
    "speech_commands_v1_12": lambda root: _speech_commands(
        root, "speech_commands_v1_12", _V1_V2_WORDS
    ),
    "speech_commands_v2_12": lambda root: _speech_commands(
        root, "speech_commands_v2_12", _V1_V2_WORDS
    ),
    "speech_commands_v2_35": lambda root: _speech_commands(root, "speech_commands_v2_35", ()),
    "voxceleb1": _voxceleb1,
    "iemocap": _iemocap,
    "packs": _packs,
}
