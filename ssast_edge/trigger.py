"""When the scores of one keyword become a detection.

Knows nothing of audio, models or other keywords. Time is audio time (seconds of samples
seen), never the wall clock: a file replayed at any speed fires where the microphone did.
"""

import math
from collections import deque
from dataclasses import dataclass

# Hop times are sums of decimal milliseconds in binary floating point: two that are meant to
# be equal may differ in the last bits, by far less than one sample.
TIME_TOLERANCE_S = 1e-6


@dataclass(frozen=True, kw_only=True)
class TriggerConfig:
    """How the scores of one keyword become detections."""

    threshold: float = 0.5  # smoothed score in (0, 1) from which on a hop is a hit
    smoothing_ms: float = 0.0  # the score is the mean over the hops of this much audio; 0 = one hop
    min_hits: int = 1  # consecutive hits before it fires
    rearm: float = 0.5  # fraction of threshold below which the score must fall to fire again
    refractory_s: float = 1.0  # shortest time between two detections

    def __post_init__(self) -> None:
        """Refuse values outside their range (NaN included)."""
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold must be between 0 and 1, got {self.threshold}")
        if not 0 <= self.smoothing_ms <= 60_000:
            raise ValueError(f"smoothing_ms must be from 0 to 60000, got {self.smoothing_ms}")
        if self.min_hits < 1:
            raise ValueError(f"min_hits must be at least 1, got {self.min_hits}")
        if not 0 < self.rearm <= 1:
            raise ValueError(f"rearm must be above 0 and at most 1, got {self.rearm}")
        if not 0 <= self.refractory_s < math.inf:
            raise ValueError(f"refractory_s must be a time of 0 or more, got {self.refractory_s}")


class Trigger:
    """Smoothing, minimum hits, hysteresis and refractory time for one keyword.

    The smoothed score at time t is the mean of the scores with a time in
    (t - smoothing_ms, t]. The trigger fires when the last `min_hits` smoothed scores are at
    or above the threshold, it is armed, and `refractory_s` has passed since it last fired.
    Firing disarms it; a smoothed score below `rearm * threshold` arms it again, also within
    the refractory time. A word that begins within the refractory time and is still above the
    threshold at its end fires there.

    A hop that was never inferred is an absent update: smoothing goes by time and hits are
    counted over the updates that came. A score that is not finite is no evidence: it never
    fires, is left out of the mean, ends a run of hits and does not re-arm.
    """

    def __init__(self, config: TriggerConfig) -> None:
        """Start at the beginning of a stream, armed."""
        self.config = config
        # No smoothing is the shortest window that still holds the hop itself.
        self._smoothing_s = max(config.smoothing_ms / 1000, 2 * TIME_TOLERANCE_S)
        self._rearm_below = config.rearm * config.threshold
        self._recent: deque[tuple[float, float]] = deque()  # (time_s, score), finite scores only
        self._quiet_until_s = -math.inf
        self.reset()

    @property
    def smoothed(self) -> float:
        """The last smoothed score; 0 before the first."""
        return self._smoothed

    def update(self, score: float, time_s: float) -> float | None:
        """Feed the score of the hop that ends at `time_s`; the smoothed score if it fires."""
        is_finite = math.isfinite(score)
        if is_finite:
            self._recent.append((time_s, score))
        self._smoothed = self._mean_until(time_s)
        if not is_finite:
            self._hits = 0
            return None
        if self._smoothed < self._rearm_below:
            self._is_armed = True
        self._hits = self._hits + 1 if self._smoothed >= self.config.threshold else 0
        if not self._is_armed or self._hits < self.config.min_hits:
            return None
        if time_s < self._quiet_until_s - TIME_TOLERANCE_S:
            return None
        self._is_armed = False
        self._hits = 0
        self._quiet_until_s = time_s + self.config.refractory_s
        return self._smoothed

    def interrupt(self) -> None:
        """Tell of a gap in the audio: hits before it and after it are not consecutive."""
        self._hits = 0

    def reset(self) -> None:
        """Forget everything: a new stream begins at time 0."""
        self._recent.clear()
        self._smoothed = 0.0
        self._hits = 0
        self._is_armed = True
        self._quiet_until_s = -math.inf

    def _mean_until(self, time_s: float) -> float:
        oldest_s, recent = time_s - self._smoothing_s + TIME_TOLERANCE_S, self._recent
        while recent and recent[0][0] < oldest_s:
            recent.popleft()
        if not recent:
            return 0.0
        # Summed anew each time: a running sum would drift over days of listening.
        return sum([score for _, score in recent]) / len(recent)
