"""One case that is open: its model, its stream, and everything measured of it so far."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssast_edge.backends import next_hop, open_backend
from ssast_edge.bench.durations import Durations
from ssast_edge.bench.plan import Case
from ssast_edge.bench.series import Series
from ssast_edge.bench.stages import BatchBackend, StageClock
from ssast_edge.errors import BackendMissing
from ssast_edge.spotter import Spotter

FloatArray = NDArray[np.float32]

BLOCK_MS = 80  # audio comes in blocks of this length, as from our microphone
_SETTLING = 2  # inferences after another case had the caches, not counted
_AUDIO_S = 4.0
_STABLE = 0.02  # warm when the medians of two batches differ by less, twice in a row
_WARM_BATCH = 8
_ROUNDS = 1024


@dataclass
class SliceCost:
    """What a slice of measurement took."""

    inferences: int = 0
    audio_s: float = 0.0
    wall_s: float = 0.0
    cpu_s: float = 0.0

    def add(self, other: "SliceCost") -> None:
        """Sum both up."""
        self.inferences += other.inferences
        self.audio_s += other.audio_s
        self.wall_s += other.wall_s
        self.cpu_s += other.cpu_s


class CaseRun:
    """Opens the model and measures it slice by slice.

    engine: windows of log-mel to logits, `batch` at a time. hop: audio to triggers, for a batch of
    one only. Raises SsastEdgeError when the case cannot run here.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        backend = open_backend(
            case.bundle, kind=case.backend, precision=case.precision, threads=case.threads
        )
        self.backend_name = backend.name
        self.clock = StageClock(backend)
        window = np.ascontiguousarray(case.bundle.golden.fbank)
        self.infer: Callable[[], object]
        if case.batch == 1:
            self.infer = next_hop(backend, window)
        else:
            infer_batch = _batched(backend, case.batch)
            windows = np.repeat(window[None], case.batch, axis=0)
            self.infer = lambda: infer_batch(windows)
        self.engine = Durations()
        self.engine_cost = SliceCost()
        self.hop_cost = SliceCost()
        self.missed_deadlines = 0
        self.rounds = Series(("time_s", "engine_ms", "hop_ms", "engine_max_ms"), length=_ROUNDS)
        self.energy_j: dict[str, list[float]] = {}  # meter -> [engine, hop]
        self.warm_up: dict[str, Any] = {}
        self.memory: dict[str, Any] = {}
        self.gpu_memory_mb: float | None = None
        self._spotter = Spotter(
            case.bundle, backend=self.clock.backend, on_scores=self.clock.scores
        )
        self._audio = _audio(case.bundle.fbank.sample_rate)
        self._position = 0

    @property
    def has_hops(self) -> bool:
        """Whether a stream is measured too: a batch has no stream."""
        return self.case.batch == 1

    def warm(self, most_s: float) -> None:
        """Infer until two batches in a row were as fast as the one before, or time is over."""
        began_s = perf_counter()
        medians: list[float] = []
        inferences, calm = 0, 0
        while calm < 2 and perf_counter() - began_s < most_s:
            durations = []
            for _ in range(_WARM_BATCH):
                start_s = perf_counter()
                self.infer()
                durations.append(perf_counter() - start_s)
            inferences += _WARM_BATCH
            medians.append(float(np.median(durations)))
            if len(medians) > 1:
                is_calm = abs(medians[-1] / medians[-2] - 1) < _STABLE
                calm = calm + 1 if is_calm else 0
        self.warm_up = {
            "inferences": inferences,
            "duration_s": perf_counter() - began_s,
            "is_stable": calm >= 2,
        }

    def engine_slice(self, most_s: float, most_count: int) -> list[float]:
        """Durations in ms of at least one inference; Ctrl-C leaves those before it counted."""
        for _ in range(_SETTLING):
            self.infer()
        durations: list[float] = []
        infer = self.infer
        cpu_s, began_s = process_time(), perf_counter()
        until_s, now_s = began_s + most_s, began_s
        try:
            while not durations or (now_s < until_s and len(durations) < most_count):
                infer()
                start_s, now_s = now_s, perf_counter()
                durations.append(1000 * (now_s - start_s))
        finally:
            cost = SliceCost(len(durations), 0.0, now_s - began_s, process_time() - cpu_s)
            self.engine.extend(durations)
            self.engine_cost.add(cost)
        return durations

    def hop_slice(self, most_s: float, most_count: int) -> list[float]:
        """Costs in ms of at least one hop, audio to triggers, in blocks as of a microphone."""
        while self.clock.pending() < _SETTLING:
            self._push()
        self.clock.clear()
        hop_ms = self.case.bundle.hop_ms
        cpu_s, began_s = process_time(), perf_counter()
        until_s = began_s + most_s
        costs: list[float] = []
        try:
            while not (pending := self.clock.pending()) or (
                perf_counter() < until_s and pending < most_count
            ):
                self._push()
        finally:
            wall_s, cpu_s = perf_counter() - began_s, process_time() - cpu_s
            costs = self.clock.take()
            self.missed_deadlines += sum(cost_ms > hop_ms for cost_ms in costs)
            self.hop_cost.add(SliceCost(len(costs), len(costs) * hop_ms / 1000, wall_s, cpu_s))
        return costs

    def add_energy(self, spent_j: dict[str, float], *, is_hop: bool) -> None:
        """Joules by meter of the slice that was measured last."""
        for meter, energy_j in spent_j.items():
            self.energy_j.setdefault(meter, [0.0, 0.0])[is_hop] += energy_j

    def close(self) -> None:
        """Free the model."""
        self.clock.backend.close()

    def _push(self) -> None:
        size = self.case.bundle.fbank.sample_rate * BLOCK_MS // 1000
        block = self._audio[self._position : self._position + size]
        self._position = (self._position + size) % (len(self._audio) - size)
        self.clock.begin()
        self._spotter.push(block)
        self.clock.end()


def _batched(backend: object, batch: int) -> Callable[[FloatArray], FloatArray]:
    if not isinstance(backend, BatchBackend) or backend.max_batch < 1:
        raise BackendMissing(f"batch {batch}: this backend takes one window at a time")
    if backend.max_batch < batch:
        raise BackendMissing(
            f"batch {batch}: the model file has a fixed batch of {backend.max_batch}"
            if backend.max_batch == 1
            else f"batch {batch}: the model takes at most {backend.max_batch} windows"
        )
    return backend.infer_batch


def _audio(sample_rate: int) -> FloatArray:
    """Quiet noise, some seconds of it: what it takes does not depend on what is heard."""
    noise = np.random.default_rng(0).standard_normal(round(_AUDIO_S * sample_rate))
    return (0.02 * noise).astype(np.float32)
