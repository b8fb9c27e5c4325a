"""The streaming part of `bench`: the loop of `listen`, with its stages measured."""

from collections.abc import Iterator
from time import perf_counter, process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssast_edge.audio import Block
from ssast_edge.backends import open_backend
from ssast_edge.bench.plan import Case
from ssast_edge.bench.report_json import stages_part
from ssast_edge.bench.sampler import Sampler
from ssast_edge.bench.stages import StageClock
from ssast_edge.commands.listening import Summary, listen_to
from ssast_edge.commands.source import Source, SourceConfig, open_source
from ssast_edge.energy import open_meters
from ssast_edge.spotter import Detection, Spotter

Samples = NDArray[np.float32]


class TimedSource:
    """A source that tells the clock when each block arrives, and ends after so much audio."""

    def __init__(self, source: Source, clock: StageClock, limit_s: float | None) -> None:
        self._source = source
        self._clock = clock
        self._limit_s = limit_s
        self.is_over = False  # whether all the audio that was wanted has come

    @property
    def name(self) -> str:
        """The source's own."""
        return self._source.name

    @property
    def overflows(self) -> int:
        """The source's own."""
        return self._source.overflows

    @property
    def dropped_s(self) -> float:
        """The source's own."""
        return self._source.dropped_s

    @property
    def backlog_s(self) -> float:
        """The source's own."""
        return self._source.backlog_s

    def __iter__(self) -> Iterator[Block]:
        """The source's blocks."""
        for block in self._source:
            if self._limit_s is not None and block.start_s >= self._limit_s:
                break
            self._clock.begin()
            yield block
        self._clock.begin()  # what waited for its turn is processed once more
        self.is_over = True


class _StageOutput:
    """Shows nothing and tells the clock when a block is done."""

    def __init__(self, clock: StageClock, hop_ms: int) -> None:
        self._clock = clock
        self._hop_ms = hop_ms
        self.missed_deadlines = 0

    def hop(self, time_s: float, spotter: Spotter) -> None:
        """Nothing."""

    def audio(self, samples: Samples, spotter: Spotter, lost_s: float) -> None:
        """The block is done."""
        self._clock.end()
        if self._clock.pending() >= 64:
            self.take()

    def detection(self, detection: Detection) -> None:
        """Nothing."""

    def trouble(self, message: str) -> None:
        """Nothing: the report counts what was lost."""

    def summary(self, summary: Summary) -> None:
        """Nothing: it comes back from the loop."""

    def take(self) -> None:
        """Count the hops since the last time."""
        self.missed_deadlines += sum(cost_ms > self._hop_ms for cost_ms in self._clock.take())


def check_source(config: SourceConfig, sample_rate: int) -> None:
    """Raise AudioError when file or microphone cannot be opened; a pipe tells only when read."""
    if config.input == "-":
        return
    with open_source(config, sample_rate) as source:
        if config.input is not None:
            next(iter(source), None)


def stream(case: Case, config: SourceConfig, limit_s: float | None) -> dict[str, Any]:
    """Listen to a source with one case until it ends, `limit_s` of audio or Ctrl-C.

    Returns the part "streaming" of a report. Raises AudioError when the source cannot be read.
    """
    bundle = case.bundle
    backend = open_backend(
        bundle, kind=case.backend, precision=case.precision, threads=case.threads
    )
    clock = StageClock(backend)
    spotter = Spotter(bundle, backend=clock.backend, on_scores=clock.scores)
    output = _StageOutput(clock, bundle.hop_ms)
    with (
        Sampler(open_meters()[0]) as sampler,
        open_source(config, bundle.fbank.sample_rate) as source,
    ):
        timed = TimedSource(source, clock, limit_s)
        before_j, cpu_s, began_s = sampler.energy_j(), process_time(), perf_counter()
        summary = listen_to(timed, spotter, output)
        wall_s, cpu_s = perf_counter() - began_s, process_time() - cpu_s
        after_j = sampler.energy_j()
    output.take()
    backend.close()
    is_realtime = config.realtime or config.input is None
    spent_w = {name: (after_j[name] - before_j[name]) / wall_s for name in after_j}
    return {
        "name": case.name,
        "source": source.name,
        "is_realtime": is_realtime,
        "is_partial": not timed.is_over,
        "audio_s": summary.audio_s,
        "wall_s": wall_s,
        "hops": summary.hops,
        "skipped_hops": summary.skipped_hops,
        "overflows": summary.overflows,
        "dropped_s": summary.dropped_s,
        "detections": summary.detections,
        "deadline_ms": bundle.hop_ms,
        "missed_deadlines": output.missed_deadlines,
        "real_time_factor": summary.rtf,
        "cpu_percent": 100 * cpu_s / summary.audio_s if summary.audio_s else 0.0,
        "cost": clock.cost.summary() or None,
        # A file that is read ahead has no moment at which its audio arrived.
        "latency": (clock.latency.summary() or None) if is_realtime else None,
        **stages_part(clock.stages, case.backend),
        "energy": [
            {
                "meter": name,
                "mean_w": watts,
                "wh_per_hour_of_listening": watts if is_realtime else None,
            }
            for name, watts in spent_w.items()
        ],
    }
