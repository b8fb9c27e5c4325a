"""What a pruning run did so far, in OUT/pruning.json, and whether a later call continues it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from optimize.pruning.selection import PruneError

__all__ = ["Ledger"]

_FILE = "pruning.json"


class Ledger:
    """The dense model and each finished round; written after each of them."""

    def __init__(self, out: Path, settings: dict[str, Any], *, writes: bool) -> None:
        """PruneError when `out` holds a run with other settings. writes: not in other processes."""
        self.path, self.writes = out / _FILE, writes
        settings = json.loads(json.dumps(settings))
        self.table: dict[str, Any] = {"settings": settings, "dense": {}, "rounds": []}
        if self.path.is_file():
            self.table = self._read()
            if differing := _differing(self.table["settings"], settings):
                raise PruneError(f"{out} was pruned by other settings, {differing}; choose another")

    @property
    def dense(self) -> dict[str, Any]:
        """Cost and validation of the dense model; empty before they are known."""
        found: dict[str, Any] = self.table["dense"]
        return found

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """Finished rounds, in order."""
        found: list[dict[str, Any]] = self.table["rounds"]
        return found

    def has_round(self, number: int) -> bool:
        """Whether round `number` is finished."""
        return any(entry["round"] == number for entry in self.rounds)

    def note_dense(self, entry: dict[str, Any]) -> str:
        """Keep the dense model's cost and validation; returns a line for the user."""
        self.table["dense"] = entry
        return self._write("dense", entry)

    def note_round(self, number: int, entry: dict[str, Any]) -> str:
        """Keep what a round gave; returns a line for the user."""
        self.rounds.append({"round": number, **entry})
        return self._write(f"round {number}", entry)

    def _write(self, name: str, entry: dict[str, Any]) -> str:
        measured = ", ".join(f"{key} {value:.4f}" for key, value in entry["validation"].items())
        line = (
            f"{name}: {entry['macs'] / 1e6:.1f} M MACs ({entry['macs_share']:.3f}), "
            f"{entry['parameters'] / 1e6:.2f} M parameters, {entry['latency_ms']:.2f} ms "
            f"({entry['latency_share']:.3f}); validation {measured or 'none'}"
        )
        if self.writes:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.path.with_suffix(".tmp")
            partial.write_text(json.dumps(self.table, indent=2) + "\n", encoding="utf-8")
            partial.replace(self.path)
        return line

    def _read(self) -> dict[str, Any]:
        try:
            table: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            if not {"settings", "dense", "rounds"} <= table.keys():
                raise ValueError("keys are missing")
        except ValueError as error:
            raise PruneError(f"{self.path}: damaged: {error}; remove it") from error
        return table


def _differing(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> str:
    """The first setting that is another one, as "key is NEW, was OLD"; empty: none."""
    for key in (key for key in new if key in old):  # a run of an older version lacks some
        before, after = old[key], new[key]
        if isinstance(before, dict) and isinstance(after, dict):
            if found := _differing(before, after, f"{prefix}{key}."):
                return found
        elif before != after:
            return f"{prefix}{key} is {after!r}, was {before!r}"
    return ""
