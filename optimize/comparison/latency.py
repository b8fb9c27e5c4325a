"""Latencies side by side in one run, so that what slows the machine slows all of them.

Knows callables only. Ratios are of CPU time, which another process cannot lengthen much; medians
and percentiles are of the wall clock.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

__all__ = ["Latency", "interleaved"]

_WARM_UP = 3
_ROUND_S = 0.03  # each takes about so long in a round, whatever one call takes
_MOST_CALLS = 64


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call, and what they are of the first one's."""

    median_ms: float
    p95_ms: float
    cpu_ms: float  # median over the rounds
    ratio: float  # of the CPU time to the first one's: median over the rounds
    ratio_low: float  # middle half of the rounds
    ratio_high: float


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 40,
    progress: Callable[[], object] = lambda: None,
) -> dict[str, Latency]:
    """Run every call some times in every round, one after the other; ratios are to the first.

    progress: called after each round.
    """
    if not calls or rounds < 4:
        raise ValueError(f"{len(calls)} calls in {rounds} rounds: wanted one and 4 at least")
    repeats = {name: _repeats(call) for name, call in calls.items()}
    wall: dict[str, list[float]] = {name: [] for name in calls}
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.process_time()
            for _ in range(repeats[name]):
                before = time.perf_counter()
                call()
                wall[name].append(1e3 * (time.perf_counter() - before))
            cpu[name].append(1e3 * (time.process_time() - started) / repeats[name])
        progress()
    first = next(iter(calls))
    found = {}
    for name in calls:
        ratios = [a / b for a, b in zip(cpu[name], cpu[first], strict=True)]
        low, ratio, high = statistics.quantiles(ratios, n=4, method="inclusive")
        found[name] = Latency(
            statistics.median(wall[name]),
            statistics.quantiles(wall[name], n=20, method="inclusive")[-1],
            statistics.median(cpu[name]),
            ratio,
            low,
            high,
        )
    return found


def _repeats(call: Callable[[], object]) -> int:
    """Calls that fill a round, found while it warms up."""
    for _ in range(_WARM_UP):
        before = time.perf_counter()
        call()
        once = time.perf_counter() - before
    return min(_MOST_CALLS, max(1, round(_ROUND_S / max(once, 1e-6))))
