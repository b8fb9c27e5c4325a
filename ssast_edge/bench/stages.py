"""Where the time of a hop goes: front end, upload, inference, download, trigger.

A `StageClock` needs nothing of the spotter but what everyone gets: it wraps the backend, is its
`on_scores`, and is told when a block of audio begins and ends.
"""

from collections.abc import Mapping
from time import perf_counter
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ssast_edge.backends import Backend
from ssast_edge.bench.durations import Durations

FloatArray = NDArray[np.float32]

# In the order of the work. Upload and download are part of a GPU's inference and absent elsewhere.
STAGES = ("front_end", "upload", "inference", "download", "trigger")


@runtime_checkable
class StagedBackend(Protocol):
    """A backend that can tell the parts of its last inference."""

    def stages_ms(self) -> Mapping[str, float]:
        """Milliseconds of "upload", "inference" and "download" of the last `infer`.

        The first call may only turn the measuring on, and return nothing.
        """


@runtime_checkable
class BatchBackend(Protocol):
    """A backend that can take several windows at once."""

    max_batch: int  # 1 for a model of a fixed batch of one

    def infer_batch(self, fbank: FloatArray) -> FloatArray:
        """Logits (batch, labels) for windows (batch, window_frames, num_mel_bins)."""


class TimedBackend:
    """Passes everything on and notes when the last inference began and ended."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.name, self.hop_frames = backend.name, backend.hop_frames
        self.began_s = 0.0
        self.ended_s = 0.0

    def __getattr__(self, name: str) -> Any:
        """What a backend has beyond `infer` and `close` is the backend's."""
        return getattr(self._backend, name)

    def infer(self, fbank: FloatArray, **options: Any) -> FloatArray:
        """The backend's own."""
        self.began_s = perf_counter()
        logits = self._backend.infer(fbank, **options)
        self.ended_s = perf_counter()
        return logits

    def close(self) -> None:
        """The backend's own."""
        self._backend.close()


class StageClock:
    """Durations by stage of the hops that went by.

    cost: all work of a hop, over all blocks of audio that it came in. latency: from the arrival of
    the block that completes the hop to the end of its triggers.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = TimedBackend(backend)
        self._staged = backend if isinstance(backend, StagedBackend) else None
        if self._staged is not None:
            self._staged.stages_ms()
        self.cost = Durations()
        self.latency = Durations()
        self.stages: dict[str, Durations] = {}
        self._front_s = 0.0  # of the hop that is being filled
        self._mark_s = self._arrived_s = 0.0
        self.clear()

    def begin(self) -> None:
        """A block of audio is there, and its processing begins."""
        self._mark_s = self._arrived_s = perf_counter()

    def scores(self, time_s: float, scores: FloatArray) -> None:
        """A hop is done; the spotter's `on_scores`."""
        now_s = perf_counter()
        began_s, ended_s = self.backend.began_s, self.backend.ended_s
        front_s = self._front_s + began_s - self._mark_s
        inference_ms = 1000 * (ended_s - began_s)
        row = {"front_end": 1000 * front_s, "inference": inference_ms}
        if self._staged is not None:
            row.update(_split(self._staged.stages_ms(), inference_ms))
        row["trigger"] = 1000 * (now_s - ended_s)
        for name, value in row.items():
            self._rows.setdefault(name, []).append(value)
        self._costs.append(1000 * (front_s + now_s - began_s))
        self._latencies.append(1000 * (now_s - self._arrived_s))
        self._front_s, self._mark_s = 0.0, now_s

    def end(self) -> None:
        """The block has been processed."""
        self._front_s += perf_counter() - self._mark_s

    def pending(self) -> int:
        """Hops since they were last taken."""
        return len(self._costs)

    def take(self) -> list[float]:
        """Add the hops since the last time to the durations; their costs in ms."""
        costs = self._costs
        self.cost.extend(costs)
        self.latency.extend(self._latencies)
        for name, values in self._rows.items():
            self.stages.setdefault(name, Durations()).extend(values)
        self.clear()
        return costs

    def clear(self) -> None:
        """Forget the hops that have not been taken."""
        self._rows: dict[str, list[float]] = {}
        self._costs: list[float] = []
        self._latencies: list[float] = []


def _split(parts: Mapping[str, float], whole_ms: float) -> dict[str, float]:
    """The parts that a backend tells; what it does not account for belongs to the inference."""
    if not parts:
        return {}
    upload, download = parts.get("upload", 0.0), parts.get("download", 0.0)
    rest = max(0.0, whole_ms - upload - download)
    return {"upload": upload, "inference": rest, "download": download}
