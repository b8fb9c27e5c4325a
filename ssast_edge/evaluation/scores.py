"""Runs a bundle over a track through the device's own runtime.

Scores are computed once; triggers are then replayed over them as often as wanted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ssast_edge.backends import Backend
from ssast_edge.bundle import Bundle
from ssast_edge.evaluation.matching import Score, match
from ssast_edge.evaluation.reel import Audio
from ssast_edge.evaluation.track import Track
from ssast_edge.spotter import Detection, Spotter
from ssast_edge.trigger import Trigger, TriggerConfig

__all__ = ["THRESHOLDS", "HopScores", "replay", "run_bundle", "sweep"]

THRESHOLDS = 1 / (1 + np.exp(-np.arange(-3.0, 6.01, 0.125)))  # of `sweep`

_BLOCK = 16000 * 5


@dataclass(frozen=True)
class HopScores:
    """times_s: (H,) audio time of each hop; scores: (H, labels) unsmoothed."""

    labels: tuple[str, ...]
    times_s: NDArray[np.float64]
    scores: NDArray[np.float32]


def run_bundle(
    bundle: Bundle,
    samples: Audio,
    progress: Callable[[int], object] | None = None,
    *,
    backend: Backend | None = None,
) -> HopScores:
    """Scores of every hop of a track, from the streaming runtime itself.

    progress: called with the number of samples of each block that is done. backend: an open model
    of the bundle, else its first that can be run.
    """
    times: list[float] = []
    scores: list[NDArray[np.float32]] = []

    def keep(time_s: float, values: NDArray[np.float32]) -> None:
        times.append(time_s)
        scores.append(values.copy())

    spotter = Spotter(bundle, backend=backend, on_scores=keep)
    for first in range(0, len(samples), _BLOCK):
        block = samples[first : first + _BLOCK]
        spotter.push(block)
        if progress is not None:
            progress(len(block))
    return HopScores(bundle.labels, np.array(times), np.array(scores, dtype=np.float32))


def replay(hops: HopScores, triggers: Mapping[str, TriggerConfig]) -> list[Detection]:
    """Detections that these triggers give on those scores, in time order."""
    found: list[Detection] = []
    for label, config in triggers.items():
        trigger = Trigger(config)
        column = hops.scores[:, hops.labels.index(label)]
        kept = _worth_replaying(hops.times_s, column, config)
        for time_s, score in zip(hops.times_s[kept].tolist(), column[kept].tolist(), strict=True):
            fired = trigger.update(score, time_s)
            if fired is not None:
                found.append(Detection(label, time_s, fired))
    return sorted(found, key=lambda d: d.time_s)


def _worth_replaying(
    times_s: NDArray[np.float64], scores: NDArray[np.float32], config: TriggerConfig
) -> NDArray[np.intp]:
    """Hops that can matter for this trigger; the detections are those of all hops.

    In long stretches of scores too low to fire or to keep it disarmed, only the hops that smoothing
    reaches over are kept: about one in thirty.
    """
    low = scores < 0.5 * config.rearm * config.threshold
    hop_s = float(np.median(np.diff(times_s))) if len(times_s) > 1 else 1.0
    reach = 2 + int(np.ceil(config.smoothing_ms / 1000 / hop_s)) + config.min_hits
    # Not mode="same": it gives more values than scores where those are fewer than the kernel.
    near = np.convolve(~low, np.ones(2 * reach + 1))[reach : reach + len(low)] > 0
    return np.flatnonzero(near)


def sweep(
    hops: HopScores, track: Track, label: str, base: TriggerConfig
) -> list[tuple[float, Score]]:
    """(threshold, score) of one label over a fixed grid of thresholds."""
    results = []
    for threshold in THRESHOLDS.tolist():
        events = replay(hops, {label: replace(base, threshold=threshold)})
        results.append((threshold, match(track.words, events, hours=track.hours, label=label)))
    return results
