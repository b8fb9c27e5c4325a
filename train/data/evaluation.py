"""Manifests of evaluations for `ssast-edge eval`, written from the splits of the packs.

    python -m train prepare eval --root ../shared/data

A manifest holds what a track of its split holds: keywords, speech and sounds, each recording once,
and again as noise what may lie under all of them. Clips of silence are in no track (those of Speech
Commands are cut from the background noises, those of training too); `eval_commands_clips` has them,
to classify.
"""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from ssast_edge.evaluation.recordings import Recording
from train.packs import Split, read_packs, says
from train.triggers import EVALUATION_PACKS, as_recording
from train.utterances import COMMANDS

__all__ = ["evaluation_recordings", "write_evaluation_manifests"]

_SPLITS: tuple[Split, ...] = ("val", "test")
_COLUMNS = ("path", "kind", "label", "text", "pack", "speaker", "split")
_SOUND_PACKS = ("esc10", "esc50_nc")


def write_evaluation_manifests(root: Path, out: Path) -> list[Path]:
    """eval_wake_words, eval_commands, eval_commands_clips and eval_sounds, each of val and test.

    Raises FileNotFoundError for a pack that is not below `root`.
    """
    written = []
    for split in _SPLITS:
        for name, recordings in evaluation_recordings(root, split).items():
            path = out / f"eval_{name}_{split}.csv"
            _write(path, recordings)
            written.append(path)
    return written


def evaluation_recordings(root: Path, split: Split) -> dict[str, list[Recording]]:
    """The recordings of each manifest of a split, in a stable order."""
    clips = [clip for clip in read_packs(root, EVALUATION_PACKS) if clip.split == split]
    every = [replace(as_recording(clip), text=_text(clip.word)) for clip in clips]
    silence = [r for r, clip in zip(every, clips, strict=True) if clip.kind == "silence"]
    heard = [r for r, clip in zip(every, clips, strict=True) if clip.kind != "silence"]
    background = [
        replace(as_recording(clip), kind="noise", pack="background_noise")
        for clip in read_packs(root, ("background_noise",))
        if clip.split == split
    ]
    steady = [replace(r, kind="noise") for r in heard if r.pack == "esc10"]
    as_commands = list(_of_commands(heard))
    of_sounds = [replace(r, kind="speech") if r.kind == "keyword" else r for r in heard]
    return {
        "wake_words": [*_running(heard), *background, *steady],
        "commands": [*_running(as_commands), *background, *steady],
        "commands_clips": [
            *(r for r in as_commands if r.pack == "speech_commands"),
            *(replace(r, kind="noise") for r in silence),
        ],
        "sounds": [*_running(of_sounds), *background],
    }


def _of_commands(recordings: Iterable[Recording]) -> Iterator[Recording]:
    """The same with the words of COMMANDS for keywords, and the wake words as speech.

    The nine are common words: sentences that say one, or do not tell what they say, are left out.
    """
    for recording in recordings:
        is_sentence = recording.kind == "speech" and recording.pack != "speech_commands"
        if is_sentence and (not recording.label or says(recording.label, COMMANDS)):
            continue
        is_command = recording.pack == "speech_commands" and recording.label in COMMANDS
        kind = recording.kind if recording.kind == "sound" else "speech"
        yield replace(recording, kind="keyword" if is_command else kind)


def _running(recordings: Iterable[Recording]) -> Iterator[Recording]:
    """Whole sentences are text and no label: they are no word to be told from others."""
    for recording in recordings:
        is_word = recording.pack in ("wake_words", "speech_commands", *_SOUND_PACKS)
        yield recording if is_word else replace(recording, label="")


def _text(word: str) -> str:
    return word.replace("_", " ").strip()


def _write(path: Path, recordings: Iterable[Recording]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", newline="", encoding="utf-8", dir=path.parent, suffix=".tmp", delete=False
    ) as file:
        try:
            rows = csv.writer(file)
            rows.writerow(_COLUMNS)
            for r in recordings:
                where = Path(os.path.relpath(r.path, path.parent)).as_posix()
                rows.writerow([where, r.kind, r.label, r.text, r.pack, r.speaker, r.split])
            file.close()
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
