"""When triggers fire on scores that are already there, for any threshold, without a loop over hops.

The same rule as `ssast_edge.trigger.Trigger`: mean over the smoothing time, minimum hits, rearming,
refractory time. Curves need it at dozens of thresholds; what is reported at a bundle's own
thresholds is replayed through the trigger itself.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssast_edge.trigger import TIME_TOLERANCE_S, Trigger, TriggerConfig

__all__ = ["Smoothed", "smooth"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Smoothed:
    """One label's scores, smoothed. times_s, raw, means: (H,)."""

    times_s: Floats
    raw: NDArray[np.float32]
    means: Floats
    smoothing_ms: float

    def fired(self, config: TriggerConfig) -> NDArray[np.intp]:
        """Indices of the hops at which a trigger fires; its smoothing must be this one."""
        if config.smoothing_ms != self.smoothing_ms:
            raise ValueError(f"smoothed over {self.smoothing_ms} ms, not {config.smoothing_ms}")
        if not np.isfinite(self.raw).all():
            return self._one_by_one(config)
        is_hit = self.means >= config.threshold
        ready = is_hit.copy()
        for back in range(1, config.min_hits):
            ready[back:] &= is_hit[:-back]
            ready[:back] = False
        ready_at = np.flatnonzero(ready)
        low_at = np.flatnonzero(self.means < config.rearm * config.threshold)
        found: list[int] = []
        armed_from, quiet_until_s = 0, -np.inf
        while True:
            place = int(np.searchsorted(ready_at, armed_from))
            if place == len(ready_at):
                break
            if self.times_s[ready_at[place]] < quiet_until_s:
                later = int(np.searchsorted(self.times_s, quiet_until_s))
                armed_from = max(later, armed_from + 1)
                continue
            index = int(ready_at[place])
            found.append(index)
            quiet_until_s = self.times_s[index] + config.refractory_s - TIME_TOLERANCE_S
            place = int(np.searchsorted(low_at, index))
            if place == len(low_at):
                break
            armed_from = int(low_at[place])
        return np.array(found, np.intp)

    def _one_by_one(self, config: TriggerConfig) -> NDArray[np.intp]:
        trigger = Trigger(config)
        pairs = zip(self.raw.tolist(), self.times_s.tolist(), strict=True)
        fired = [trigger.update(score, time_s) is not None for score, time_s in pairs]
        return np.flatnonzero(fired)


def smooth(times_s: Floats, scores: NDArray[np.float32], smoothing_ms: float) -> Smoothed:
    """The mean of the scores within each hop's last `smoothing_ms`, as the trigger takes it."""
    window_s = max(smoothing_ms / 1000, 2 * TIME_TOLERANCE_S)
    first = np.searchsorted(times_s, times_s - window_s + TIME_TOLERANCE_S)
    total = np.concatenate([[0.0], np.cumsum(scores, dtype=np.float64)])
    last = np.arange(1, len(scores) + 1)
    means = (total[last] - total[first]) / np.maximum(last - first, 1)
    alone = last - first == 1  # to the bit: no sum is taken
    means[alone] = scores[alone]
    return Smoothed(times_s, scores, means, smoothing_ms)
