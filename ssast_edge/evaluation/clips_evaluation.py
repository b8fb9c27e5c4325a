"""One bundle on the clips of a manifest: words are classified, sounds are tagged.

Puts `clips.py`, `classification.py` and `tagging.py` together; `clips_report.py` shows the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssast_edge.backends import Backend
from ssast_edge.bundle import Bundle
from ssast_edge.errors import SsastEdgeError
from ssast_edge.evaluation.classification import Classification, evaluate_classification
from ssast_edge.evaluation.clips import (
    SILENCE_LABEL,
    UNKNOWN_LABEL,
    WORD_TAIL_S,
    LabelledClips,
    Rule,
    labelled_clips,
    score_clips,
)
from ssast_edge.evaluation.recordings import Recording
from ssast_edge.evaluation.tagging import Tagging, evaluate_tagging

__all__ = ["ClipResult", "count_clips", "evaluate_clips"]

_MOST_NAMED = 12  # labels in a message


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipResult:
    """What one bundle makes of the clips.

    classification: None without a word that the bundle has, tagging: without a sound that it has.
    left_out: labels that no label of the bundle stands for, with their numbers of recordings; of
    the sounds only where there is tagging, of the words only where there is classification.
    unreadable: recordings that could not be scored, with the reason.
    """

    name: str
    version: str
    hop_ms: int
    activation: str
    seed: int
    samples: int
    classification: Classification | None
    tagging: Tagging | None
    left_out: Mapping[str, int]
    unreadable: tuple[tuple[str, str], ...]
    audio_s: float

    def facts(self) -> dict[str, Any]:
        """What both parts have in common, for `json.dumps`."""
        return {
            "bundle": self.name,
            "version": self.version,
            "hop_ms": self.hop_ms,
            "activation": self.activation,
            "seed": self.seed,
            "samples": self.samples,
            "audio_s": round(self.audio_s, 3),
            "left_out": dict(self.left_out),
            "unreadable": [{"file": file, "reason": why} for file, why in self.unreadable],
        }


def evaluate_clips(
    bundle: Bundle,
    recordings: Sequence[Recording],
    *,
    name: str = "",
    backend: Backend | None = None,
    rule: Rule | None = None,
    labels: Sequence[str] = (),
    seed: int = 0,
    samples: int = 1000,
    progress: Callable[[int], object] | None = None,
) -> ClipResult:
    """Run every labelled recording through the streaming runtime and measure what it is called.

    name: in the report, else the bundle's own. backend: an open model of the bundle, else its first
    that can be run. rule: how a clip's label is told from its hops when words are classified
    (`RULES`), None: by how long the clips are. labels: of the bundle that compete; by default all,
    but where the recordings hold words and sounds that the bundle knows, words compete without the
    labels of the sounds and sounds without those of the words. progress: called with 1 after each
    of the `count_clips` clips.

    Raises SsastEdgeError where no recording has a label that the bundle knows, or none can be read.
    """
    words, sounds = _choose(bundle, recordings, labels)
    if not words.recordings and not sounds.recordings:
        raise SsastEdgeError(
            f"no clip has a label of {bundle.name}: the recordings have "
            f"{_some([*words.left_out, *sounds.left_out])}, the bundle has {_some(words.labels)}"
        )
    left_out: dict[str, int] = {}
    unreadable: list[tuple[str, str]] = []
    audio_s = 0.0
    classification: Classification | None = None
    tagging: Tagging | None = None
    if words.recordings:
        left_out |= words.left_out
        scores = score_clips(bundle, words, backend=backend, tail_s=WORD_TAIL_S, progress=progress)
        unreadable += scores.unreadable
        audio_s += scores.audio_s
        if len(scores.kept):
            classification = evaluate_classification(
                words, scores, rule=rule, seed=seed, samples=samples
            )
    if sounds.recordings:
        left_out |= sounds.left_out
        scores = score_clips(bundle, sounds, backend=backend, with_windows=True, progress=progress)
        unreadable += scores.unreadable
        audio_s += scores.audio_s
        if len(scores.kept):
            tagging = evaluate_tagging(sounds, scores, seed=seed, samples=samples)
    if classification is None and tagging is None:
        raise SsastEdgeError(
            f"none of {len(unreadable)} clips could be scored, the first: {unreadable[0][1]}"
        )
    return ClipResult(
        name=name or bundle.name,
        version=bundle.version,
        hop_ms=bundle.hop_ms,
        activation=bundle.activation,
        seed=seed,
        samples=samples,
        classification=classification,
        tagging=tagging,
        left_out=left_out,
        unreadable=tuple(unreadable),
        audio_s=audio_s,
    )


def count_clips(
    bundle: Bundle, recordings: Sequence[Recording], *, labels: Sequence[str] = ()
) -> int:
    """How many clips `evaluate_clips` will run."""
    return sum(len(clips.recordings) for clips in _choose(bundle, recordings, labels))


def _choose(
    bundle: Bundle, recordings: Sequence[Recording], labels: Sequence[str]
) -> tuple[LabelledClips, LabelledClips]:
    """Words and sounds, each with the labels that compete for them."""
    words = labelled_clips(bundle, recordings, sounds=False, labels=labels)
    sounds = labelled_clips(bundle, recordings, sounds=True, labels=labels)
    if labels or not words.recordings or not sounds.recordings:
        return words, sounds
    of_words = {*_held(words), UNKNOWN_LABEL, SILENCE_LABEL}
    of_sounds = set(_held(sounds))
    if of_words & of_sounds:
        return words, sounds
    return (
        labelled_clips(bundle, recordings, sounds=False, labels=_without(bundle, of_sounds)),
        labelled_clips(bundle, recordings, sounds=True, labels=_without(bundle, of_words)),
    )


def _held(clips: LabelledClips) -> set[str]:
    return {clips.labels[label] for target in clips.targets for label in target}


def _without(bundle: Bundle, labels: set[str]) -> list[str]:
    return [label for label in bundle.labels if label not in labels]


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MOST_NAMED]) or "none"
    more = len(names) - _MOST_NAMED
    return f"{shown} and {more} more" if more > 0 else shown
