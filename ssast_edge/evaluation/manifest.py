"""Recordings of an evaluation from a CSV manifest, or from folders named after what they hold."""

import csv
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from ssast_edge.errors import SsastEdgeError
from ssast_edge.evaluation.recordings import KINDS, Kind, Recording

__all__ = ["read_recordings"]

_FOLDERS: Mapping[str, Kind] = {
    "keywords": "keyword",
    "speech": "speech",
    "sounds": "sound",
    "noise": "noise",
}
_LABELLED = ("keyword", "sound")
_AUDIO = frozenset(
    (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64")
)


def read_recordings(source: Path, *, split: str | None = None) -> list[Recording]:
    """What a manifest or a folder lists, in its order; no audio is opened.

    A manifest is a CSV with the columns path (absolute, or relative to it), kind (keyword, speech,
    sound or noise) and, where there is more to say, label, text, pack, speaker, split, start_s and
    end_s (of the word, s). A folder holds keywords/<label>/*, speech/**, sounds/<label>/* and
    noise/**. split: only these; needed where a manifest has several.

    Raises SsastEdgeError for what is missing or wrong, with the line.
    """
    if source.is_dir():
        found = list(_of_folder(source))
        if split is not None:
            raise SsastEdgeError(f"{source}: a folder has no splits: leave --split out")
        if not found:
            raise SsastEdgeError(
                f"{source}: no audio in {', '.join(f'{name}/' for name in _FOLDERS)}: wanted "
                "keywords/<label>/*, speech/**, sounds/<label>/*, noise/**"
            )
        return found
    try:
        with source.open(newline="", encoding="utf-8-sig") as file:
            found = list(_of_table(source, csv.DictReader(file)))
    except OSError as error:
        raise SsastEdgeError(f"{source}: cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise SsastEdgeError(f"{source}: not a CSV manifest in UTF-8: {error}") from error
    if not found:
        raise SsastEdgeError(f"{source}: lists no recording")
    chosen = _of_split(source, found, split)
    _refuse_twice(source, chosen)
    return chosen


def _of_split(source: Path, found: list[Recording], split: str | None) -> list[Recording]:
    splits = Counter(recording.split for recording in found)
    names = ", ".join(name or "(none)" for name in sorted(splits))
    if split is None:
        if len(splits) > 1:
            raise SsastEdgeError(f"{source}: holds the splits {names}: give one with --split")
        return found
    if split not in splits:
        raise SsastEdgeError(f"{source}: has no split {split!r}, it has {names}")
    return [recording for recording in found if recording.split == split]


def _refuse_twice(source: Path, recordings: list[Recording]) -> None:
    """A recording is played once; as noise it may lie under the others, too."""
    counts = Counter(os.path.normpath(r.path) for r in recordings if r.kind != "noise")
    twice = [path for path, count in counts.items() if count > 1]
    if twice:
        more = f" (and {len(twice) - 1} more)" if len(twice) > 1 else ""
        raise SsastEdgeError(f"{source}: lists {twice[0]} more than once{more}: it is played once")


def _of_table(source: Path, rows: "csv.DictReader[str]") -> Iterator[Recording]:
    for column in ("path", "kind"):
        if column not in (rows.fieldnames or ()):
            raise SsastEdgeError(
                f"{source}: has no column {column!r}: a manifest begins with a line of names, "
                "path,kind,label,..."
            )
    for row in rows:
        where = f"{source}, line {rows.line_num}"
        if None in row.values() or None in row:
            raise SsastEdgeError(f"{where}: wanted {len(rows.fieldnames or ())} values")
        kind = next((known for known in KINDS if known == row["kind"].strip()), None)
        if kind is None:
            raise SsastEdgeError(f"{where}: kind is {row['kind']!r}, wanted {', '.join(KINDS)}")
        if not row["path"].strip():
            raise SsastEdgeError(f"{where}: the path is empty")
        label = row.get("label", "").strip()
        if kind == "keyword" and not label:
            raise SsastEdgeError(f"{where}: a keyword needs a label")
        start_s, end_s = (_seconds(row.get(name, ""), where) for name in ("start_s", "end_s"))
        if start_s is not None and end_s is not None and end_s <= start_s:
            raise SsastEdgeError(f"{where}: the word ends at {end_s:g} s, before it starts")
        yield Recording(
            source.parent / row["path"].strip(),
            kind,
            label=label,
            text=row.get("text", "").strip(),
            pack=row.get("pack", "").strip(),
            speaker=row.get("speaker", "").strip(),
            split=row.get("split", "").strip(),
            start_s=start_s,
            end_s=end_s,
        )


def _seconds(text: str, where: str) -> float | None:
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise SsastEdgeError(f"{where}: wanted a time in seconds, got {text!r}")
    return value


def _of_folder(source: Path) -> Iterator[Recording]:
    for folder, kind in _FOLDERS.items():
        top = source / folder
        for path in sorted(top.rglob("*")):
            if path.suffix.lower() not in _AUDIO or path.name.startswith(".") or path.is_dir():
                continue
            parts = path.relative_to(top).parts
            label = parts[0] if kind in _LABELLED and len(parts) > 1 else ""
            if kind == "keyword" and not label:
                raise SsastEdgeError(f"{path}: wanted keywords/<label>/{path.name}")
            yield Recording(path, kind, label=label, pack=folder)
