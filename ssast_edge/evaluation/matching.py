"""A detector's events against a track: misses, false accepts per hour, delay.

Matching is one to one: the first detection of the right label from the word's start to its end plus
`TOLERANCE_S` is a hit, further ones there are duplicates, everything else is a false accept.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ssast_edge.evaluation.intervals import miss_interval, rate_interval
from ssast_edge.evaluation.track import Word
from ssast_edge.spotter import Detection

__all__ = ["TOLERANCE_S", "Score", "match"]

TOLERANCE_S = 0.5


@dataclass(frozen=True)
class Score:
    """Counts of one label (or of all) on one track."""

    words: int
    hits: int
    false_accepts: int
    duplicates: int
    hours: float
    delays_s: tuple[float, ...]  # detection minus end of the word, of the hits
    false_times_s: tuple[float, ...]
    missed: tuple[Word, ...]
    false_events: tuple[Detection, ...] = ()

    @property
    def miss_rate(self) -> float:
        """Share of the words that were not detected."""
        return 1 - self.hits / self.words if self.words else 0.0

    @property
    def false_accepts_per_hour(self) -> float:
        """False accepts over the track's whole length."""
        return self.false_accepts / self.hours

    def summary(self) -> dict[str, object]:
        """JSON-ready figures with 95 % intervals."""
        delays = sorted(self.delays_s)
        return {
            "words": self.words,
            "missed": self.words - self.hits,
            "miss_rate": round(self.miss_rate, 4),
            "miss_rate_95": [
                round(x, 4) for x in miss_interval(self.words - self.hits, self.words)
            ],
            "false_accepts": self.false_accepts,
            "false_accepts_per_hour": round(self.false_accepts_per_hour, 3),
            "false_accepts_per_hour_95": [
                round(x, 3) for x in rate_interval(self.false_accepts, self.hours)
            ],
            "duplicates": self.duplicates,
            "delay_p50_s": round(delays[len(delays) // 2], 3) if delays else None,
            "delay_p99_s": round(delays[int(len(delays) * 0.99)], 3) if delays else None,
        }


def match(
    words: Sequence[Word],
    detections: Iterable[Detection],
    *,
    hours: float,
    label: str | None = None,
) -> Score:
    """Match events of one label, or of all labels together."""
    events = sorted((d for d in detections if label in (None, d.label)), key=lambda d: d.time_s)
    wanted = [w for w in words if label in (None, w.label)]
    by_label: dict[str, _Said] = {}
    for index, word in enumerate(wanted):
        by_label.setdefault(word.label, _Said()).add(index, word)
    hit: set[int] = set()
    delays, false_events = [], []
    duplicates = 0
    for event in events:
        said = by_label.get(event.label)
        inside = [] if said is None else said.around(event.time_s)
        fresh = [i for i in inside if i not in hit]
        if fresh:
            hit.add(fresh[0])
            delays.append(event.time_s - wanted[fresh[0]].end_s)
        elif inside:
            duplicates += 1
        else:
            false_events.append(event)
    missed = tuple(w for i, w in enumerate(wanted) if i not in hit)
    return Score(
        len(wanted), len(hit), len(false_events), duplicates, hours, tuple(delays),
        tuple(event.time_s for event in false_events), missed, tuple(false_events),
    )  # fmt: skip


class _Said:
    """The words of one label, to be found by time: an eager setting has thousands of events."""

    def __init__(self) -> None:
        self._words: list[tuple[float, float, int]] = []
        self._longest_s = 0.0
        self._is_sorted = True

    def add(self, index: int, word: Word) -> None:
        self._words.append((word.start_s, word.end_s + TOLERANCE_S, index))
        self._longest_s = max(self._longest_s, word.end_s + TOLERANCE_S - word.start_s)
        self._is_sorted = False

    def around(self, time_s: float) -> list[int]:
        """Indices of the words that a detection at that time may belong to, the first first."""
        if not self._is_sorted:
            self._words.sort()
            self._is_sorted = True
        found = []
        place = bisect_right(self._words, (time_s, math.inf, 0))
        for start_s, end_s, index in map(self._words.__getitem__, range(place - 1, -1, -1)):
            if start_s < time_s - self._longest_s:
                break
            if time_s <= end_s:
                found.append(index)
        return found[::-1]
