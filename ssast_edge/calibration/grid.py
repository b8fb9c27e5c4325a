"""The settings of a trigger that calibration chooses among, and the hops that can matter for any.

A hop whose score is far below what any of them would hit, or stay disarmed by, need not be kept,
unless smoothing or a run of hits reaches over it. Knows nothing of audio and models.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ssast_edge.trigger import TriggerConfig

SMOOTHING_MS = (0.0, 160.0, 240.0, 320.0)
MIN_HITS = (1, 2, 3)
_LOGITS = tuple(-3 + step / 8 for step in range(97))  # -3 to 9


@dataclass(frozen=True)
class Family:
    """Settings that differ in the threshold alone."""

    smoothing_ms: float
    min_hits: int

    @property
    def wait_ms(self) -> float:
        """About how long it waits for evidence, at a hop of 80 ms."""
        return self.smoothing_ms / 2 + 80 * (self.min_hits - 1)


def logit(threshold: float) -> float:
    """The logit of a score in (0, 1)."""
    return math.log(threshold / (1 - threshold))


def threshold_of(logit: float) -> float:
    """The score of a logit, to six digits."""
    return round(1 / (1 + math.exp(-logit)), 6)


THRESHOLDS = tuple(threshold_of(x) for x in _LOGITS)  # ascending


def family_of(trigger: TriggerConfig) -> Family:
    """The family that a trigger is of."""
    return Family(trigger.smoothing_ms, trigger.min_hits)


def families(triggers: Iterable[TriggerConfig]) -> list[Family]:
    """Every combination of the grid, and those of `triggers`, the quickest first."""
    all_of_them = {Family(ms, hits) for ms in SMOOTHING_MS for hits in MIN_HITS}
    all_of_them |= {family_of(trigger) for trigger in triggers}
    return sorted(all_of_them, key=lambda f: (f.wait_ms, f.smoothing_ms))


@dataclass(frozen=True)
class Reach:
    """Which hops are kept: those at or above `floor`, and `hops` hops before and after each."""

    floor: float  # score
    hops: int

    def covers(self, other: "Reach") -> bool:
        """Whether what it keeps is enough for `other`."""
        return self.floor <= other.floor and self.hops >= other.hops


def reach_of(triggers: Iterable[TriggerConfig], hop_ms: int) -> Reach:
    """What must be kept so that each of these triggers, at any threshold of the grid, is exact."""
    triggers = list(triggers)
    # The mean of scores below the floor must be below the floor too: rounding is no matter then.
    rearm = 0.9 * min(trigger.rearm for trigger in triggers)
    lowest = min(THRESHOLDS[0], *(trigger.threshold for trigger in triggers))
    grid = families(triggers)
    smoothed = math.ceil(max(family.smoothing_ms for family in grid) / hop_ms)
    return Reach(rearm * lowest, 2 + smoothed + max(family.min_hits for family in grid))
