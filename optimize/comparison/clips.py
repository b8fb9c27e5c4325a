"""Variants on labelled clips: accuracy with intervals, and logits beside the first variant's.

N clips, C classes, V variants, W windows of all clips.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from optimize.comparison.variants import Variant
from optimize.quantization.quantize import Difference
from ssast_edge.evaluation.bootstrap import Estimate, Interval, paired_bootstrap
from ssast_edge.evaluation.class_scores import evaluate_scores
from train.corpus import Part
from train.data.clips import ClipConfig, cut_windows
from train.data.source import DecodeError
from train.scoring import targets_of

__all__ = ["compare_on_clips", "decisions", "logit_differences"]

Floats = NDArray[np.float32]


def compare_on_clips(
    variants: Sequence[Variant], part: Part, clips: ClipConfig, *, multilabel: bool, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """By variant: accuracy (or mAP) and what it loses against the first, and its logits.

    A clip's score is the mean over the windows that `clips` cuts, as in training. Recordings that
    cannot be read are left out and counted.
    """
    first = variants[0]
    unknown = {label for e in part.examples for label in e.labels} - set(first.bundle.labels)
    if unknown:
        raise ValueError(
            f"label {sorted(unknown)[0]!r} is none of the bundle's: "
            f"{', '.join(first.bundle.labels)}"
        )
    logits: list[list[Floats]] = [[] for _ in variants]
    owners: list[int] = []
    kept: list[int] = []
    for index in tqdm(range(len(part)), unit="clip", desc="clips"):
        try:
            samples = part.samples(index)
        except DecodeError as error:
            tqdm.write(f"left out: {error}")
            continue
        for window in cut_windows(samples, clips, first.bundle.fbank, clips.validation_windows):
            for variant, values in zip(variants, logits, strict=True):
                values.append(variant.backend.infer(window))
            owners.append(len(kept))
        kept.append(index)
    if not kept:
        raise ValueError(f"none of {len(part)} clips can be read")
    targets = targets_of(part, first.bundle.labels)[kept]
    groups = np.array([part.examples[i].speaker for i in kept])
    tables = [np.stack(values) for values in logits]
    scores = [_clip_scores(t, owners, first.bundle.activation) for t in tables]
    right = [_right(table, targets) for table in scores]
    result = {}
    for i, variant in enumerate(variants):
        found = evaluate_scores(
            scores[i], targets, first.bundle.labels, multilabel=multilabel, groups=groups, seed=seed
        )
        metric = "mAP" if multilabel else "accuracy"
        entry: dict[str, Any] = {
            "clips": len(kept),
            "unreadable": len(part) - len(kept),
            "metric": metric,
            metric: found.metrics[metric].to_json(),
            "logits": logit_differences(tables[0], tables[i], first.bundle.activation),
        }
        if not multilabel:
            entry["lost"] = _loss(right[0], right[i], groups, seed).to_json()
        result[variant.name] = entry
    return result


def logit_differences(wanted: Floats, found: Floats, activation: str) -> dict[str, float]:
    """Of (W, C) logits: cosine, largest and mean difference, share with the same decision."""
    difference = Difference.of(wanted, found)
    same = decisions(wanted, activation) == decisions(found, activation)
    return {
        "windows": len(wanted),
        "cosine": difference.cosine,
        "max_difference": difference.largest,
        "mean_difference": difference.mean,
        "top1_agreement": float(same.mean()),
    }


def decisions(logits: Floats, activation: str) -> NDArray[np.intp]:
    """(W,) number of the highest label; where labels are independent, -1 below a score of 0.5."""
    highest: NDArray[np.intp] = logits.argmax(axis=1)
    if activation == "softmax":
        return highest
    decided: NDArray[np.intp] = np.where(logits.max(axis=1) >= 0, highest, -1)
    return decided


def _clip_scores(logits: Floats, owners: Sequence[int], activation: str) -> Floats:
    """(N, C) mean probabilities of each clip's windows."""
    if activation == "softmax":
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores = shifted / shifted.sum(axis=1, keepdims=True)
    else:
        scores = 1 / (1 + np.exp(-logits))
    counts = np.bincount(owners)
    table = np.zeros((len(counts), logits.shape[1]))
    np.add.at(table, np.asarray(owners), scores)
    mean: Floats = (table / counts[:, None]).astype(np.float32)
    return mean


def _right(scores: Floats, targets: Floats) -> NDArray[np.float64]:
    right: NDArray[np.bool_] = scores.argmax(axis=1) == targets.argmax(axis=1)
    return right.astype(np.float64)


def _loss(
    first: NDArray[np.float64], other: NDArray[np.float64], groups: NDArray[Any], seed: int
) -> Estimate:
    """Accuracy that is lost against the first, with its paired interval; below 0: gained."""
    try:
        return paired_bootstrap(first, other, groups, seed=seed)
    except ValueError:  # a single clip or speaker: nothing to draw from
        return Estimate(float((first - other).mean()), Interval(math.nan, math.nan))
