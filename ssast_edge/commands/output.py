"""How `listen` shows what it hears: JSON lines, plain lines, or a live view on a terminal."""

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from ssast_edge.clock import clock
from ssast_edge.commands.listening import Output, Summary
from ssast_edge.spotter import Detection, Spotter

if TYPE_CHECKING:
    from ssast_edge.live import LiveView

Samples = NDArray[np.float32]

SECONDS_DIGITS = 4  # a sample of 16 kHz lasts 0.0000625 s, a frame 0.01 s
SCORE_DIGITS = 4


class JsonOutput:
    """One JSON object a line on stdout, each flushed."""

    def hop(self, time_s: float, spotter: Spotter) -> None:
        """Nothing."""

    def audio(self, samples: Samples, spotter: Spotter, lost_s: float) -> None:
        """Nothing."""

    def detection(self, detection: Detection) -> None:
        """Write it."""
        fields = {
            "label": detection.label,
            "time_s": round(detection.time_s, SECONDS_DIGITS),
            "score": round(detection.score, SCORE_DIGITS),
        }
        print_json("detection", fields)

    def trouble(self, message: str) -> None:
        """Say it on stderr."""
        click.echo(message, err=True)

    def summary(self, summary: Summary) -> None:
        """Write it."""
        print_json("summary", summary_fields(summary))


class PlainOutput:
    """A line for each detection, for a pipe or a log."""

    def hop(self, time_s: float, spotter: Spotter) -> None:
        """Nothing."""

    def audio(self, samples: Samples, spotter: Spotter, lost_s: float) -> None:
        """Nothing."""

    def detection(self, detection: Detection) -> None:
        """Write it."""
        click.echo(detection_line(detection))

    def trouble(self, message: str) -> None:
        """Say it on stderr."""
        click.echo(message, err=True)

    def summary(self, summary: Summary) -> None:
        """Write it."""
        click.echo(summary_line(summary))


class LiveOutput:
    """A live view at the bottom of the terminal, detections and losses above it."""

    def __init__(self, view: "LiveView") -> None:
        self._view = view

    def hop(self, time_s: float, spotter: Spotter) -> None:
        """Take the scores: of the keywords, or of every label where there are none."""
        scores = spotter.smoothed or dict(zip(spotter.bundle.labels, spotter.scores, strict=True))
        self._view.show_scores(time_s, scores)

    def audio(self, samples: Samples, spotter: Spotter, lost_s: float) -> None:
        """Move the level meter."""
        self._view.show_audio(samples, spotter.time_s, lost_s, spotter.skipped_hops)

    def detection(self, detection: Detection) -> None:
        """Write it above the view."""
        self._view.print_line(detection_line(detection))

    def trouble(self, message: str) -> None:
        """Write it above the view."""
        self._view.print_line(message)

    def summary(self, summary: Summary) -> None:
        """Write it in place of the view."""
        self._view.print_line(summary_line(summary))


@contextmanager
def open_output(
    *, as_json: bool, title: str, thresholds: Mapping[str, float], is_endless: bool
) -> Iterator[Output]:
    """The output that suits stdout; a live view is gone again at the end, its lines stay.

    thresholds: of the labels that may fire. is_endless: say on stderr that it has begun.
    """
    # sys.stdout is None in a process that was started with it closed.
    is_terminal = sys.stdout and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    if as_json or not is_terminal:
        if is_endless:
            click.echo(f"listening to {title} for {', '.join(thresholds)}", err=True)
        output = JsonOutput() if as_json else PlainOutput()
        with _told_warnings(output):
            yield output
        return
    from ssast_edge.live import LiveView

    with LiveView(sys.stdout, title=title, thresholds=thresholds) as view:
        live = LiveOutput(view)
        with _told_warnings(live):
            yield live


@contextmanager
def _told_warnings(output: Output) -> Iterator[None]:
    """Hand the library's warnings to the output, which knows where a line may be written."""
    handler = _ToOutput(output, level=logging.WARNING)
    # The loop itself tells of lost audio, once a second at most; this would tell of each gap.
    handler.addFilter(lambda record: record.name != "ssast_edge.microphone")
    logger = logging.getLogger("ssast_edge")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _ToOutput(logging.Handler):
    def __init__(self, output: Output, level: int) -> None:
        super().__init__(level)
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        self._output.trouble(record.getMessage())


def tell_summary(summary: Summary, *, as_json: bool) -> None:
    """Write a summary where no output was opened."""
    (JsonOutput() if as_json else PlainOutput()).summary(summary)


def print_json(kind: str, fields: Mapping[str, Any]) -> None:
    """Write one object as one line of ASCII on stdout, flushed."""
    click.echo(json.dumps({"type": kind, **fields}, allow_nan=False))


def detection_line(detection: Detection) -> str:
    """A detection for people."""
    return f"{clock(detection.time_s)}  {detection.label}  {detection.score:.2f}"


def summary_fields(summary: Summary) -> dict[str, Any]:
    """A summary for machines."""
    fields = asdict(summary)
    return fields | {
        "audio_s": round(summary.audio_s, SECONDS_DIGITS),
        "dropped_s": round(summary.dropped_s, SECONDS_DIGITS),
        "rtf": round(summary.rtf, 5),
        "infer_ms": {name: round(value, 3) for name, value in summary.infer_ms.items()},
    }


def summary_line(summary: Summary) -> str:
    """A summary for people."""
    detections = f"{summary.detections} detection{'' if summary.detections == 1 else 's'}"
    parts = [
        f"{detections} in {clock(summary.audio_s)} of audio",
        f"inference {summary.infer_ms['p50']:.1f} ms (99 %: {summary.infer_ms['p99']:.1f})",
        f"{100 * summary.rtf:.1f} % of real time",
    ]
    if summary.skipped_hops:
        parts.append(
            f"skipped {summary.skipped_hops} of {summary.hops + summary.skipped_hops} hops"
        )
    if summary.overflows or summary.dropped_s:
        parts.append(f"lost {summary.dropped_s:.2f} s of audio, {summary.overflows} overflows")
    return " · ".join(parts)
