"""How `tag` shows scores: a table, JSON lines, CSV or an Audacity label track."""

import csv
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import click
import numpy as np
from numpy.typing import NDArray

from ssast_edge.clock import clock
from ssast_edge.commands.output import SCORE_DIGITS, SECONDS_DIGITS, print_json
from ssast_edge.commands.tagging import Overall, Report

FloatArray = NDArray[np.float32]

_BLOCKS, _ASCII = " ▁▂▃▄▅▆▇█", " .:-=+*%#"
_MAX_NAME = 28


@dataclass(frozen=True)
class ReportConfig:
    """What every kind of report may need."""

    labels: tuple[str, ...]
    hop_s: float
    threshold: float  # score that begins a label in an Audacity track
    top: int  # labels in the table


@dataclass
class TableReport:
    """A table for each file: its labels by highest score, each with a timeline."""

    config: ReportConfig
    _overall: Overall = field(init=False)
    _file: str = field(init=False)

    def begin(self, file: str) -> None:
        """Start anew."""
        self._file = file
        self._overall = Overall(len(self.config.labels))

    def hop(self, time_s: float, scores: FloatArray) -> None:
        """Count."""
        self._overall.add(time_s, scores)

    def end(self, audio_s: float) -> None:
        """Write the table."""
        overall = self._overall
        click.echo(f"{self._file}  {clock(audio_s)}")
        if not overall.hops:
            click.echo(f"  no scores: shorter than one hop ({1000 * self.config.hop_s:g} ms)")
            return
        width = max(map(len, self.config.labels))
        width = min(_MAX_NAME, max(width, len("label")))
        click.echo(f"  {'label':<{width}}   max        at   mean  over time")
        for label in np.argsort(-overall.max, kind="stable")[: self.config.top]:
            row = (
                f"  {self.config.labels[label][:width]:<{width}}  {overall.max[label]:.2f}"
                f"  {clock(overall.max_time_s[label]):>8}   {overall.mean[label]:.2f}  "
            )
            click.echo(row + _spark(overall.timeline(label), room=_columns() - len(row)))


@dataclass
class JsonReport:
    """A line for each hop, then one for the file."""

    config: ReportConfig
    _overall: Overall = field(init=False)
    _file: str = field(init=False)

    def begin(self, file: str) -> None:
        """Start anew."""
        self._file = file
        self._overall = Overall(len(self.config.labels))

    def hop(self, time_s: float, scores: FloatArray) -> None:
        """Write the scores."""
        self._overall.add(time_s, scores)
        by_label = dict(zip(self.config.labels, map(_rounded, scores), strict=True))
        fields = {"file": self._file, "time_s": round(time_s, SECONDS_DIGITS), "scores": by_label}
        print_json("scores", fields)

    def end(self, audio_s: float) -> None:
        """Write the highest and mean scores; no labels when there was no hop."""
        overall = self._overall
        labels = {
            label: {
                "max": _rounded(overall.max[index]),
                "max_time_s": round(float(overall.max_time_s[index]), SECONDS_DIGITS),
                "mean": _rounded(overall.mean[index]),
            }
            for index, label in enumerate(self.config.labels)
        }
        fields = {"file": self._file, "audio_s": round(audio_s, SECONDS_DIGITS)}
        print_json(
            "overall", {**fields, "hops": overall.hops, "labels": labels if overall.hops else {}}
        )


@dataclass
class CsvReport:
    """A row for each hop, one header for all files."""

    config: ReportConfig
    _has_header: bool = False
    _file: str = field(init=False)

    def begin(self, file: str) -> None:
        """Write the header before the first file."""
        self._file = file
        if not self._has_header:
            self._row(["file", "time_s", *self.config.labels])
            self._has_header = True

    def hop(self, time_s: float, scores: FloatArray) -> None:
        """Write the scores."""
        self._row([self._file, round(time_s, SECONDS_DIGITS), *map(_rounded, scores)])

    def end(self, audio_s: float) -> None:
        """Nothing: the rows are all there is."""

    def _row(self, cells: list[str | float]) -> None:
        csv.writer(sys.stdout, lineterminator="\n").writerow(cells)


@dataclass
class AudacityReport:
    """start, end and label, separated by tabs: neighbouring hops at the threshold are one label."""

    config: ReportConfig
    _open: dict[str, tuple[float, float]] = field(default_factory=dict)  # label: start, end

    def begin(self, file: str) -> None:
        """Nothing: a track does not name its audio."""

    def hop(self, time_s: float, scores: FloatArray) -> None:
        """Begin, lengthen or write labels. A score stands for the hop of audio up to its time."""
        for label, score in zip(self.config.labels, scores, strict=True):
            if score >= self.config.threshold:
                start_s = self._open.get(label, (max(0.0, time_s - self.config.hop_s), 0.0))[0]
                self._open[label] = (start_s, time_s)
            elif label in self._open:
                self._write(label)

    def end(self, audio_s: float) -> None:
        """Write the labels that last to the end."""
        for label in list(self._open):
            self._write(label)

    def _write(self, label: str) -> None:
        start_s, end_s = self._open.pop(label)
        click.echo(f"{start_s:.3f}\t{end_s:.3f}\t{label}")


_KINDS: dict[str | None, Callable[[ReportConfig], Report]] = {
    None: TableReport,
    "json": JsonReport,
    "csv": CsvReport,
    "audacity": AudacityReport,
}


def open_report(style: str | None, config: ReportConfig) -> Report:
    """The report of that style, a table for None."""
    return _KINDS[style](config)


def _rounded(score: float) -> float:
    return round(float(score), SCORE_DIGITS)


def _columns() -> int:
    return shutil.get_terminal_size(fallback=(100, 24)).columns


def _spark(scores: FloatArray, *, room: int) -> str:
    """A character for each score, as high as the score; the highest of each group if too many."""
    if room < 1:
        return ""
    shades = _BLOCKS if (sys.stdout.encoding or "").lower().startswith("utf") else _ASCII
    group = -(-len(scores) // room)
    heights = [max(scores[start : start + group]) for start in range(0, len(scores), group)]
    # Up, so that a score above 0.01 is seen at all.
    return "".join(shades[int(np.ceil((len(shades) - 1) * max(0.0, h - 0.01)))] for h in heights)
