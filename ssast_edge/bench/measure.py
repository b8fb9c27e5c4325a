"""Measures all cases of a grid in turns, so that what disturbs the machine disturbs each alike.

A round gives every case one slice of inferences and one of a stream; each round begins with another
case. Comparisons are made within rounds. Ctrl-C ends it with what there is.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ssast_edge.bench.case_run import CaseRun
from ssast_edge.bench.plan import Budget, Case
from ssast_edge.bench.probe import probe
from ssast_edge.bench.sampler import Sampler
from ssast_edge.energy import AbsentMeter, open_meters
from ssast_edge.errors import SsastEdgeError

_ROUNDS = 20  # at least, where the time allows it
_LONGEST_SLICE_S = 1.0
_SHORTEST_SLICE_S = 0.02
_IDLE_S = 2.0

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Unavailable:
    """A case that cannot run here."""

    case: Case
    reason: str


@dataclass
class Measurement:
    """Everything that was measured."""

    sampler: Sampler
    absent_meters: list[AbsentMeter]
    runs: list[CaseRun] = field(default_factory=list)
    unavailable: list[Unavailable] = field(default_factory=list)
    rounds: int = 0
    is_partial: bool = False
    duration_s: float = 0.0
    idle_w: dict[str, float] = field(default_factory=dict)  # by meter, nothing of ours running


def measure(cases: Sequence[Case], budget: Budget, *, progress: Progress) -> Measurement:
    """Open, warm up and measure every case that can run; the others are listed with the reason.

    progress: told now and then, in a few words, what goes on. Raises SsastEdgeError when no case
    can run, and KeyboardInterrupt only when nothing was measured yet.
    """
    meters, absent = open_meters()
    with Sampler(meters) as sampler:
        result = Measurement(sampler, absent)
        try:
            result.idle_w = _idle_power(sampler)
            _open_all(cases, budget, result, progress)
            _rounds(budget, result, progress)
        except KeyboardInterrupt:
            result.is_partial = True
            if not any(run.engine.count for run in result.runs):
                raise
        finally:
            for run in result.runs:
                run.close()
    result.absent_meters += [
        AbsentMeter(name=name, reason=reason) for name, reason in sampler.failures.items()
    ]
    return result


def _idle_power(sampler: Sampler) -> dict[str, float]:
    if not sampler.counters:
        return {}
    before_j, began_s = sampler.energy_j(), time.perf_counter()
    time.sleep(_IDLE_S)
    after_j, elapsed_s = sampler.energy_j(), time.perf_counter() - began_s
    return {name: (after_j[name] - before_j[name]) / elapsed_s for name in after_j}


def _open_all(
    cases: Sequence[Case], budget: Budget, result: Measurement, progress: Progress
) -> None:
    for case in cases:
        progress(f"opening {case.name}")
        before_mb = result.sampler.gpu_memory_mb()
        try:
            run = CaseRun(case)
        except SsastEdgeError as error:
            result.unavailable.append(Unavailable(case, str(error)))
            continue
        result.runs.append(run)
        run.warm(budget.warm_up_s)
        after_mb = result.sampler.gpu_memory_mb()
        if case.backend != "onnx" and before_mb is not None and after_mb is not None:
            run.gpu_memory_mb = after_mb - before_mb
        if case.batch == 1:
            run.memory = probe(case)
    if not result.runs:
        reasons = "; ".join(f"{one.case.name}: {one.reason}" for one in result.unavailable)
        raise SsastEdgeError(f"nothing can be measured here: {reasons or 'no case was given'}")


def _rounds(budget: Budget, result: Measurement, progress: Progress) -> None:
    runs, sampler = result.runs, result.sampler
    parts = sum(1 + run.has_hops for run in runs)
    if budget.count is None:
        ideal_s = budget.duration_s / (parts * _ROUNDS)
        slice_s = min(_LONGEST_SLICE_S, max(_SHORTEST_SLICE_S, ideal_s))
        slice_count = 1 << 30
    else:
        slice_s, slice_count = float("inf"), -(-budget.count // _ROUNDS)
    began_s = told_s = time.perf_counter()
    sampler.restart_clock()
    sampler.sample()
    while not _is_done(budget, result, began_s):
        first = result.rounds % len(runs)
        for run in runs[first:] + runs[:first]:
            left = 1 << 30 if budget.count is None else budget.count - run.engine.count
            _slice(run, slice_s, min(slice_count, left), sampler)
        sampler.sample()
        result.rounds += 1
        result.duration_s = now_s = time.perf_counter() - began_s
        if began_s + now_s - told_s >= 1:
            told_s = began_s + now_s
            progress(_shown(budget, result, now_s))


def _is_done(budget: Budget, result: Measurement, began_s: float) -> bool:
    if budget.count is not None:
        return all(run.engine.count >= budget.count for run in result.runs)
    return time.perf_counter() - began_s >= budget.duration_s


def _slice(run: CaseRun, slice_s: float, slice_count: int, sampler: Sampler) -> None:
    def metered(measured: Callable[[float, int], list[float]], *, is_hop: bool) -> list[float]:
        before_j = sampler.energy_j()
        durations = measured(slice_s, slice_count)
        after_j = sampler.energy_j()
        spent_j = {name: after_j[name] - before_j[name] for name in after_j if name in before_j}
        run.add_energy(spent_j, is_hop=is_hop)
        return durations

    row: dict[str, float | None] = {"time_s": sampler.time_s}
    engine_ms = metered(run.engine_slice, is_hop=False)
    row["engine_ms"], row["engine_max_ms"] = float(np.median(engine_ms)), max(engine_ms)
    if run.has_hops:
        row["hop_ms"] = float(np.median(metered(run.hop_slice, is_hop=True)))
    run.rounds.add(row)


def _shown(budget: Budget, result: Measurement, now_s: float) -> str:
    medians = [f"{run.rounds.column('engine_ms')[-1]:.2f}" for run in result.runs]
    if budget.count is not None:
        done = f"{min(run.engine.count for run in result.runs)} of {budget.count} inferences"
    else:
        done = f"{now_s:.0f} of {budget.duration_s:g} s"
    return f"{done}, ms an inference: {', '.join(medians)}"
