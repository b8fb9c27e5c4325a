"""How many words a trigger would have missed where words were said: a table made in advance.

For each keyword, condition, smoothing and number of hits, the highest threshold at which each
word still fires. A bundle carries the table of its validation words in `provenance`, so that a
calibration can say what a threshold costs without those recordings; the user's own recordings
give another. Thresholds are held as logits, rounded down: a word is never promised too much.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssast_edge.bundle import Bundle
from ssast_edge.calibration.evidence import hold, smooth
from ssast_edge.calibration.grid import Family, families, family_of, logit
from ssast_edge.errors import BundleError
from ssast_edge.evaluation.intervals import miss_interval
from ssast_edge.evaluation.matching import TOLERANCE_S
from ssast_edge.evaluation.scores import HopScores
from ssast_edge.evaluation.track import Track, Word
from ssast_edge.manifest import ManifestError, from_json
from ssast_edge.trigger import TriggerConfig

FORMAT = 1
_STEPS = 100  # of a logit: two digits
_NEVER = -20.0  # logit of a word that no threshold hears


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One keyword under one condition with one smoothing and number of hits."""

    label: str
    condition: str  # "clean", "10 dB", ...
    smoothing_ms: float
    min_hits: int
    logits: tuple[float, ...]  # of each word, ascending: it fires up to this threshold


@dataclass(frozen=True)
class Expected:
    """What a trigger misses of the words of one condition."""

    condition: str
    missed: int
    words: int

    @property
    def rate(self) -> float:
        """Share of the words."""
        return self.missed / self.words

    def interval(self, confidence: float) -> tuple[float, float]:
        """Clopper-Pearson, two-sided."""
        return miss_interval(self.missed, self.words, confidence)


class MissTable:
    """The curves that are known."""

    def __init__(self, curves: Iterable[Curve] = ()) -> None:
        self._curves: dict[tuple[str, Family], list[Curve]] = {}
        for curve in curves:
            key = curve.label, Family(curve.smoothing_ms, curve.min_hits)
            if curve.logits:
                self._curves.setdefault(key, []).append(curve)

    @property
    def curves(self) -> list[Curve]:
        """All of them."""
        return [curve for kept in self._curves.values() for curve in kept]

    def expected(self, label: str, config: TriggerConfig) -> tuple[Expected, ...]:
        """What it misses in each condition; nothing where no word was ever tried."""
        curves = self._curves.get((label, family_of(config)), [])
        wanted = logit(config.threshold)
        return tuple(
            Expected(c.condition, bisect_left(c.logits, wanted), len(c.logits)) for c in curves
        )

    def miss_rate(self, label: str, config: TriggerConfig) -> float | None:
        """The mean over the conditions, None where nothing is known."""
        rates = [expected.rate for expected in self.expected(label, config)]
        return sum(rates) / len(rates) if rates else None

    def with_curves(self, curves: Iterable[Curve]) -> "MissTable":
        """A table that has those, too."""
        return MissTable([*self.curves, *curves])


def table_of(bundle: Bundle) -> MissTable:
    """The table that a bundle carries; an empty one where it carries none.

    Raises BundleError for a table that is broken.
    """
    validation = bundle.provenance.get("validation")
    held = validation.get("detection_curves") if isinstance(validation, dict) else None
    if not isinstance(held, dict) or held.get("format") != FORMAT:
        return MissTable()
    if held.get("hop_ms") != bundle.hop_ms:
        return MissTable()
    try:
        return MissTable(from_json(held.get("curves"), tuple[Curve, ...], "curves"))
    except ManifestError as error:
        raise BundleError(f"bundle {bundle.path}: its detection_curves: {error}") from error


def detection_curves(
    bundle: Bundle,
    runs: Mapping[str, tuple[HopScores, Track]],
    triggers: Mapping[str, TriggerConfig],
) -> dict[str, Any]:
    """The table for `provenance["validation"]["detection_curves"]`, ready for JSON.

    runs: by condition, the hop scores of a track and the track. triggers: the bundle's own, whose
    smoothing and hits the table has beside those of the grid.
    """
    curves = [
        curve
        for label, trigger in triggers.items()
        for condition, (hops, track) in runs.items()
        for curve in curves_of(
            label,
            condition,
            [_around(hops, word, label) for word in track.words if word.label == label],
            families([trigger]),
        )
    ]
    return {
        "format": FORMAT,
        "hop_ms": bundle.hop_ms,
        "tolerance_s": TOLERANCE_S,
        "hours": {name: round(track.hours, 3) for name, (_, track) in runs.items()},
        "curves": [{**asdict(curve), "logits": list(curve.logits)} for curve in curves],
    }


@dataclass(frozen=True, eq=False)
class Said:
    """The hops around one spoken word, n of them, and where it must be heard."""

    times_s: NDArray[np.float64]  # (n,)
    scores: NDArray[np.float32]  # (n,) of the word's label
    start_s: float
    end_s: float  # a trigger that fires up to here has heard it


def curves_of(
    label: str, condition: str, words: list[Said], wanted: Iterable[Family]
) -> list[Curve]:
    """A curve for each of the families."""
    curves: dict[Family, list[float]] = {family: [] for family in wanted}
    for word in words:
        is_inside = (word.times_s >= word.start_s) & (word.times_s <= word.end_s)
        means: dict[float, NDArray[np.float64]] = {}
        for family, logits in curves.items():
            ms = family.smoothing_ms
            if ms not in means:
                means[ms] = smooth(word.times_s, word.scores, ms)
            held = hold(means[ms], np.zeros(len(means[ms]), np.bool_), family.min_hits)
            logits.append(_rounded(float(held[is_inside].max(initial=0.0))))
    return [
        Curve(
            label=label,
            condition=condition,
            smoothing_ms=family.smoothing_ms,
            min_hits=family.min_hits,
            logits=tuple(sorted(logits)),
        )
        for family, logits in curves.items()
    ]


_BEFORE_S = 1.5  # of a word: more than smoothing and hits reach back over


def _around(hops: HopScores, word: Word, label: str) -> Said:
    end_s = word.end_s + TOLERANCE_S
    first, last = np.searchsorted(hops.times_s, [word.start_s - _BEFORE_S, end_s + 1e-6])
    return Said(
        hops.times_s[first:last],
        hops.scores[first:last, hops.labels.index(label)],
        word.start_s,
        end_s,
    )


def _rounded(score: float) -> float:
    """The logit of a score, down to two digits."""
    if score <= 0:
        return _NEVER
    if score >= 1:
        return -_NEVER
    found = math.floor(logit(score) * _STEPS) / _STEPS
    return min(max(found, _NEVER), -_NEVER)
