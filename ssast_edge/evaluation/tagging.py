"""How well a bundle tags sounds: mAP, mAUC, d-prime, the best label, of clips and of windows.

At clip length the scores of a clip's hops are averaged, or their highest is taken; at the streaming
window every window of a clip that is loud enough is scored by itself, against its clip's labels.
Knows tables of scores, no audio and no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssast_edge.evaluation.class_scores import Evaluation, evaluate_scores
from ssast_edge.evaluation.clips import ClipScores, LabelledClips

__all__ = ["CONDITIONS", "Tagging", "evaluate_tagging"]

# Condition -> what it is, for people. The first is the one whose classes are shown.
CONDITIONS = {
    "mean": "clip, scores averaged",
    "max": "clip, highest scores",
    "window": "streaming window",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Tagging:
    """What a bundle makes of the sounds.

    evaluations: by condition; "window" is absent where no window was loud enough. Clips of several
    labels have no accuracy, recall or confusions.
    """

    labels: tuple[str, ...]
    evaluations: Mapping[str, Evaluation]
    num_windows: int
    files: tuple[str, ...]
    groups: NDArray[np.str_]  # (N,) speakers, or whatever the clips are grouped by
    right: NDArray[np.bool_]  # (N,) the best label by averaged scores is one of the clip's

    def to_json(self) -> dict[str, Any]:
        """A dictionary for `json.dumps`; null for what is not known."""
        return {
            "labels": list(self.labels),
            "windows": self.num_windows,
            "best_label_is_right": float(self.right.mean()),
            "evaluations": {name: found.to_json() for name, found in self.evaluations.items()},
        }


def evaluate_tagging(
    clips: LabelledClips, scores: ClipScores, *, seed: int = 0, samples: int = 1000
) -> Tagging:
    """All figures, with intervals drawn by speaker where given, else by clip.

    The windows of a clip are always drawn together. Raises ValueError where no clip was scored.
    """
    recordings = [clips.recordings[i] for i in scores.kept]
    hot = np.zeros((len(recordings), len(clips.labels)), np.bool_)
    for row, number in zip(hot, scores.kept, strict=True):
        row[list(clips.targets[number])] = True
    multilabel = bool((hot.sum(axis=1) > 1).any())
    groups = np.array([recording.speaker for recording in recordings], dtype=np.str_)
    tables = {"mean": scores.tables["mean"], "max": scores.tables["max"]}
    evaluations = {
        name: evaluate_scores(
            table, hot, clips.labels,
            multilabel=multilabel, groups=groups, seed=seed, samples=samples,
        )
        for name, table in tables.items()
    }  # fmt: skip
    if len(scores.windows):
        owners = scores.window_clips
        drawn_with = np.array(
            [group or f"clip {number}" for number, group in enumerate(groups.tolist())]
        )
        evaluations["window"] = evaluate_scores(
            scores.windows, hot[owners], clips.labels,
            multilabel=multilabel, groups=drawn_with[owners], seed=seed, samples=samples,
        )  # fmt: skip
    best = scores.tables["mean"].argmax(axis=1)
    return Tagging(
        labels=clips.labels,
        evaluations=evaluations,
        num_windows=len(scores.windows),
        files=tuple(str(recording.path) for recording in recordings),
        groups=groups,
        right=hot[np.arange(len(best)), best],
    )
