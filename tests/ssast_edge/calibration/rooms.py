"""Rooms without audio: scores drawn at random, of hops of 80 ms."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ssast_edge.calibration.grid import Reach, reach_of
from ssast_edge.calibration.room import Keeper, Room, Stretch
from ssast_edge.trigger import TriggerConfig

HOP_S = 0.08
LABELS = ("alexa", "computer")
TRIGGERS = {
    "alexa": TriggerConfig(threshold=0.9, smoothing_ms=160, min_hits=2),
    "computer": TriggerConfig(threshold=0.8),
}
Scores = NDArray[np.float32]


def bursts(rng: np.random.Generator, hops: int, labels: int = len(LABELS)) -> Scores:
    """Quiet scores with bumps of some hops that reach anywhere from 0 to 1, a few of them NaN."""
    logits = rng.normal(-7, 1, (hops, labels))
    for _ in range(max(1, hops // 25)):
        first, label = rng.integers(hops), rng.integers(labels)
        length = int(rng.integers(1, 9))
        logits[first : first + length, label] = rng.normal(rng.uniform(-4, 6), 1)
    scores = (1 / (1 + np.exp(-logits))).astype(np.float32)
    scores[rng.random(scores.shape) < 0.002] = np.nan
    return scores


def stretch(
    rng: np.random.Generator,
    scores: Scores,
    *,
    gaps: int = 0,
    said: tuple[tuple[float, float], ...] = (),
    keep: Reach | None = None,
) -> Stretch:
    """A stretch of these scores with so many gaps; keep: only the hops that this wants."""
    hops = len(scores)
    is_after_gap = np.zeros(hops, np.bool_)
    is_after_gap[rng.integers(0, hops, gaps)] = True
    lost_s = np.cumsum(is_after_gap * rng.choice([0.05, 0.3, 2.0], hops))
    times_s = HOP_S * (1 + np.arange(hops)) + lost_s
    heard_s = HOP_S * hops
    if keep is None:
        return Stretch("room.wav", "", heard_s, times_s, scores, is_after_gap, said)
    keeper = Keeper(keep)
    parts = []
    for index in range(hops):
        keeper.add(float(times_s[index]), scores[index], bool(is_after_gap[index]))
        if rng.random() < 0.02:  # a record of the state ends here
            parts.append(keeper.take())
    parts.append(keeper.take())
    columns = [
        np.concatenate([p[i] for p in parts if len(p[0])] or [parts[0][i]]) for i in (0, 1, 2)
    ]
    kept = columns[1].reshape(-1, scores.shape[1])
    return Stretch("room.wav", "", heard_s, columns[0], kept, columns[2], said)


def room(seed: int, *, hops: int = 600, stretches: int = 2, **how: object) -> Room:
    """A room of bursts; the same seed gives the same scores and gaps."""
    rng = np.random.default_rng(seed)
    reach = reach_of(TRIGGERS.values(), 80)
    scores = [bursts(rng, hops) for _ in range(stretches)]
    seeds = rng.integers(1 << 30, size=stretches)
    made: Callable[..., Stretch] = stretch
    return Room(
        LABELS,
        reach,
        tuple(made(np.random.default_rng(s), x, **how) for s, x in zip(seeds, scores, strict=True)),
    )
