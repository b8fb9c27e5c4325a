"""The loop of `listen` and `demo`: audio through a spotter, until it ends or is ended.

Knows nothing of how detections are shown: that is an `Output`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ssast_edge.audio import Block
from ssast_edge.clock import clock
from ssast_edge.commands.source import Source
from ssast_edge.errors import SsastEdgeError
from ssast_edge.spotter import Detection, Spotter
from ssast_edge.systemd.notify import ServiceManager

Samples = NDArray[np.float32]

REPORT_S = 1.0  # time between two messages about lost audio

# Audio that waits for so many hops means that inference does not keep up. A shorter wait, or
# less audio than UNEVEN_S, is the device handing over its blocks unevenly.
LATE_HOPS = 3
UNEVEN_S = 0.25
# Behind, one inference stands for no more audio than this: also a source that never lets the
# backlog shrink is heard.
MAX_WAITING_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a stretch of listening came to. rtf: processing time per time of audio."""

    audio_s: float
    detections: int
    hops: int
    skipped_hops: int
    overflows: int
    dropped_s: float
    rtf: float
    infer_ms: Mapping[str, float]  # p50, p95, p99, max


NOTHING_HEARD = Summary(
    audio_s=0.0,
    detections=0,
    hops=0,
    skipped_hops=0,
    overflows=0,
    dropped_s=0.0,
    rtf=0.0,
    infer_ms={"p50": 0.0, "p95": 0.0, "p99": 0.0, "max": 0.0},
)


class Output(Protocol):
    """Where the results go."""

    def hop(self, time_s: float, spotter: Spotter) -> None:
        """Called after each inference."""

    def audio(self, samples: Samples, spotter: Spotter, lost_s: float) -> None:
        """Called after each block, with the audio lost so far."""

    def detection(self, detection: Detection) -> None:
        """Called for each detection, in time order."""

    def trouble(self, message: str) -> None:
        """Called when audio was lost, once a second of audio at most."""

    def summary(self, summary: Summary) -> None:
        """Called once, at the end."""


def listen_to(source: Source, spotter: Spotter, output: Output) -> Summary:
    """Run until the source ends or Ctrl-C; the output has had its summary then.

    When the source fails, the summary of what was heard before goes out first.
    """
    loop = _Loop(source, spotter, output)
    try:
        loop.run()
    except KeyboardInterrupt:
        pass
    except SsastEdgeError:
        if spotter.time_s:
            output.summary(loop.summary())
        raise
    summary = loop.summary()
    output.summary(summary)
    return summary


class _Loop:
    def __init__(self, source: Source, spotter: Spotter, output: Output) -> None:
        self._source = source
        self._spotter = spotter
        self._output = output
        self._detections = 0
        self._lost_s = 0.0
        self._reported = (0.0, 0)  # lost_s and overflows when they were last reported
        self._next_report_s = 0.0
        self._processing_s = 0.0
        self._waiting: list[Samples] = []  # taken from the source, not yet pushed
        self._is_late = False
        self._service_manager = ServiceManager()  # nobody, unless systemd has started us

    def run(self) -> None:
        try:
            for block in self._source:
                self._take(block)
                self._service_manager.alive(self._describe)
        finally:  # also when the source fails: what it gave before is heard
            self._push()
            self._service_manager.stopping(self._describe())

    def summary(self) -> Summary:
        audio_s = self._spotter.time_s
        return Summary(
            audio_s=audio_s,
            detections=self._detections,
            hops=self._spotter.hops,
            skipped_hops=self._spotter.skipped_hops,
            overflows=self._source.overflows,
            dropped_s=max(self._lost_s, self._source.dropped_s),
            rtf=self._processing_s / audio_s if audio_s else 0.0,
            infer_ms=self._spotter.infer_ms.summary(),
        )

    def _describe(self) -> str:
        summary = self.summary()
        return (
            f"{clock(summary.audio_s, digits=0)} of audio, {summary.detections} detected, "
            f"{100 * summary.rtf:.1f} % of real time, {summary.dropped_s:.1f} s lost"
        )

    def _take(self, block: Block) -> None:
        if block.dropped_s:
            self._push()
            self._spotter.skip(block.dropped_s)
            self._lost_s += block.dropped_s
        self._report(block.start_s)
        self._waiting.append(block.samples)
        hop_s = self._spotter.hop_ms / 1000
        backlog_s = self._source.backlog_s
        self._is_late = self._is_late or backlog_s > max(LATE_HOPS * hop_s, UNEVEN_S)
        # Behind: take what waits first, then infer once, at the newest hop of it.
        waiting_s = sum(map(len, self._waiting)) / self._spotter.bundle.fbank.sample_rate
        if not self._is_late or backlog_s <= hop_s or waiting_s >= MAX_WAITING_S:
            self._push()

    def _push(self) -> None:
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        samples = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
        began_s = perf_counter()
        detections = self._spotter.push(samples, latest_only=self._is_late)
        self._processing_s += perf_counter() - began_s
        self._is_late = False
        for detection in detections:
            self._detections += 1
            self._output.detection(detection)
        self._output.audio(samples, self._spotter, self._lost_s)

    def _report(self, time_s: float) -> None:
        """Tell of audio that was lost since the last time."""
        lost_s, overflows = now = self._lost_s, self._source.overflows
        if now == self._reported or time_s < self._next_report_s:
            return
        said = [f"{clock(time_s)}  lost {lost_s - self._reported[0]:.2f} s of audio"]
        if overflows > self._reported[1]:
            said.append(f"{overflows - self._reported[1]} overflows in the audio device")
        self._output.trouble(", ".join(said))
        self._reported, self._next_report_s = now, time_s + REPORT_S
