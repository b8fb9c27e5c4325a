"""Manifests: which recordings there are, their labels and their splits.

One example a line; everything else in train/ reads recordings through this. Knows nothing about
audio or features. Read: CSV and JSONL of this project, the JSON of the authors' code with its class
CSV, and a folder with one folder per class. Shards are opened by train/data/shards.py.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "Example",
    "Manifest",
    "ManifestError",
    "missing_files",
    "read_manifest",
    "write_manifest",
]

Label = str
SPLITS = ("train", "val", "test")
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff")


class ManifestError(ValueError):
    """A manifest that cannot be used: one line with the file, the row and what was wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One recording, or a stretch of one."""

    path: str  # absolute, or relative to the manifest's root; "shard.tar#member" inside a shard
    labels: tuple[Label, ...] = ()  # several for tagging, one for classification, none unlabelled
    split: str = "train"  # train, val or test
    fold: int = 0  # 1, 2, ... for corpora that are cross-validated; 0 where there are none
    speaker: str = ""
    source: str = ""  # corpus, for licences and statistics
    start_s: float = 0.0
    duration_s: float = 0.0  # 0: to the end of the recording


@dataclass(frozen=True)
class Manifest:
    """Examples, the folder their paths start from, and the classes in output order."""

    name: str
    root: str
    examples: Sequence[Example]
    classes: tuple[Label, ...] = ()  # empty for unlabelled audio


COLUMNS = tuple(field.name for field in dataclasses.fields(Example))


def read_manifest(path: Path, *, root: Path | None = None, classes: Path | None = None) -> Manifest:
    """Read any of the formats; paths are relative to `root`, by default to the manifest's folder.

    classes: a file with one class a line, or the class CSV of AudioSet (index, mid, display_name).
    Without it `<manifest>.classes` beside the manifest, or else the labels in alphabetical order.
    Raises ManifestError with one clear line.
    """
    if path.is_dir():
        return _checked(path, root or path, _folder(path), _class_list(path, classes))
    readers: dict[str, Callable[[Path], Iterable[Example]]] = {
        ".csv": _csv,
        ".jsonl": _jsonl,
        ".json": _authors_json,
    }
    if not path.exists():
        raise ManifestError(
            f"{path}: no such manifest; `python -m train prepare` writes those of known corpora"
        )
    if path.suffix not in readers:
        raise ManifestError(
            f"{path}: wanted a .csv, .jsonl or .json manifest or a folder of class folders"
        )
    try:
        examples = list(readers[path.suffix](path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path}: cannot be read: {error}") from error
    return _checked(path, root or path.parent, examples, _class_list(path, classes))


def write_manifest(path: Path, manifest: Manifest) -> None:
    """CSV, and its classes beside it; whole or not at all. Paths become absolute."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.tmp")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for example in manifest.examples:
            row = dataclasses.asdict(example)
            row["path"] = str(Path(manifest.root).resolve() / example.path)
            row["labels"] = ";".join(example.labels)
            writer.writerow(row.values())
    if manifest.classes:
        _classes_beside(path).write_text("".join(f"{label}\n" for label in manifest.classes))
    partial.rename(path)


def missing_files(manifest: Manifest) -> list[str]:
    """Paths of recordings that are not there (those inside shards are not looked for)."""
    root = Path(manifest.root)
    paths = {example.path for example in manifest.examples if "#" not in example.path}
    return sorted(path for path in paths if not (root / path).is_file())


def _checked(
    path: Path, root: Path, examples: Sequence[Example], classes: tuple[Label, ...] | None
) -> Manifest:
    if not examples:
        raise ManifestError(f"{path}: no example; wanted at least one recording")
    counts = Counter(label for example in examples for label in example.labels)
    if classes is None:
        classes = tuple(sorted(counts))
    known = set(classes)
    if unknown := [label for label in counts if label not in known]:
        place = next(e.path for e in examples if unknown[0] in e.labels)
        raise ManifestError(f"{path}: label {unknown[0]!r} of {place} is not in the class list")
    if absent := [label for label in classes if label not in counts]:
        raise ManifestError(f"{path}: class {absent[0]!r} has no example")
    return Manifest(path.stem, str(root.resolve()), examples, classes)


def _class_list(path: Path, classes: Path | None) -> tuple[Label, ...] | None:
    classes = classes or (_classes_beside(path) if _classes_beside(path).is_file() else None)
    if classes is None:
        return None
    try:
        lines = classes.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{classes}: the class list cannot be read: {error}") from error
    if lines and lines[0].split(",")[:2] == ["index", "mid"]:
        found = tuple(row[1] for row in csv.reader(lines[1:]) if row)
    else:
        found = tuple(line.strip() for line in lines if line.strip())
    if twice := [label for label, count in Counter(found).items() if count > 1]:
        raise ManifestError(f"{classes}: class {twice[0]!r} is given twice")
    return found


def _classes_beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.classes")


def _csv(path: Path) -> Iterable[Example]:
    with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets mark UTF-8 so
        reader = csv.DictReader(file, strict=True)
        header = reader.fieldnames or []
        if "path" not in header:
            raise ManifestError(f"{path}: no column 'path'; known columns: {', '.join(COLUMNS)}")
        if unknown := [name for name in header if name not in COLUMNS]:
            raise ManifestError(
                f"{path}: unknown column {unknown[0]!r}, known: {', '.join(COLUMNS)}"
            )
        if len(set(header)) < len(header):
            raise ManifestError(f"{path}: a column is given twice: {', '.join(header)}")
        for row in reader:
            if None in row or None in row.values():
                raise ManifestError(
                    f"{path} line {reader.line_num}: wanted {len(header)} values, as in the header"
                )
            labels = tuple(label for label in row.pop("labels", "").split(";") if label)
            yield _example({**row, "labels": labels}, f"{path} line {reader.line_num}")


def _jsonl(path: Path) -> Iterable[Example]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path} line {number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ManifestError(f"{where}: not JSON: {error}") from error
            if not isinstance(row, dict) or "path" not in row:
                raise ManifestError(f"{where}: wanted an object with the key 'path'")
            if unknown := [name for name in row if name not in COLUMNS]:
                raise ManifestError(f"{where}: unknown key {unknown[0]!r}")
            labels = row.get("labels", [])
            if not isinstance(labels, list) or not all(isinstance(x, str) for x in labels):
                raise ManifestError(f"{where}: labels must be a list of texts, got {labels!r}")
            yield _example({**row, "labels": tuple(labels)}, where)


def _authors_json(path: Path) -> Iterable[Example]:
    """{"data": [{"wav": PATH, "labels": "/m/a,/m/b"}]}, the format of the authors' code."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ManifestError(f"{path}: not JSON: {error}") from error
    rows = table.get("data") if isinstance(table, dict) else None
    if not isinstance(rows, list):
        raise ManifestError(f'{path}: wanted {{"data": [...]}}, the authors\' format')
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not isinstance(row.get("wav"), str):
            raise ManifestError(f"{path} entry {number}: wanted an object with the key 'wav'")
        labels = tuple(label for label in str(row.get("labels", "")).split(",") if label)
        yield _example({"path": row["wav"], "labels": labels}, f"{path} entry {number}")


def _folder(path: Path) -> list[Example]:
    found = [
        Example(path=str(file.relative_to(path)), labels=(file.parent.name,))
        for file in sorted(path.glob("*/*"))
        if file.suffix.lower() in AUDIO_SUFFIXES
    ]
    empty = [
        folder.name
        for folder in sorted(path.iterdir())
        if folder.is_dir()
        and not folder.name.startswith((".", "__"))
        and not any(example.labels == (folder.name,) for example in found)
    ]
    if found and empty:
        raise ManifestError(f"{path}: class {empty[0]!r} has no recording in its folder")
    return found


def _example(row: Mapping[str, Any], where: str) -> Example:
    values = dict(row)
    if not isinstance(values["path"], str) or not values["path"]:
        raise ManifestError(f"{where}: path must not be empty")
    kinds: tuple[tuple[str, type[int] | type[float]], ...] = (
        ("fold", int), ("start_s", float), ("duration_s", float),
    )  # fmt: skip
    for name, kind in kinds:
        value = values.pop(name, "")
        if value in ("", None):
            continue
        try:
            number = kind(value)
        except (TypeError, ValueError) as error:
            raise ManifestError(f"{where}: {name} must be a number, got {value!r}") from error
        if not 0 <= number < math.inf:
            raise ManifestError(f"{where}: {name} must be 0 or more, got {value!r}")
        values[name] = number
    for name in ("speaker", "source", "split"):
        value = values.get(name)
        if value is not None and not isinstance(value, str):
            raise ManifestError(f"{where}: {name} must be a text, got {value!r}")
        values[name] = value or ""
    values["split"] = values["split"] or "train"
    if values["split"] not in SPLITS:
        raise ManifestError(f"{where}: split must be {', '.join(SPLITS)}, got {values['split']!r}")
    return Example(**values)
