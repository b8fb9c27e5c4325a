"""How often one keyword's trigger fires in a room, at many thresholds, quickly.

`Evidence` gives what `Room.firings` gives, but a threshold costs a few comparisons of arrays
instead of a replay of every hop.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ssast_edge.calibration.room import Firing, Room
from ssast_edge.trigger import TIME_TOLERANCE_S, Trigger, TriggerConfig


class Evidence:
    """The smoothed scores of one keyword in a room."""

    def __init__(self, room: Room, label: str, smoothing_ms: float) -> None:
        self._smoothing_ms = smoothing_ms
        column = room.labels.index(label)
        times, smoothed, breaks, stretches, hops = [], [], [], [], []
        self._room = room
        offset_s = 0.0
        for index, stretch in enumerate(room.stretches):
            scores = stretch.scores[:, column] if len(stretch.scores) else np.zeros(0, np.float32)
            kept = _near(scores, room.reach.floor, room.reach.hops)
            # A hop of silence before each stretch arms the trigger again, and the time between
            # is more than any refractory time that the stretch before could leave.
            times.append(np.concatenate([[0.0], stretch.times_s[kept]]) + offset_s)
            means = smooth(stretch.times_s[kept], scores[kept], smoothing_ms)
            smoothed.append(np.concatenate([[0.0], means]))
            breaks.append(np.concatenate([[True], stretch.is_after_gap[kept]]))
            stretches.append(np.full(len(kept) + 1, index))
            hops.append(np.concatenate([[0], kept]))
            offset_s = float(times[-1][-1]) + _APART_S
        self._times_s = np.concatenate([*times, np.zeros(0)])
        self._smoothed = np.concatenate([*smoothed, np.zeros(0)])
        self._breaks = np.concatenate([*breaks, np.zeros(0, np.bool_)]).astype(np.bool_)
        # Where in the room each of them comes from.
        self._stretches = np.concatenate([*stretches, np.zeros(0, np.intp)]).astype(np.intp)
        self._hops = np.concatenate([*hops, np.zeros(0, np.intp)]).astype(np.intp)
        self._held: dict[int, NDArray[np.float64]] = {}

    def is_of(self, config: TriggerConfig) -> bool:
        """Whether config has this smoothing."""
        return config.smoothing_ms == self._smoothing_ms

    def held(self, min_hits: int) -> NDArray[np.float64]:
        """The highest threshold at which each hop ends a run of `min_hits` hits."""
        if min_hits not in self._held:
            self._held[min_hits] = hold(self._smoothed, self._breaks, min_hits)
        return self._held[min_hits]

    def firings(self, config: TriggerConfig, limit: int | None = None) -> list[Firing]:
        """False accepts in order, at most `limit` of them; config has this smoothing."""
        assert self.is_of(config)
        able = np.flatnonzero(self.held(config.min_hits) >= config.threshold)
        below = np.flatnonzero(self._smoothed < config.rearm * config.threshold)
        found: list[Firing] = []
        place = 0
        while place < len(able) and (limit is None or len(found) < limit):
            hop = int(able[place])
            firing = self._firing(hop)
            if self._room.stretches[firing.stretch].counts(firing.time_s):
                found.append(firing)
            armed = np.searchsorted(below, hop, side="right")
            if armed == len(below):
                break
            quiet_s = self._times_s[hop] + config.refractory_s - TIME_TOLERANCE_S
            loud = int(np.searchsorted(self._times_s, quiet_s))
            place = int(np.searchsorted(able, max(int(below[armed]), loud)))
        return found

    def peaks(self, min_hits: int, apart_s: float) -> list[Firing]:
        """The loudest moments, the loudest first, at least `apart_s` from each other.

        Their score is the highest threshold at which the trigger would fire there.
        """
        held = self.held(min_hits)
        found: list[Firing] = []
        taken: list[float] = []
        for hop in np.argsort(-held, kind="stable").tolist():
            if not held[hop] > 0:
                break
            time_s = float(self._times_s[hop])
            if any(abs(time_s - other) < apart_s for other in taken):
                continue
            firing = replace(self._firing(hop), score=float(held[hop]))
            if self._room.stretches[firing.stretch].counts(firing.time_s):
                taken.append(time_s)
                found.append(firing)
            if len(found) == _MOST_PEAKS:
                break
        return found

    def timeline(self, min_hits: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Audio heard until each hop, s (the stretches one after the other), and `held` there."""
        starts = np.cumsum([0.0, *(stretch.heard_s for stretch in self._room.stretches)])
        firsts = np.flatnonzero(np.diff(self._stretches, prepend=-1))
        since_s = self._times_s - self._times_s[firsts][self._stretches]
        return starts[self._stretches] + since_s, self.held(min_hits)

    def _firing(self, hop: int) -> Firing:
        stretch = int(self._stretches[hop])
        time_s = float(self._room.stretches[stretch].times_s[self._hops[hop]])
        return Firing(stretch, time_s, float(self._smoothed[hop]))


_APART_S = 1e5
_MOST_PEAKS = 12


def smooth(
    times_s: NDArray[np.float64], scores: NDArray[np.float32], smoothing_ms: float
) -> NDArray[np.float64]:
    """The smoothed score of each hop, (n,), as the trigger has it; NaN where the score is none."""
    if not smoothing_ms:
        return np.where(np.isfinite(scores), scores, np.nan).astype(np.float64)
    trigger = Trigger(TriggerConfig(smoothing_ms=smoothing_ms))
    means = np.empty(len(scores))
    for index, (time_s, score) in enumerate(zip(times_s.tolist(), scores.tolist(), strict=True)):
        trigger.update(score, time_s)
        means[index] = trigger.smoothed
    means[~np.isfinite(scores)] = np.nan
    return means


def hold(
    smoothed: NDArray[np.float64], breaks: NDArray[np.bool_], min_hits: int
) -> NDArray[np.float64]:
    """The least of each `min_hits` consecutive values, (n,); 0 where there are not so many."""
    held: NDArray[np.float64] = np.where(np.isfinite(smoothed), smoothed, 0.0)
    run: NDArray[np.float64] = held.copy()
    for back in range(1, min_hits):
        # Hop i reaches over hop i - back + 1, which must not be the first after a gap.
        is_cut = np.ones(len(held), np.bool_)
        is_cut[back:] = breaks[1 : len(held) - back + 1]
        before = np.zeros(len(held))
        before[back:] = held[: len(held) - back]
        run = np.where(is_cut, 0.0, np.minimum(run, before))
    return run


def _near(scores: NDArray[np.float32], floor: float, reach: int) -> NDArray[np.intp]:
    """Places of the scores at or above the floor and of `reach` on both sides of each."""
    is_high = ~(scores < floor)
    near = np.convolve(is_high, np.ones(2 * reach + 1))[reach : reach + len(scores)] > 0
    return np.flatnonzero(near)
