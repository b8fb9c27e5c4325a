"""Models that lie between others: a run drawn back towards its start, and the mean of several runs.

    python -m train interpolate runs/one/last --start runs/wake-words-stream/last --out DIR
    python -m train average runs/one/last runs/two/last --out DIR

What a run learns anew costs some of what its start knew. Between the two lie models that have most
of both (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022). The head of classes
that the start does not know stays the run's. Runs that began with the same weights err each in its
own way, and their mean often errs less (Wortsman et al., "Model soups", ICML 2022).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train.checkpoint import Checkpoint, CheckpointError, load_tagger
from train.initial import fingerprint_of
from train.recipe import StreamRecipe, recipe_table

__all__ = ["average_runs", "interpolate"]

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
        else value.lerp(its.average[name], share) if "." in name  # what is equal stays so
        else value  # mean and std of the data
        for name, value in ours.average.items()
    }  # fmt: skip
    told = {"start": its.recipe.name, "start_step": its.step, "share": share}
    kept = {name: ours.progress[name] for name in ("sources", "averaged") if name in ours.progress}
    progress = kept | {"interpolated": told}
    return replace(ours, model=average, average=average, optimizer={}, progress=progress)


def average_runs(runs: Sequence[Path]) -> Checkpoint:
    """The first checkpoint with the mean of the weights of all.

    Its recipe, classes and normalisation of the log-mel are kept. Raises CheckpointError unless
    there are two or more, each another, which read a stream through the same front end, know the
    same classes in the same order, started from the same encoder, and are no means themselves.
    """
    if len(runs) < 2:
        raise CheckpointError(f"{len(runs)} checkpoint: an average wants two or more")
    if len({run.resolve() for run in runs}) < len(runs):
        raise CheckpointError("a checkpoint is given twice: each counts once in an average")
    first, *others = found = [_stream(run) for run in runs]
    for run, one in zip(runs, found, strict=True):
        if "averaged" in one.progress or "interpolated" in one.progress:
            raise CheckpointError(f"{run} lies between others already: give the runs themselves")
    start = first.progress.get("start")
    for run, one in zip(runs[1:], others, strict=True):
        if (one.classes, _labels(one)) != (first.classes, _labels(first)):
            unlike = sorted(set(one.classes) ^ set(first.classes)) or ["their order"]
            raise CheckpointError(
                f"{run} and {runs[0]} differ in {', '.join(unlike)}: only models of the same "
                "classes have a mean"
            )
        if one.recipe.encoder_config() != first.recipe.encoder_config():
            raise CheckpointError(f"{run} and {runs[0]} have encoders of other shapes")
        if one.recipe.fbank != first.recipe.fbank:
            raise CheckpointError(f"{run} and {runs[0]} have other front ends (fbank)")
        if start is None or one.progress.get("start") != start:
            raise CheckpointError(
                f"{run} and {runs[0]} did not start from the same encoder, or do not tell: what "
                "lies between unrelated weights is no model"
            )
    average = {
        name: value + torch.stack([one.average[name] - value for one in found]).mean(dim=0)
        if "." in name  # so that what is equal stays so
        else value  # mean and std of the data
        for name, value in first.average.items()
    }  # fmt: skip
    kept = ("sources", "start", "start_classes")
    progress = {name: first.progress[name] for name in kept if name in first.progress}
    tables = [_flat(recipe_table(one.recipe)) for one in found]
    progress["averaged"] = [
        {"run": "/".join(run.resolve().parts[-2:]), "step": one.step}  # no path of this machine
        | {k: v for k, v in table.items() if tables[0].get(k) != v}
        for run, one, table in zip(runs, found, tables, strict=True)
    ]
    return replace(first, model=average, average=average, optimizer={}, progress=progress)


def _labels(checkpoint: Checkpoint) -> tuple[str, ...]:
    assert isinstance(checkpoint.recipe, StreamRecipe)
    return checkpoint.recipe.labels


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


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, str | float]:
    """A recipe's settings by their dotted names; lists as text."""
    flat: dict[str, str | float] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            is_plain = isinstance(value, str | int | float)
            flat[prefix + name] = value if is_plain else json.dumps(value)
    return flat


def _stream(path: Path) -> Checkpoint:
    """A stream's checkpoint whose weights are what training made, or a mean of such."""
    _, checkpoint = load_tagger(path)
    if "joined" in checkpoint.progress:
        raise CheckpointError(f"{path} is joined of two: give these, and join the outcome")
    if "balanced" in checkpoint.progress:
        raise CheckpointError(
            f"{path} is balanced: give what it was made from, and balance the outcome"
        )
    return checkpoint
