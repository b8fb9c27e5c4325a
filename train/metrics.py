"""How well scores name clips: accuracy, average precision, ROC AUC, d-prime, and how sure they are.

Knows arrays only: no model, no audio, no file. N clips, C classes, S resamples. What cannot be
known (the recall of a class without a clip, say) is nan: means leave it out and `Evaluation` names
it. Average precision is the step-wise sum of scikit-learn, clips with equal scores taken together.
d-prime is sqrt(2) * Phi^-1(AUC), of all classes that of the mean AUC, as in the papers of AST and
PANNs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit

__all__ = [
    "ClassResult",
    "Estimate",
    "Evaluation",
    "Interval",
    "accuracy",
    "average_precision",
    "bootstrap",
    "class_precision",
    "class_recall",
    "confusion_matrix",
    "d_prime",
    "evaluate_scores",
    "mean_and_interval_over_seeds",
    "mean_average_precision",
    "mean_defined",
    "mean_roc_auc",
    "paired_bootstrap",
    "roc_auc",
    "top_k",
]

Floats = NDArray[np.floating[Any]]
Counts = NDArray[np.int32]  # (N, S): how often a resample draws a clip

_BLOCK = 32  # resamples at once: the (N, block) tables of 40 000 clips stay near the cache
_TABLE_BUDGET = 400_000_000  # N * C * S of the rankings, a few seconds
_MIN_SAMPLES = 200  # fewer say little about a 2.5 % tail
_TOP = 5


@dataclass(frozen=True)
class Interval:
    """A confidence interval; both ends nan where the clips cannot tell."""

    low: float
    high: float


UNKNOWN = Interval(math.nan, math.nan)


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval."""

    value: float
    interval: Interval

    def to_json(self) -> dict[str, float | None]:
        """value, low, high; null for what is not finite."""
        ends = {"value": self.value, "low": self.interval.low, "high": self.interval.high}
        return {name: _json_number(x) for name, x in ends.items()}


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
            "precision": _json_number(self.precision),
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


def accuracy(scores: ArrayLike, labels: ArrayLike) -> float:
    """Share of clips whose highest score is their label's. scores: (N, C); labels: (N,) indices."""
    return top_k(scores, labels, 1)


def top_k(scores: ArrayLike, labels: ArrayLike, k: int) -> float:
    """Share of clips whose label is among the k highest scores; of equal ones the first wins."""
    table = _scores(scores)
    if not 1 <= k <= table.shape[1]:
        raise ValueError(f"k is {k}, wanted 1 to {table.shape[1]}, the number of classes")
    return float((_ranks(table, _labels(labels, table)) < k).mean())


def confusion_matrix(predicted: ArrayLike, labels: ArrayLike, num_classes: int) -> NDArray[Any]:
    """(C, C) counts; row: the true class, column: the one that the model names."""
    truth, named = _indices(labels, num_classes, "labels"), _indices(predicted, num_classes, "pred")
    if len(truth) != len(named):
        raise ValueError(f"{len(named)} predictions for {len(truth)} labels: wanted one a clip")
    cells = np.bincount(truth * num_classes + named, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def class_recall(confusion: NDArray[Any]) -> Floats:
    """(C,) share of each class's clips that are named so, its accuracy; nan without a clip."""
    return _ratio(np.diag(confusion), confusion.sum(axis=1))


def class_precision(confusion: NDArray[Any]) -> Floats:
    """(C,) share of the clips named so that are; nan for a class that is never named."""
    return _ratio(np.diag(confusion), confusion.sum(axis=0))


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
    return math.sqrt(2) * float(ndtri(auc))


def mean_defined(values: ArrayLike) -> float:
    """Mean of the values that are not nan; nan where all are."""
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    return float(known.mean()) if known.size else math.nan


def bootstrap(
    statistic: Callable[..., float],
    *arrays: ArrayLike,
    groups: ArrayLike | None = None,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile interval of statistic(*arrays), the rows of the arrays drawn anew together.

    groups: (N,) names (speakers, say) whose rows are drawn together; a row with the empty name
    is a group of its own. Resamples where the statistic is nan do not count.
    """
    tables = [np.asarray(array) for array in arrays]
    if not tables or any(table.ndim == 0 or len(table) != len(tables[0]) for table in tables):
        raise ValueError(
            f"arrays of lengths {[t.shape[:1] for t in tables]}: wanted one row a clip"
        )
    units = _units(groups, len(tables[0]))
    if units.max(initial=-1) < 1:
        raise ValueError(
            f"{units.max(initial=-1) + 1} clips or groups to resample: wanted 2 or more"
        )
    rows = np.arange(len(units))
    values = [
        statistic(*(table[drawn] for table in tables))
        for counts in _resamples(units, samples, level, seed)
        for drawn in (np.repeat(rows, column) for column in counts.T)
    ]
    return _percentiles(np.array(values, dtype=np.float64), level)


def paired_bootstrap(
    correct_a: ArrayLike,
    correct_b: ArrayLike,
    groups: ArrayLike | None = None,
    seed: int = 0,
    *,
    samples: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """Mean of `correct_a` minus that of `correct_b` on the same clips, which are drawn together.

    correct: (N,) 0 or 1, or any score of a clip. An interval without 0 is a real difference.
    """
    a, b = np.asarray(correct_a, dtype=np.float64), np.asarray(correct_b, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"shapes {a.shape} and {b.shape}: wanted (clips,) of the same clips")
    interval = bootstrap(np.mean, a - b, groups=groups, samples=samples, seed=seed, level=level)
    return Estimate(float((a - b).mean()), interval)


def mean_and_interval_over_seeds(values: Sequence[float], level: float = 0.95) -> Estimate:
    """Mean of one figure over runs with different seeds, with Student's t interval.

    The interval covers the chance of training, not that of the choice of test clips; it is nan for
    a single run.
    """
    figures = np.asarray(values, dtype=np.float64)
    _check_level(level)
    if figures.ndim != 1 or not figures.size or not np.isfinite(figures).all():
        raise ValueError(f"values {figures.tolist()}: wanted one finite figure for each seed")
    mean, count = float(figures.mean()), len(figures)
    if count == 1:
        return Estimate(mean, UNKNOWN)
    half = float(stdtrit(count - 1, (1 + level) / 2) * figures.std(ddof=1) / math.sqrt(count))
    return Estimate(mean, Interval(mean - half, mean + half))


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
    table = _scores(scores)
    names = tuple(classes)
    if len(set(names)) != table.shape[1] or len(names) != table.shape[1]:
        raise ValueError(
            f"{table.shape[1]} scores a clip for {len(names)} classes, {len(set(names))} of them "
            "different: wanted one score for each"
        )
    units = _units(groups, len(table))
    hot = _targets(targets, table) if multilabel else _one_hot(targets, table)
    ranking_samples = min(samples, max(_MIN_SAMPLES, _TABLE_BUDGET // table.size))
    ap, auc, mean_ap, mean_auc = _ranking_estimates(table, hot, units, ranking_samples, level, seed)
    metrics = {"mAP": mean_ap, "mAUC": mean_auc, "d_prime": _d_primes(mean_auc)}
    recall = [Estimate(math.nan, UNKNOWN)] * len(names)
    precision: Floats = np.full(len(names), math.nan)
    confusion = None
    if not multilabel:
        labels = hot.argmax(axis=1)
        ranks = _ranks(table, labels)
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
    for counts in _resamples(units, samples, level, seed):
        for name, hit in hits.items():
            drawn[name].append(counts[hit].sum(axis=0) / counts.sum(axis=0))
        by_class = counts[order]
        right = np.add.reduceat(by_class * hits["accuracy"][order, None], first, axis=0)
        recalls.append(_ratio(right, np.add.reduceat(by_class, first, axis=0)))
    num_units = int(units.max()) + 1
    shares = {
        name: _share(float(hit.mean()), np.concatenate(drawn[name]), num_units, level)
        for name, hit in hits.items()
    }
    per_class = [Estimate(math.nan, UNKNOWN)] * num_classes
    table = np.concatenate(recalls, axis=1)  # (present, S)
    for i, row in zip(present, table, strict=True):
        own = labels == i
        num_own = len(np.unique(units[own]))
        per_class[i] = _share(float(hits["accuracy"][own].mean()), row, num_own, level)
    mean = mean_defined([estimate.value for estimate in per_class])
    means = np.array([mean_defined(column) for column in table.T])
    shares["mean_recall"] = _share(mean, means, num_units, level)
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
    rankings = [_Ranking(table[:, i], hot[:, i]) for i in range(table.shape[1])]
    values = np.array([r.measure(np.ones((len(table), 1), np.int32)) for r in rankings])[..., 0]
    blocks = _resamples(units, samples, level, seed)
    drawn = np.concatenate([[r.measure(counts) for r in rankings] for counts in blocks], axis=2)
    estimates: list[list[Estimate]] = []
    means = []
    for kind in (0, 1):  # AP, AUC
        rows = []
        for i in range(len(rankings)):
            alone = len(np.unique(units[hot[:, i]])) < 2  # of one unit a resample has all or none
            interval = UNKNOWN if alone else _centred(drawn[i, kind], values[i, kind], level)
            rows.append(Estimate(float(values[i, kind]), interval))
        estimates.append(rows)
        mean = mean_defined(values[:, kind])
        over_classes = np.array([mean_defined(column) for column in drawn[:, kind].T])
        means.append(Estimate(mean, _centred(over_classes, mean, level)))
    return estimates[0], estimates[1], means[0], means[1]


class _Ranking:
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
            _ratio((here * precision).sum(axis=0), positives),
            1 - _ratio(misses, positives.astype(np.float64) * negatives),
        )


def _sums_before(counts: Counts) -> Counts:
    """(N + 1, S): what comes before each row, and at the end the total."""
    sums = np.zeros((len(counts) + 1, counts.shape[1]), dtype=np.int32)
    np.cumsum(counts, axis=0, out=sums[1:])
    return sums


def _resamples(units: NDArray[np.intp], samples: int, level: float, seed: int) -> Iterator[Counts]:
    """Blocks of resamples of the units, as counts of the clips; the same for the same seed."""
    _check_level(level)
    if samples < 1:
        raise ValueError(f"{samples} resamples: wanted 1 or more")
    rng = np.random.default_rng(seed)
    number = int(units.max()) + 1
    for start in range(0, samples, _BLOCK):
        width = min(_BLOCK, samples - start)
        drawn = rng.integers(number, size=(number, width)) * width + np.arange(width)
        counts = np.bincount(drawn.ravel(), minlength=number * width)
        yield counts.reshape(number, width).astype(np.int32)[units]


def _percentiles(values: Floats, level: float) -> Interval:
    known = values[~np.isnan(values)]
    if not known.size:
        return UNKNOWN
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def _share(value: float, values: Floats, units: int, level: float) -> Estimate:
    if value in (0, 1):
        rest = 1 - ((1 - level) / 2) ** (1 / units)
        return Estimate(value, Interval(0.0, rest) if value == 0 else Interval(1 - rest, 1.0))
    return Estimate(value, UNKNOWN if units < 2 else _percentiles(values, level))


def _centred(values: Floats, estimate: float, level: float) -> Interval:
    """Percentiles about the estimate, in [0, 1].

    A clip that is drawn twice ties with itself, which raises average precision: over many classes
    the plain percentiles leave the estimate outside. No width means no knowledge, hence nan.
    """
    plain = _percentiles(values, level)
    if not plain.low < plain.high:
        return UNKNOWN
    shift = estimate - mean_defined(values)
    return Interval(max(plain.low + shift, 0.0), min(plain.high + shift, 1.0))


def _d_primes(auc: Estimate) -> Estimate:
    interval = Interval(d_prime(auc.interval.low), d_prime(auc.interval.high))
    return Estimate(d_prime(auc.value), interval)


def _rank_metrics(scores: ArrayLike, targets: ArrayLike) -> Floats:
    table = _scores(scores)
    hot = _targets(targets, table)
    once = np.ones((len(table), 1), dtype=np.int32)
    found = [_Ranking(table[:, i], hot[:, i]).measure(once) for i in range(table.shape[1])]
    areas: Floats = np.array(found)[..., 0].T  # (2, C)
    return areas


def _ranks(table: Floats, labels: NDArray[np.intp]) -> NDArray[np.intp]:
    """(N,) number of classes before the label: higher scores, and equal ones of lower index."""
    own = np.take_along_axis(table, labels[:, None], axis=1)
    earlier = np.arange(table.shape[1]) < labels[:, None]
    ranks: NDArray[np.intp] = ((table > own) | ((table == own) & earlier)).sum(axis=1)
    return ranks


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """Part / whole, nan where whole is 0."""
    ratio: Floats = np.divide(part, whole, out=np.full(part.shape, math.nan), where=whole > 0)
    return ratio


def _scores(scores: ArrayLike) -> Floats:
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


def _targets(targets: ArrayLike, table: Floats) -> NDArray[np.bool_]:
    hot = np.asarray(targets)
    if hot.shape != table.shape:
        raise ValueError(f"targets of shape {hot.shape}: wanted {table.shape} as the scores")
    if not ((hot == 0) | (hot == 1)).all():
        raise ValueError("targets must be 0 or 1: mixed or weighted labels cannot be scored")
    return hot.astype(bool)


def _one_hot(targets: ArrayLike, table: Floats) -> NDArray[np.bool_]:
    if np.ndim(targets) == 1:
        return np.equal(_labels(targets, table)[:, None], np.arange(table.shape[1]))
    hot = _targets(targets, table)
    if (wrong := np.flatnonzero(hot.sum(axis=1) != 1)).size:
        raise ValueError(
            f"clip {wrong[0]} has {hot[wrong[0]].sum()} labels: wanted one, or multilabel"
        )
    return hot


def _labels(labels: ArrayLike, table: Floats) -> NDArray[np.intp]:
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


def _units(groups: ArrayLike | None, num_clips: int) -> NDArray[np.intp]:
    """(N,) number of what each clip is drawn with."""
    if groups is None:
        return np.arange(num_clips)
    names = np.asarray(groups)
    if names.shape != (num_clips,):
        raise ValueError(f"groups of shape {names.shape}: wanted ({num_clips},), one a clip")
    units = np.unique(names, return_inverse=True)[1]
    if names.dtype.kind in "US" and (nameless := names == names.dtype.type()).any():
        units[nameless] = len(names) + np.arange(nameless.sum())
        units = np.unique(units, return_inverse=True)[1]
    return units


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, wanted between 0 and 1")


def _json_number(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None
