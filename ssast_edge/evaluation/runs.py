"""Bundles over the same audio at once, and their scores kept by what they depend on.

All bundles hear each block as it is made, so that hours of audio are put together once. What is
finished is kept in a folder: a run that was stopped goes on from there.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssast_edge.backends import Backend
from ssast_edge.bundle import MANIFEST, Bundle
from ssast_edge.evaluation.reel import Audio
from ssast_edge.evaluation.scores import HopScores
from ssast_edge.spotter import Spotter

__all__ = ["Run", "RunCache", "Runner", "bundle_key", "run_together"]

BLOCK = 16000 * 5
# What scores do not depend on.
_UNHEARD = ("triggers", "provenance", "data", "licence", "model_card", "name", "version", "files")


@dataclass(frozen=True, eq=False)
class Run:
    """A bundle's scores on a track, and what an inference took: p50, p95, p99, max in ms."""

    hops: HopScores
    infer_ms: dict[str, float]


@dataclass(frozen=True, eq=False)
class Runner:
    """A bundle and its open model."""

    bundle: Bundle
    backend: Backend

    @property
    def key(self) -> str:
        """Changes with whatever the scores depend on."""
        return bundle_key(self.bundle, self.backend.name)


class RunCache:
    """Runs in a folder, by key."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, key: str, labels: tuple[str, ...]) -> Run | None:
        """The run of that key; None: it is not there, or broken."""
        with suppress(OSError, ValueError, KeyError), np.load(self._path(key)) as kept:
            hops = HopScores(labels, kept["times_s"], kept["scores"])
            if hops.scores.shape == (len(hops.times_s), len(labels)):
                return Run(hops, json.loads(str(kept["infer_ms"])))
        return None

    def save(self, key: str, run: Run) -> None:
        """Keep a run; it appears whole or not at all."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.stem}.tmp.npz")
        try:
            np.savez(
                partial,
                times_s=run.hops.times_s,
                scores=run.hops.scores,
                infer_ms=json.dumps(run.infer_ms),
            )
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.npz"


def run_together(
    runners: Sequence[Runner], audio: Audio, progress: Callable[[int], object] | None = None
) -> list[Run]:
    """Each bundle's scores of every hop. progress: called with the samples of each block."""
    ears = [_Ear(runner) for runner in runners]
    for first in range(0, len(audio), BLOCK):
        block = audio[first : first + BLOCK]
        for ear in ears:
            ear.spotter.push(block)
        if progress is not None:
            progress(len(block))
    return [ear.run() for ear in ears]


def bundle_key(bundle: Bundle, backend: str) -> str:
    """A hash of all that a bundle's scores depend on: its files, not its thresholds."""
    manifest = json.loads((bundle.path / MANIFEST).read_text(encoding="utf-8"))
    cards = (bundle.model_card, MANIFEST)
    files = {k: v for k, v in manifest.get("files", {}).items() if k not in cards}
    heard = {key: value for key, value in manifest.items() if key not in _UNHEARD}
    text = json.dumps([backend, files, heard], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class _Ear:
    """A spotter and the scores that it gave."""

    def __init__(self, runner: Runner) -> None:
        self._times: list[float] = []
        self._scores: list[NDArray[np.float32]] = []
        self._labels = runner.bundle.labels
        self.spotter = Spotter(runner.bundle, backend=runner.backend, on_scores=self._keep)

    def run(self) -> Run:
        scores = np.array(self._scores, np.float32).reshape(-1, len(self._labels))
        hops = HopScores(self._labels, np.array(self._times), scores)
        return Run(hops, self.spotter.infer_ms.summary())

    def _keep(self, time_s: float, scores: NDArray[np.float32]) -> None:
        self._times.append(time_s)
        self._scores.append(scores.copy())
