"""The loop of `tag`: files through a spotter, and what their scores come to."""

from collections.abc import Iterable
from typing import Protocol

import click
import numpy as np
from numpy.typing import NDArray

from ssast_edge.audio import file_blocks
from ssast_edge.errors import SsastEdgeError
from ssast_edge.spotter import Spotter

FloatArray = NDArray[np.float32]

TIMELINE_CELLS = 64


class Report(Protocol):
    """Where the scores go."""

    def begin(self, file: str) -> None:
        """A file begins."""

    def hop(self, time_s: float, scores: FloatArray) -> None:
        """Scores of all labels, shape (labels,), at the hop that ends at time_s."""

    def end(self, audio_s: float) -> None:
        """The file is done: it was that long."""


class Overall:
    """Highest and mean score of each label, and a timeline, in memory that does not grow."""

    def __init__(self, num_labels: int) -> None:
        self.hops = 0
        self.max = np.zeros(num_labels, np.float32)
        self.max_time_s = np.zeros(num_labels)
        self._sum = np.zeros(num_labels)
        self._cells = np.zeros((TIMELINE_CELLS, num_labels), np.float32)
        self._hops_per_cell = 1

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean score of each label, shape (labels,)."""
        return self._sum / max(1, self.hops)

    def add(self, time_s: float, scores: FloatArray) -> None:
        """Take the scores of one hop, shape (labels,)."""
        higher = scores > self.max
        self.max[higher] = scores[higher]
        self.max_time_s[higher] = time_s
        self._sum += scores
        cell = self.hops // self._hops_per_cell
        if cell == TIMELINE_CELLS:
            # Full: two neighbours become one cell, and each further cell holds twice the hops.
            half = self._cells.reshape(TIMELINE_CELLS // 2, 2, -1).max(axis=1)
            self._cells = np.concatenate([half, np.zeros_like(half)])
            self._hops_per_cell *= 2
            cell //= 2
        self._cells[cell] = np.maximum(self._cells[cell], scores)
        self.hops += 1

    def timeline(self, label: int) -> FloatArray:
        """Highest score of a label in each of at most TIMELINE_CELLS equal stretches of time."""
        return self._cells[: -(-self.hops // self._hops_per_cell), label]


def tag_files(files: Iterable[str], spotter: Spotter, report: Report) -> bool:
    """Score each file; False when one could not be read, which stderr has been told."""
    is_ok = True
    for file in files:
        spotter.reset()
        try:
            blocks = file_blocks(file, sample_rate=spotter.bundle.fbank.sample_rate)
            report.begin(file)
            for block in blocks:
                spotter.push(block.samples)
            report.end(spotter.time_s)
        except SsastEdgeError as error:
            click.echo(f"Error: {error}", err=True)
            is_ok = False
    return is_ok
