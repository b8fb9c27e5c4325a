"""A run's weights drawn back some way towards those that it started from.

    python -m train interpolate runs/joint-stream/last --start runs/wake-words-stream/last --out DIR

What a run learns anew costs some of what its start knew. Between the two lie models that have most
of both (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022). The head of classes
that the start does not know stays the run's.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from train.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from train.initial import fingerprint_of
from train.recipe import StreamRecipe

__all__ = ["interpolate"]

_OF_CLASSES = ("head.1.weight", "head.1.bias")
_ENCODER = "encoder."


def interpolate(run: Path, start: Path, share: float) -> Checkpoint:
    """The checkpoint of `run` with so large a share of the weights of `start`.

    Raises CheckpointError where a checkpoint reads no stream, or the run began elsewhere.
    """
    if not 0 < share < 1:
        raise CheckpointError(f"share must be between 0 and 1, got {share:g}")
    ours, its = _stream(run), _stream(start)
    encoder = {
        name.removeprefix(_ENCODER): value
        for name, value in its.average.items() if name.startswith(_ENCODER)
    }  # fmt: skip
    if ours.progress.get("start") != fingerprint_of(encoder):
        raise CheckpointError(
            f"{run} did not start from {start}: what lies between unrelated weights is no model; "
            "give what --init of the run was"
        )
    shared = set(ours.progress.get("start_classes", ()))
    if not shared:
        raise CheckpointError(
            f"{run} did not go on with the head of {start}: no class of theirs is the same, or an "
            "earlier version trained it"
        )
    missing = shared - set(its.classes)
    if missing:
        raise CheckpointError(
            f"{start} lacks {', '.join(sorted(missing))}, whose head {run} went on with: give the "
            "checkpoint itself, no bundle's that was restored"
        )
    average = {
        name: _classes(name, ours, its, shared, share) if name in _OF_CLASSES
        else (1 - share) * value + share * its.average[name] if "." in name
        else value  # mean and std of the data
        for name, value in ours.average.items()
    }  # fmt: skip
    told = {"start": its.recipe.name, "start_step": its.step, "share": share}
    progress = {"sources": ours.progress.get("sources", []), "interpolated": told}
    return replace(ours, model=average, average=average, optimizer={}, progress=progress)


def _classes(
    name: str, ours: Checkpoint, its: Checkpoint, shared: Collection[str], share: float
) -> Tensor:
    """A row for each class, between the two where both know it."""
    rows = ours.average[name].clone()
    for row, label in enumerate(ours.classes):
        if label in shared:
            other = its.average[name][its.classes.index(label)]
            rows[row] = (1 - share) * rows[row] + share * other
    return rows


def _stream(path: Path) -> Checkpoint:
    checkpoint = load_checkpoint(path)
    if not isinstance(checkpoint.recipe, StreamRecipe):
        raise CheckpointError(f"{path}: task is {checkpoint.recipe.task!r}, wanted 'stream'")
    return checkpoint
