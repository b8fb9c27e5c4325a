"""What was heard of a room: the scores of the hops that can matter, and how long it was heard.

A `Stretch` is one recording or one session at a microphone: a stream of its own, at whose start
every trigger begins anew. Knows nothing of how the scores were made or kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssast_edge.calibration.grid import Reach
from ssast_edge.trigger import Trigger, TriggerConfig

Span = tuple[float, float]  # start_s, end_s


@dataclass(frozen=True, eq=False)
class Stretch:
    """The kept hops of one stream, n of them, and the audio that counts."""

    name: str  # of the file or the microphone
    begun: str  # date and time, ISO; empty where it is not known
    heard_s: float  # audio heard, gaps left out
    times_s: NDArray[np.float64]  # (n,) audio time of each hop, gaps included
    scores: NDArray[np.float32]  # (n, labels)
    is_after_gap: NDArray[np.bool_]  # (n,) audio was lost between this hop and the one before
    said: tuple[Span, ...] = ()  # moments that do not count: a keyword was said there

    def counts(self, time_s: float) -> bool:
        """Whether what fires at that time is a false accept."""
        return not any(start <= time_s <= end for start, end in self.said)

    @property
    def counted_s(self) -> float:
        """Audio in which a false accept would have been counted."""
        covered, until = 0.0, 0.0
        for start, end in sorted(self.said):
            start = max(start, until)
            if end > start:
                covered, until = covered + end - start, end
        return max(0.0, self.heard_s - covered)


@dataclass(frozen=True)
class Firing:
    """A trigger fired where nobody had said the keyword."""

    stretch: int  # index into the room's
    time_s: float  # audio time in it
    score: float


@dataclass(frozen=True, eq=False)
class Room:
    """All that was heard."""

    labels: tuple[str, ...]  # of the columns of each stretch's scores
    reach: Reach  # of what was kept
    stretches: tuple[Stretch, ...]

    @property
    def hours(self) -> float:
        """Audio in which a false accept would have been counted."""
        return sum(stretch.counted_s for stretch in self.stretches) / 3600

    def firings(self, label: str, config: TriggerConfig) -> list[Firing]:
        """What the trigger itself does with these scores: false accepts, in order."""
        column = self.labels.index(label)
        found = []
        for index, stretch in enumerate(self.stretches):
            trigger = Trigger(config)
            hops = zip(
                stretch.times_s.tolist(),
                stretch.scores[:, column].tolist(),
                stretch.is_after_gap.tolist(),
                strict=True,
            )
            for time_s, score, is_after_gap in hops:
                if is_after_gap:
                    trigger.interrupt()
                fired = trigger.update(score, time_s)
                if fired is not None and stretch.counts(time_s):
                    found.append(Firing(index, time_s, fired))
        return found


class Keeper:
    """Picks the hops that `Reach` wants out of a stream, as they come."""

    def __init__(self, reach: Reach, after: int = 0) -> None:
        """after: how many of the next hops are kept because of those before."""
        self.after = after
        self._reach = reach
        self._before: list[tuple[float, Sequence[float], bool]] = []
        self._kept: list[tuple[float, Sequence[float], bool]] = []

    def add(self, time_s: float, scores: NDArray[np.float32], is_after_gap: bool) -> None:
        """Take the scores of one hop, shape (labels,)."""
        hop = (time_s, scores.tolist(), is_after_gap)
        # `not <`: a score that is no number ends a run of hits, which matters.
        if not bool(np.all(scores < self._reach.floor)):
            self._kept += [*self._before, hop]
            self._before.clear()
            self.after = self._reach.hops
        elif self.after:
            self._kept.append(hop)
            self.after -= 1
        else:
            self._before.append(hop)
            del self._before[: -self._reach.hops]

    def take(self) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.bool_]]:
        """Times, scores and gaps of what was kept since the last time.

        The last hops are among them, whether they will matter or not: then what comes next needs
        nothing from before.
        """
        hops = [*self._kept, *self._before]
        self._kept, self._before = [], []
        return (
            np.array([time_s for time_s, _, _ in hops], np.float64),
            np.array([scores for _, scores, _ in hops], np.float32),
            np.array([is_after_gap for _, _, is_after_gap in hops], np.bool_),
        )
