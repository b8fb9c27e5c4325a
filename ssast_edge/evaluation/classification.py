"""How often a bundle names the word of a clip: accuracy, with unknown words and silence apart.

The label with the highest score is the clip's. Knows tables of scores, no audio and no model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssast_edge.evaluation.bootstrap import UNKNOWN, Estimate, bootstrap, json_number
from ssast_edge.evaluation.class_scores import Evaluation, evaluate_scores
from ssast_edge.evaluation.clips import (
    SILENCE_LABEL,
    UNKNOWN_LABEL,
    ClipScores,
    LabelledClips,
    Rule,
)

__all__ = ["CANONICAL_SHARE", "Classification", "evaluate_classification"]

# Speech Commands' own test set has a tenth as many unknown words, and as many silent clips, as
# keywords.
CANONICAL_SHARE = 0.1

_PARTS = ("keywords", UNKNOWN_LABEL, SILENCE_LABEL)


@dataclass(frozen=True, kw_only=True, eq=False)
class Classification:
    """What a bundle makes of the clips.

    parts: accuracy of the clips of "keywords", "_unknown_", "_silence_" where there are any.
    canonical: keywords 1, unknown 0.1, silence 0.1, as Speech Commands weighs them; nan unless
    there are clips of all three.
    """

    labels: tuple[str, ...]
    rule: Rule
    accuracies: Mapping[Rule, Estimate]  # by each rule, all clips alike
    parts: Mapping[str, Estimate]
    part_clips: Mapping[str, int]
    canonical: Estimate
    evaluation: Evaluation  # by `rule`
    files: tuple[str, ...]
    speakers: NDArray[np.str_]  # (N,)
    right: NDArray[np.bool_]  # (N,), by `rule`

    @property
    def accuracy(self) -> Estimate:
        """Of all clips, by the rule."""
        return self.evaluation.metrics["accuracy"]

    def to_json(self) -> dict[str, Any]:
        """A dictionary for `json.dumps`; null for what is not known."""
        return {
            "labels": list(self.labels),
            "rule": self.rule,
            "accuracy_by_rule": {k: v.to_json() for k, v in self.accuracies.items()},
            "accuracy_by_part": {k: v.to_json() for k, v in self.parts.items()},
            "clips_by_part": dict(self.part_clips),
            "canonical_accuracy": self.canonical.to_json(),
            "canonical_weights": {"keywords": 1, "unknown": 0.1, "silence": 0.1},
            "evaluation": self.evaluation.to_json(),
        }


def evaluate_classification(
    clips: LabelledClips,
    scores: ClipScores,
    *,
    rule: Rule | None = None,
    seed: int = 0,
    samples: int = 1000,
) -> Classification:
    """All figures, with intervals drawn by speaker where speakers are known, else by clip.

    rule: None is the last hop where every clip fits into a window, else the highest scores.
    Raises ValueError where no clip was scored.
    """
    if rule is None:
        rule = "last" if scores.is_short else "max"
    recordings = [clips.recordings[i] for i in scores.kept]
    truth = np.array([clips.targets[i][0] for i in scores.kept], np.intp)
    speakers = np.array([recording.speaker for recording in recordings], dtype=np.str_)
    found = {
        name: evaluate_scores(
            table, truth, clips.labels,
            multilabel=False, groups=speakers, seed=seed, samples=samples,
        )
        for name, table in scores.tables.items()
    }  # fmt: skip
    right = scores.tables[rule].argmax(axis=1) == truth
    part = np.array([_part(clips.labels[label]) for label in truth])
    present = [number for number in range(len(_PARTS)) if (part == number).any()]
    parts = {
        _PARTS[number]: _accuracy(right[part == number], speakers[part == number], seed, samples)
        for number in present
    }
    return Classification(
        labels=clips.labels,
        rule=rule,
        accuracies={name: one.metrics["accuracy"] for name, one in found.items()},
        parts=parts,
        part_clips={_PARTS[number]: int((part == number).sum()) for number in present},
        canonical=_canonical(right, part, speakers, seed, samples),
        evaluation=found[rule],
        files=tuple(str(recording.path) for recording in recordings),
        speakers=speakers,
        right=right,
    )


def _part(label: str) -> int:
    return _PARTS.index(label) if label in _PARTS else 0


def _accuracy(
    right: NDArray[np.bool_], speakers: NDArray[np.str_], seed: int, samples: int
) -> Estimate:
    """The share that is right, as one class of its own: exact intervals of 0 and 1 included."""
    scores = np.stack([right, ~right], axis=1).astype(np.float32)
    found = evaluate_scores(
        scores, np.zeros(len(right), np.intp), ("right", "wrong"),
        multilabel=False, groups=speakers, seed=seed, samples=samples,
    )  # fmt: skip
    return found.metrics["accuracy"]


def _canonical(
    right: NDArray[np.bool_],
    part: NDArray[np.intp],
    speakers: NDArray[np.str_],
    seed: int,
    samples: int,
) -> Estimate:
    weights = np.array([1.0, CANONICAL_SHARE, CANONICAL_SHARE])

    def weighted(right: NDArray[np.bool_], part: NDArray[np.intp]) -> float:
        counts = np.bincount(part, minlength=len(_PARTS))
        if not counts.all():
            return math.nan
        shares = np.bincount(part, right, minlength=len(_PARTS)) / counts
        return float((weights * shares).sum() / weights.sum())

    value = weighted(right, part)
    if math.isnan(value) or json_number(value) in (0, 1):
        return Estimate(value, UNKNOWN)
    interval = bootstrap(weighted, right, part, groups=speakers, seed=seed, samples=samples)
    return Estimate(value, interval)
