"""How long after a word's end it is detected, and where that time goes.

Three parts of audio time add up for each word: until the first hop after the word's end, from there
until the raw score reaches the threshold (below zero where it does so while the word is still being
said), and from there until the trigger fires: smoothing and minimum hits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssast_edge.evaluation.matching import TOLERANCE_S
from ssast_edge.evaluation.scores import HopScores
from ssast_edge.evaluation.track import Word
from ssast_edge.spotter import Detection
from ssast_edge.trigger import TriggerConfig

__all__ = ["STAGES", "Delay", "delays_of", "quantiles", "summary"]

# Part of a delay -> what it is, for people.
STAGES = {
    "hop_wait": "until the first hop after the word's end",
    "recognition": "from that hop until the raw score reaches the threshold; negative: before it",
    "trigger": "from there until it fires: smoothing and minimum hits",
}
_PERCENTS = (50, 90, 99)


@dataclass(frozen=True)
class Delay:
    """Of one word that was detected, seconds; the three parts add up to the total."""

    label: str
    total_s: float
    hop_wait_s: float
    recognition_s: float
    trigger_s: float


def delays_of(
    hops: HopScores,
    words: Sequence[Word],
    events: Sequence[Detection],
    triggers: Mapping[str, TriggerConfig],
) -> list[Delay]:
    """Of each word's first detection. Sounds, whose end is that of their recording, have none."""
    found = []
    for word in words:
        if word.kind != "keyword":
            continue
        inside = [
            event.time_s
            for event in events
            if event.label == word.label
            and word.start_s <= event.time_s <= word.end_s + TOLERANCE_S
        ]
        if inside:
            found.append(_delay(hops, word, min(inside), triggers[word.label]))
    return found


def quantiles(values: Sequence[float]) -> dict[str, float] | None:
    """p50, p90, p99 (nearest rank) in seconds; None without values."""
    if not values:
        return None
    ranked = np.sort(values)
    ranks = [max(0, int(np.ceil(len(ranked) * percent / 100)) - 1) for percent in _PERCENTS]
    return {
        f"p{percent}": round(float(ranked[rank]), 4)
        for percent, rank in zip(_PERCENTS, ranks, strict=True)
    }


def summary(delays: Sequence[Delay]) -> dict[str, Any]:
    """Quantiles of the whole and of each part."""
    parts = {"total": [delay.total_s for delay in delays]}
    parts |= {stage: [getattr(delay, f"{stage}_s") for delay in delays] for stage in STAGES}
    return {"words": len(delays), **{name: quantiles(values) for name, values in parts.items()}}


def _delay(hops: HopScores, word: Word, fired_s: float, config: TriggerConfig) -> Delay:
    times = hops.times_s
    after = float(times[min(int(np.searchsorted(times, word.end_s)), len(times) - 1)])
    reach_s = config.smoothing_ms / 1000
    first, last = np.searchsorted(times, [word.start_s - reach_s, fired_s + 1e-9])
    raw = hops.scores[first:last, hops.labels.index(word.label)]
    reached = np.flatnonzero(raw >= config.threshold)
    reached_s = float(times[first + reached[0]]) if len(reached) else fired_s
    return Delay(
        word.label,
        fired_s - word.end_s,
        after - word.end_s,
        reached_s - after,
        fired_s - reached_s,
    )
