"""All metrics of a table of scores, overall and of each class, with bootstrap intervals.

Knows arrays only. N clips, C classes, S resamples. What cannot be known is nan: means leave it out
and `Evaluation` names it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ssast_edge.evaluation.bootstrap import (
    UNKNOWN,
    Estimate,
    Floats,
    Interval,
    centred,
    json_number,
    mean_defined,
    resamples,
    share_estimate,
    units_of,
)
from ssast_edge.evaluation.metrics import (
    Ranking,
    checked_scores,
    checked_targets,
    class_precision,
    confusion_matrix,
    d_prime,
    one_hot,
    ranks_of,
    ratio,
)

__all__ = ["ClassResult", "Evaluation", "evaluate_scores"]

_TABLE_BUDGET = 400_000_000  # N * C * S of the rankings, a few seconds
_MIN_SAMPLES = 200  # fewer say little about a 2.5 % tail
_TOP = 5


@dataclass(frozen=True, kw_only=True)
class ClassResult:
    """One class against the rest; nan for what its clips cannot tell."""

    name: str
    positives: int  # clips of the class
    average_precision: Estimate
    auc: Estimate
    d_prime: Estimate  # inf where every positive outranks every negative
    recall: Estimate  # the class's accuracy: its clips that are named so; nan for multilabel
    precision: float  # clips named so that are; nan where none is, and for multilabel

    def to_json(self) -> dict[str, Any]:
        """As nested dictionaries, null for what is not finite."""
        return {
            "class": self.name,
            "positives": self.positives,
            "recall": self.recall.to_json(),
            "precision": json_number(self.precision),
            "average_precision": self.average_precision.to_json(),
            "auc": self.auc.to_json(),
            "d_prime": self.d_prime.to_json(),
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What `evaluate_scores` found.

    metrics: one label a clip: accuracy, top_5 (above 5 classes), mean_recall, mAP, mAUC, d_prime;
    multilabel: mAP, mAUC, d_prime. Means are over the classes that have a positive (and for AUC a
    negative); `classes_without_positive` names the others.
    """

    multilabel: bool
    num_clips: int
    num_units: int  # what is resampled: groups, or else clips
    samples: int  # resamples behind accuracy, top_5 and recall
    ranking_samples: int  # resamples behind mAP, mAUC and d_prime
    level: float
    metrics: Mapping[str, Estimate]
    per_class: tuple[ClassResult, ...]  # in the order of the model's outputs
    confusion: NDArray[np.int64] | None  # (truth, named); None for multilabel

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in the order of the model's outputs."""
        return tuple(result.name for result in self.per_class)

    @property
    def classes_without_positive(self) -> tuple[str, ...]:
        """Classes that no clip has: in no mean."""
        return tuple(result.name for result in self.per_class if not result.positives)

    def to_json(self) -> dict[str, Any]:
        """A dictionary for `json.dumps`: null for what is not finite (d-prime of an AUC of 1)."""
        return {
            "multilabel": self.multilabel,
            "clips": self.num_clips,
            "resampled_units": self.num_units,
            "samples": self.samples,
            "ranking_samples": self.ranking_samples,
            "level": self.level,
            "metrics": {name: estimate.to_json() for name, estimate in self.metrics.items()},
            "classes_without_positive": list(self.classes_without_positive),
            "per_class": [result.to_json() for result in self.per_class],
            "confusion": None if self.confusion is None else self.confusion.tolist(),
        }


def evaluate_scores(
    scores: ArrayLike,
    targets: ArrayLike,
    classes: Sequence[str],
    *,
    multilabel: bool,
    groups: ArrayLike | None = None,
    seed: int = 0,
    samples: int = 1000,
    level: float = 0.95,
) -> Evaluation:
    """All metrics of (N, C) scores with bootstrap intervals over clips, or over whole groups.

    targets: (N, C) of 0 and 1, or (N,) indices where a clip has one label. Average precision and
    AUC rank the clips of a class by the scores as they are: give probabilities rather than logits
    where a clip has one label. A share of exactly 0 or 1 has the exact (Clopper-Pearson) interval,
    for the bootstrap sees no chance there. Raises ValueError for shapes, labels or scores that
    cannot be.
    """
    table = checked_scores(scores)
    names = tuple(classes)
    if len(set(names)) != table.shape[1] or len(names) != table.shape[1]:
        raise ValueError(
            f"{table.shape[1]} scores a clip for {len(names)} classes, {len(set(names))} of them "
            "different: wanted one score for each"
        )
    units = units_of(groups, len(table))
    hot = checked_targets(targets, table) if multilabel else one_hot(targets, table)
    ranking_samples = min(samples, max(_MIN_SAMPLES, _TABLE_BUDGET // table.size))
    ap, auc, mean_ap, mean_auc = _ranking_estimates(table, hot, units, ranking_samples, level, seed)
    metrics = {"mAP": mean_ap, "mAUC": mean_auc, "d_prime": _d_primes(mean_auc)}
    recall = [Estimate(math.nan, UNKNOWN)] * len(names)
    precision: Floats = np.full(len(names), math.nan)
    confusion = None
    if not multilabel:
        labels = hot.argmax(axis=1)
        ranks = ranks_of(table, labels)
        shares, recall = _share_estimates(ranks, labels, hot.shape[1], units, samples, level, seed)
        metrics = {**shares, **metrics}
        confusion = confusion_matrix(table.argmax(axis=1), labels, len(names))
        precision = class_precision(confusion)
    results = tuple(
        ClassResult(
            name=name,
            positives=int(hot[:, i].sum()),
            average_precision=ap[i],
            auc=auc[i],
            d_prime=_d_primes(auc[i]),
            recall=recall[i],
            precision=float(precision[i]),
        )
        for i, name in enumerate(names)
    )
    return Evaluation(
        multilabel=multilabel, num_clips=len(table), num_units=int(units.max()) + 1,
        samples=samples, ranking_samples=ranking_samples, level=level,
        metrics=metrics, per_class=results, confusion=confusion,
    )  # fmt: skip


def _share_estimates(
    ranks: NDArray[np.intp],
    labels: NDArray[np.intp],
    num_classes: int,
    units: NDArray[np.intp],
    samples: int,
    level: float,
    seed: int,
) -> tuple[dict[str, Estimate], list[Estimate]]:
    """Accuracy, top 5 and mean recall; recall of each class."""
    hits = {"accuracy": ranks < 1, f"top_{_TOP}": ranks < _TOP}
    if num_classes <= _TOP:
        del hits[f"top_{_TOP}"]
    drawn: dict[str, list[Floats]] = {name: [] for name in hits}
    recalls = []
    order = np.argsort(labels, kind="stable")
    present, first = np.unique(labels[order], return_index=True)
    for counts in resamples(units, samples, level, seed):
        for name, hit in hits.items():
            drawn[name].append(counts[hit].sum(axis=0) / counts.sum(axis=0))
        by_class = counts[order]
        right = np.add.reduceat(by_class * hits["accuracy"][order, None], first, axis=0)
        recalls.append(ratio(right, np.add.reduceat(by_class, first, axis=0)))
    num_units = int(units.max()) + 1
    shares = {
        name: share_estimate(float(hit.mean()), np.concatenate(drawn[name]), num_units, level)
        for name, hit in hits.items()
    }
    per_class = [Estimate(math.nan, UNKNOWN)] * num_classes
    table = np.concatenate(recalls, axis=1)  # (present, S)
    for i, row in zip(present, table, strict=True):
        own = labels == i
        num_own = len(np.unique(units[own]))
        per_class[i] = share_estimate(float(hits["accuracy"][own].mean()), row, num_own, level)
    mean = mean_defined([estimate.value for estimate in per_class])
    means = np.array([mean_defined(column) for column in table.T])
    shares["mean_recall"] = share_estimate(mean, means, num_units, level)
    return shares, per_class


def _ranking_estimates(
    table: Floats,
    hot: NDArray[np.bool_],
    units: NDArray[np.intp],
    samples: int,
    level: float,
    seed: int,
) -> tuple[list[Estimate], list[Estimate], Estimate, Estimate]:
    """AP and AUC of each class, their means."""
    rankings = [Ranking(table[:, i], hot[:, i]) for i in range(table.shape[1])]
    values = np.array([r.measure(np.ones((len(table), 1), np.int32)) for r in rankings])[..., 0]
    blocks = resamples(units, samples, level, seed)
    drawn = np.concatenate([[r.measure(counts) for r in rankings] for counts in blocks], axis=2)
    estimates: list[list[Estimate]] = []
    means = []
    for kind in (0, 1):  # AP, AUC
        rows = []
        for i in range(len(rankings)):
            alone = len(np.unique(units[hot[:, i]])) < 2  # of one unit a resample has all or none
            interval = UNKNOWN if alone else centred(drawn[i, kind], values[i, kind], level)
            rows.append(Estimate(float(values[i, kind]), interval))
        estimates.append(rows)
        mean = mean_defined(values[:, kind])
        over_classes = np.array([mean_defined(column) for column in drawn[:, kind].T])
        means.append(Estimate(mean, centred(over_classes, mean, level)))
    return estimates[0], estimates[1], means[0], means[1]


def _d_primes(auc: Estimate) -> Estimate:
    interval = Interval(d_prime(auc.interval.low), d_prime(auc.interval.high))
    return Estimate(d_prime(auc.value), interval)
