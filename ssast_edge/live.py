"""What `ssast-edge listen` shows on a terminal: a level meter, scores, and detections above.

`render` is a pure function from a `Status` to lines; `LiveView` gathers the status and owns
the terminal. Knows nothing of models and audio devices. The status block is rewritten in
place in one write, at most ten times a second, line over line: nothing is cleared first, so
nothing flickers.
"""

import math
import os
import shutil
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from ssast_edge.clock import clock

Samples = NDArray[np.float32]

REDRAW_S = 0.1
RECENT_S = 2.0  # a score stays in view this long
LEVEL_FALL_DB_S = 30.0  # how fast the meter falls back after a loud sound
SILENCE_DB = -60.0  # left end of the level meter
CLIPPED = 0.999  # a sample from here on was cut off by the microphone or its gain

_MAX_BAR = 40
_MIN_BAR = 8  # below this a bar says less than the number beside it
_MAX_NAME = 20
_MAX_ROWS = 12  # an audio tagger has hundreds of labels

_ERASE_LINE, _ERASE_BELOW = "\x1b[K", "\x1b[J"
_HIDE_CURSOR, _SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
_BOLD, _RESET = "\x1b[1m", "\x1b[0m"


@dataclass(frozen=True, kw_only=True)
class Style:
    """What the terminal can show."""

    width: int  # columns
    height: int  # rows
    has_color: bool = False
    has_blocks: bool = False  # block characters, else ASCII


@dataclass(frozen=True, kw_only=True)
class Status:
    """What there is to show."""

    title: str
    time_s: float
    level_db: float  # relative to full scale: 0 = as loud as it gets
    is_clipping: bool
    scores: Mapping[str, float]  # best recent score by label
    thresholds: Mapping[str, float]  # by label; a label without one never fires
    lost_s: float = 0.0  # audio lost so far
    skipped_hops: int = 0


def render(status: Status, style: Style) -> list[str]:
    """The status block, one line each, none wider than the terminal."""
    scores = _rows(status.scores, max(1, min(_MAX_ROWS, style.height - 3)))
    name_width = min(_MAX_NAME, max((len(label) for label in [*scores, "level"]), default=0))
    lines = [
        _title(status, style.width - 1),
        _line("level", _loudness(status), f"{status.level_db:4.0f} dB", name_width, style),
    ]
    for label, score in scores.items():
        threshold = status.thresholds.get(label)
        line = _line(label, score, f"{score:7.2f}", name_width, style, mark=threshold)
        has_fired = threshold is not None and score >= threshold
        lines.append(f"{_BOLD}{line}{_RESET}" if has_fired and style.has_color else line)
    return lines[: max(1, style.height - 1)]


def bar(fraction: float, width: int, *, has_blocks: bool, mark: float | None = None) -> str:
    """A bar of `width` characters filled to `fraction` (0 to 1), with a line at `mark`."""
    eighths = round(min(max(fraction, 0.0), 1.0) * width * 8)
    full, rest = divmod(eighths, 8)
    filled, partial, empty, line = ("█", "▏▎▍▌▋▊▉", "·", "│") if has_blocks else ("#", "", ".", "|")
    cells = [filled] * full + [empty] * (width - full)
    if rest and partial:
        cells[full] = partial[rest - 1]
    if mark is not None:
        position = min(width - 1, round(mark * width))
        cells[position] = line if position >= full else filled
    return "".join(cells)


class LiveView:
    """The status block at the bottom of a terminal, and permanent lines above it."""

    def __init__(self, stream: TextIO, *, title: str, thresholds: Mapping[str, float]) -> None:
        self._stream = stream
        self._title = title
        self._thresholds = dict(thresholds)
        self._has_color = not os.environ.get("NO_COLOR")
        self._has_blocks = _can_show(stream, "█▏│·")
        self._scores: deque[tuple[float, Mapping[str, float]]] = deque()
        self._level_db, self._clipped_s, self._time_s = SILENCE_DB, -math.inf, 0.0
        self._lost_s, self._skipped_hops = 0.0, 0
        self._drawn_lines = 0
        self._next_draw_s = -math.inf

    def __enter__(self) -> "LiveView":
        """Take the bottom of the terminal."""
        self._write(_HIDE_CURSOR)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal as it was, the permanent lines in place."""
        self._write(self._to_top() + _ERASE_BELOW + _SHOW_CURSOR)
        self._drawn_lines = 0

    def show_scores(self, time_s: float, scores: Mapping[str, float]) -> None:
        """Take the scores of one hop, by label."""
        self._scores.append((time_s, scores))
        while self._scores[0][0] < time_s - RECENT_S:
            self._scores.popleft()

    def show_audio(self, samples: Samples, time_s: float, lost_s: float, skipped_hops: int) -> None:
        """Take a block of audio that ends at time_s and the counts so far; redraw if it is time."""
        if len(samples):
            peak = float(np.max(np.abs(samples)))
            power = float(np.mean(np.square(samples, dtype=np.float64)))
            fallen_db = self._level_db - LEVEL_FALL_DB_S * max(0.0, time_s - self._time_s)
            self._level_db = max(10 * math.log10(max(power, 1e-10)), fallen_db)
            self._clipped_s = time_s if peak >= CLIPPED else self._clipped_s
        self._time_s, self._lost_s, self._skipped_hops = time_s, lost_s, skipped_hops
        now_s = time.monotonic()
        if now_s >= self._next_draw_s:
            self._next_draw_s = now_s + REDRAW_S
            self._write(self._block())

    def print_line(self, text: str) -> None:
        """Write a line that stays, above the status block."""
        self._write(self._to_top() + text + _ERASE_LINE + "\n" + self._block(at_top=True))

    def _status(self) -> Status:
        labels = self._scores[-1][1] if self._scores else self._thresholds
        best = {
            label: max((scores[label] for _, scores in self._scores), default=0.0)
            for label in labels
        }
        return Status(
            title=self._title,
            time_s=self._time_s,
            level_db=self._level_db,
            is_clipping=self._time_s - self._clipped_s < 1,
            scores=best,
            thresholds=self._thresholds,
            lost_s=self._lost_s,
            skipped_hops=self._skipped_hops,
        )

    def _block(self, *, at_top: bool = False) -> str:
        size = shutil.get_terminal_size()
        style = Style(
            width=max(size.columns, 10),
            height=max(size.lines, 2),
            has_color=self._has_color,
            has_blocks=self._has_blocks,
        )
        lines = render(self._status(), style)
        start = "" if at_top else self._to_top()
        self._drawn_lines = len(lines)
        return start + "\n".join(line + _ERASE_LINE for line in lines) + _ERASE_BELOW

    def _to_top(self) -> str:
        up = f"\x1b[{self._drawn_lines - 1}A" if self._drawn_lines > 1 else ""
        return "\r" + up

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _rows(scores: Mapping[str, float], count: int) -> dict[str, float]:
    """The labels to show: all in their order, or the highest when there are too many."""
    if len(scores) <= count:
        return dict(scores)
    best = sorted(scores, key=lambda label: scores[label], reverse=True)[:count]
    return {label: scores[label] for label in best}


def _title(status: Status, width: int) -> str:
    parts = [clock(status.time_s, digits=0), status.title]
    if status.is_clipping:
        parts.insert(1, "too loud")
    if status.lost_s:
        parts.insert(1, f"lost {status.lost_s:.1f} s")
    if status.skipped_hops:
        parts.insert(1, f"skipped {status.skipped_hops} hops")
    return "  ".join(parts)[:width]


def _line(
    name: str,
    fraction: float,
    number: str,
    name_width: int,
    style: Style,
    mark: float | None = None,
) -> str:
    room = style.width - 1 - name_width - len(number) - 2
    if room < _MIN_BAR:
        return f"{name[:name_width]:<{name_width}}{number}"[: style.width - 1]
    drawn = bar(fraction, min(room, _MAX_BAR), has_blocks=style.has_blocks, mark=mark)
    return f"{name[:name_width]:<{name_width}}  {drawn}{number}"


def _loudness(status: Status) -> float:
    return 1 - status.level_db / SILENCE_DB


def _can_show(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
