"""A chain of steps whose results are kept by what they were made from.

A step's folder is named after a hash of everything that its result depends on, results of steps
before it included. One that is finished is never done again; a changed input makes another folder
and leaves the old one; a killed step finds in its folder what it had written. Knows nothing of
models.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Chain", "ChainError", "Done", "digest_file", "digest_manifest"]

_RECORD = "step.json"
# What a person can cause: data, recipes, disks, a library that is not installed.
_EXPECTED = (ValueError, FloatingPointError, OSError, ImportError)


class ChainError(ValueError):
    """A step that failed: one line with what it was, why, and what is kept."""


@dataclass(frozen=True)
class Done:
    """A finished step."""

    name: str
    key: str  # hash of its inputs
    folder: Path
    result: dict[str, Any]
    seconds: float
    was_kept: bool  # from a run before


class Chain:
    """Does steps one after the other below `out`/steps.

    say: gets a line before and after each step. expected: further errors that become one line.
    """

    def __init__(
        self,
        out: Path,
        say: Callable[[str], object],
        expected: tuple[type[Exception], ...] = (),
    ) -> None:
        self.out, self._say = out, say
        self._expected: tuple[type[Exception], ...] = (*_EXPECTED, *expected)
        self.done: dict[str, Done] = {}

    def do(
        self, name: str, inputs: Mapping[str, Any], work: Callable[[Path], dict[str, Any]]
    ) -> Done:
        """The step's result: from its folder where it is finished, else from work(folder).

        inputs: JSON; what `work` depends on. Raises ChainError when it fails.
        """
        text = json.dumps({"step": name, **inputs}, sort_keys=True, default=str)
        key = hashlib.sha256(text.encode()).hexdigest()[:12]
        folder = self.out / "steps" / f"{name}-{key}"
        found = _read(folder / _RECORD)
        if found is not None:
            done = Done(name, key, folder, found["result"], found["seconds"], True)
            self._say(f"{name}: done before, in {_duration(done.seconds)}")
        else:
            goes_on = folder.is_dir() and any(folder.iterdir())
            self._say(f"{name}: {'goes on' if goes_on else 'starts'}")
            folder.mkdir(parents=True, exist_ok=True)
            started = time.monotonic()
            try:
                result = work(folder)
            except self._expected as error:
                raise ChainError(self._failure(name, error)) from error
            done = Done(name, key, folder, result, round(time.monotonic() - started, 1), False)
            record = {"step": name, "inputs": json.loads(text), "result": result}
            _write(folder / _RECORD, {**record, "seconds": done.seconds})
            self._say(f"{name}: done in {_duration(done.seconds)}")
        self.done[name] = done
        _write(
            self.out / "state.json",
            {step: {"key": d.key, "seconds": d.seconds} for step, d in self.done.items()},
        )
        return done

    def _failure(self, name: str, error: Exception) -> str:
        kept = f"kept in {self.out}: {', '.join(self.done)}" if self.done else "nothing was done"
        reason = " ".join(str(error).split()) or type(error).__name__
        return f"step {name} failed: {reason}; {kept}; the same command goes on from there"


def digest_file(path: Path) -> str:
    """Hash of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def digest_manifest(path: Path) -> str:
    """Hash of a manifest's bytes; of a folder's the names and sizes of its files, not read.

    Raises ValueError where there is none.
    """
    if path.is_file():
        return digest_file(path)
    if not path.is_dir():
        raise ValueError(
            f"{path}: no such manifest; wanted a CSV file or a folder of class folders"
        )
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path)} {file.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]


def _read(path: Path) -> dict[str, Any] | None:
    """None where there is none, or one that a full disk has spoilt: the step is done again."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and {"result", "seconds"} <= found.keys() else None


def _write(path: Path, table: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
