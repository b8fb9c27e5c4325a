"""How well scores name clips: accuracy, confusions, average precision, ROC AUC, d-prime.

Knows arrays only: no model, no audio, no file. N clips, C classes, S resamples. What cannot be
known (the recall of a class without a clip, say) is nan: means leave it out. Average precision is
the step-wise sum of scikit-learn, clips with equal scores taken together. d-prime is
sqrt(2) * Phi^-1(AUC), of all classes that of the mean AUC, as in the papers of AST and PANNs.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssast_edge.evaluation.bootstrap import Counts, Floats, mean_defined

__all__ = [
    "Ranking",
    "accuracy",
    "average_precision",
    "checked_labels",
    "checked_scores",
    "checked_targets",
    "class_precision",
    "class_recall",
    "confusion_matrix",
    "d_prime",
    "mean_average_precision",
    "mean_roc_auc",
    "one_hot",
    "ranks_of",
    "ratio",
    "roc_auc",
    "top_k",
]


def accuracy(scores: ArrayLike, labels: ArrayLike) -> float:
    """Share of clips whose highest score is their label's. scores: (N, C); labels: (N,) indices."""
    return top_k(scores, labels, 1)


def top_k(scores: ArrayLike, labels: ArrayLike, k: int) -> float:
    """Share of clips whose label is among the k highest scores; of equal ones the first wins."""
    table = checked_scores(scores)
    if not 1 <= k <= table.shape[1]:
        raise ValueError(f"k is {k}, wanted 1 to {table.shape[1]}, the number of classes")
    return float((ranks_of(table, checked_labels(labels, table)) < k).mean())


def confusion_matrix(predicted: ArrayLike, labels: ArrayLike, num_classes: int) -> NDArray[Any]:
    """(C, C) counts; row: the true class, column: the one that the model names."""
    truth, named = _indices(labels, num_classes, "labels"), _indices(predicted, num_classes, "pred")
    if len(truth) != len(named):
        raise ValueError(f"{len(named)} predictions for {len(truth)} labels: wanted one a clip")
    cells = np.bincount(truth * num_classes + named, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def class_recall(confusion: NDArray[Any]) -> Floats:
    """(C,) share of each class's clips that are named so, its accuracy; nan without a clip."""
    return ratio(np.diag(confusion), confusion.sum(axis=1))


def class_precision(confusion: NDArray[Any]) -> Floats:
    """(C,) share of the clips named so that are; nan for a class that is never named."""
    return ratio(np.diag(confusion), confusion.sum(axis=0))


def average_precision(scores: ArrayLike, targets: ArrayLike) -> Floats:
    """(C,) area under each class's step-wise precision-recall curve; nan without a positive.

    scores: (N, C), any monotone function of the probability; targets: (N, C) of 0 and 1.
    """
    precision: Floats = _rank_metrics(scores, targets)[0]
    return precision


def roc_auc(scores: ArrayLike, targets: ArrayLike) -> Floats:
    """(C,) chance that a positive outranks a negative, ties half; nan without one of either."""
    area: Floats = _rank_metrics(scores, targets)[1]
    return area


def mean_average_precision(scores: ArrayLike, targets: ArrayLike) -> float:
    """Mean average precision over the classes that have a positive; nan where none has."""
    return mean_defined(average_precision(scores, targets))


def mean_roc_auc(scores: ArrayLike, targets: ArrayLike) -> float:
    """Mean ROC AUC over the classes that have positives and negatives; nan where none has."""
    return mean_defined(roc_auc(scores, targets))


def d_prime(auc: float) -> float:
    """sqrt(2) * Phi^-1(auc): 0 by chance, inf for an AUC of 1, nan for nan."""
    if not (0 <= auc <= 1 or math.isnan(auc)):
        raise ValueError(f"AUC is {auc}, wanted 0 to 1")
    if not 0 < auc < 1:  # the ends, or nan, which stays
        return math.copysign(math.inf, auc - 0.5) if auc in (0, 1) else math.nan
    return math.sqrt(2) * NormalDist().inv_cdf(auc)


class Ranking:
    """The clips of one class from the highest score down, made once for all resamples."""

    def __init__(self, scores: Floats, positive: NDArray[np.bool_]) -> None:
        self._order = np.argsort(-scores, kind="stable")
        ranked, hit = scores[self._order], positive[self._order]
        is_first = np.append(True, ranked[1:] != ranked[:-1])  # of the clips with that score
        starts = np.flatnonzero(is_first)
        ends = np.append(starts[1:], len(scores))
        hits_before = np.append(0, np.cumsum(hit))
        some = hits_before[ends] > hits_before[starts]  # only scores of positives count
        self._starts, self._ends = starts[some], ends[some]
        self._hit_starts, self._hit_ends = hits_before[self._starts], hits_before[self._ends]
        self._positives = self._order[hit]

    def measure(self, counts: Counts) -> tuple[Floats, Floats]:
        """(S,) average precision and (S,) AUC of clips that count as often as `counts` says."""
        every, hits = _sums_before(counts[self._order]), _sums_before(counts[self._positives])
        upto, hits_upto = every[self._ends], hits[self._hit_ends]
        above, hits_above = every[self._starts], hits[self._hit_starts]
        here = (hits_upto - hits_above).astype(np.float64)  # positives with the score
        positives, negatives = hits[-1], every[-1] - hits[-1]
        precision = hits_upto / np.maximum(upto, 1)
        # Negatives above a positive, those with its score half.
        misses = (here * ((above - hits_above) + (upto - hits_upto))).sum(axis=0) / 2
        return (
            ratio((here * precision).sum(axis=0), positives),
            1 - ratio(misses, positives.astype(np.float64) * negatives),
        )


def _sums_before(counts: Counts) -> Counts:
    """(N + 1, S): what comes before each row, and at the end the total."""
    sums = np.zeros((len(counts) + 1, counts.shape[1]), dtype=np.int32)
    np.cumsum(counts, axis=0, out=sums[1:])
    return sums


def _rank_metrics(scores: ArrayLike, targets: ArrayLike) -> Floats:
    table = checked_scores(scores)
    hot = checked_targets(targets, table)
    once = np.ones((len(table), 1), dtype=np.int32)
    found = [Ranking(table[:, i], hot[:, i]).measure(once) for i in range(table.shape[1])]
    areas: Floats = np.array(found)[..., 0].T  # (2, C)
    return areas


def ranks_of(table: Floats, labels: NDArray[np.intp]) -> NDArray[np.intp]:
    """(N,) number of classes before the label: higher scores, and equal ones of lower index."""
    own = np.take_along_axis(table, labels[:, None], axis=1)
    earlier = np.arange(table.shape[1]) < labels[:, None]
    ranks: NDArray[np.intp] = ((table > own) | ((table == own) & earlier)).sum(axis=1)
    return ranks


def ratio(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """Part / whole, nan where whole is 0."""
    ratio: Floats = np.divide(part, whole, out=np.full(part.shape, math.nan), where=whole > 0)
    return ratio


def checked_scores(scores: ArrayLike) -> Floats:
    """(N, C) finite scores; ValueError for others."""
    table = np.asarray(scores)
    if table.ndim != 2 or not table.size:
        raise ValueError(
            f"scores of shape {table.shape}: wanted (clips, classes), one or more each"
        )
    if not np.issubdtype(table.dtype, np.floating):
        table = table.astype(np.float64)
    if not (finite := np.isfinite(table).all(axis=1)).all():
        wrong = np.flatnonzero(~finite)
        raise ValueError(f"{len(wrong)} clips have scores that are no numbers, first {wrong[0]}")
    return table


def checked_targets(targets: ArrayLike, table: Floats) -> NDArray[np.bool_]:
    """(N, C) of 0 and 1, of the shape of the scores; ValueError for others."""
    hot = np.asarray(targets)
    if hot.shape != table.shape:
        raise ValueError(f"targets of shape {hot.shape}: wanted {table.shape} as the scores")
    if not ((hot == 0) | (hot == 1)).all():
        raise ValueError("targets must be 0 or 1: mixed or weighted labels cannot be scored")
    return hot.astype(bool)


def one_hot(targets: ArrayLike, table: Floats) -> NDArray[np.bool_]:
    """(N, C) with one label a clip, from indices or from 0 and 1; ValueError for others."""
    if np.ndim(targets) == 1:
        return np.equal(checked_labels(targets, table)[:, None], np.arange(table.shape[1]))
    hot = checked_targets(targets, table)
    if (wrong := np.flatnonzero(hot.sum(axis=1) != 1)).size:
        raise ValueError(
            f"clip {wrong[0]} has {hot[wrong[0]].sum()} labels: wanted one, or multilabel"
        )
    return hot


def checked_labels(labels: ArrayLike, table: Floats) -> NDArray[np.intp]:
    """(N,) indices of classes, one a clip; ValueError for others."""
    indices = _indices(labels, table.shape[1], "labels")
    if len(indices) != len(table):
        raise ValueError(f"{len(indices)} labels for {len(table)} clips: wanted one a clip")
    return indices


def _indices(values: ArrayLike, num_classes: int, what: str) -> NDArray[np.intp]:
    indices = np.asarray(values)
    if indices.ndim != 1 or not indices.size or not np.issubdtype(indices.dtype, np.integer):
        raise ValueError(
            f"{what} of shape {indices.shape} and {indices.dtype}: wanted class indices"
        )
    if indices.min() < 0 or indices.max() >= num_classes:
        wrong = indices.min() if indices.min() < 0 else indices.max()
        raise ValueError(f"{what} hold class {wrong}: wanted 0 to {num_classes - 1}")
    return indices.astype(np.intp)
