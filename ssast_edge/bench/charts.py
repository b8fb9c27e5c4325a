"""Pictures of a report as inline SVG, drawn by hand: the device has no plotting library.

Colours are CSS variables of the page (--c0 to --c7, --ink, --muted, --grid), so that they follow
its light or dark theme. Knows nothing of reports.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

Points = Sequence[tuple[float, float]]

WIDTH = 880
COLOURS = 8
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 18, 24, 40
_LOG_FROM = 12  # a range of more than this ratio is drawn on a logarithmic axis


@dataclass(frozen=True)
class Line:
    """One curve of a chart; a gap where a value is None."""

    name: str
    points: Sequence[tuple[float, float | None]]
    colour: int


@dataclass(frozen=True)
class Mark:
    """A vertical line with a name."""

    value: float
    name: str


def colour(index: int) -> str:
    """A CSS colour, the same for a case in every chart."""
    return f"var(--c{index % COLOURS})"


def curves(
    lines: Sequence[Line],
    *,
    x_name: str,
    y_name: str,
    height: int = 280,
    y_range: tuple[float, float] | None = None,
    y_shown: Callable[[float], str] | None = None,
    is_logarithmic: bool = False,
    title: str = "",
) -> str:
    """Curves over a common axis.

    is_logarithmic: the x axis may be, when the values spread widely.
    """
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points if y is not None]
    if not xs or not ys:
        return ""
    x_axis = _Axis(min(xs), max(xs), _LEFT, WIDTH - _RIGHT, may_log=is_logarithmic)
    low, high = y_range or _padded(min(ys), max(ys))
    y_axis = _Axis(low, high, height - _BOTTOM, _TOP)
    parts = [_frame(x_axis, y_axis, height, x_name, y_name, y_shown)]
    for line in lines:
        drawn = "".join(
            f'<path class="line" style="stroke:{colour(line.colour)}" d="{_path(piece)}"/>'
            for piece in _pieces(line, x_axis, y_axis)
        )
        parts.append(f"<g><title>{escape(line.name)}</title>{drawn}</g>")
    return _svg(height, parts, title)


def histogram(
    edges: Sequence[float],
    counts: Sequence[int],
    *,
    colour_index: int,
    marks: Sequence[Mark],
    x_name: str,
    title: str = "",
    width: int = 430,
    height: int = 220,
) -> str:
    """Bars between the edges; the last count, of what lies beyond, is a bar at the right."""
    inside, beyond = counts[:-1], counts[-1]
    room = 26 if beyond else 0
    x_axis = _Axis(edges[0], edges[-1], 46, width - 14 - room)
    y_axis = _Axis(0, max((*inside, beyond, 1)) * 1.12, height - _BOTTOM, _TOP + 14)
    parts = [_frame(x_axis, y_axis, height, x_name, "count", lambda value: f"{value:g}")]
    fill = f"fill:{colour(colour_index)}"
    for left, right, count in zip(edges, edges[1:], inside, strict=False):
        if count:
            x0, x1, top = x_axis(left), x_axis(right), y_axis(count)
            shown = f"{left:.3g} to {right:.3g} ms: {count}"
            parts.append(_bar(x0, top, max(1.0, x1 - x0 - 0.8), y_axis(0) - top, fill, shown))
    if beyond:
        top, x0 = y_axis(beyond), width - 14 - room + 8
        parts.append(
            _bar(x0, top, room - 10, y_axis(0) - top, f"{fill};opacity:.55", f"beyond: {beyond}")
        )
        parts.append(_text(x0 + (room - 10) / 2, height - 24, "more", "tick middle"))
    placed = -math.inf
    for mark in marks:
        if edges[0] <= mark.value <= edges[-1]:
            x = x_axis(mark.value)
            row = 1 if x - placed < 34 else 0  # two that lie close do not write over each other
            placed = x
            parts.append(
                f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP + 2 + 11 * row}" '
                f'y2="{y_axis(0):.1f}"/>'
            )
            parts.append(_text(x + 3, _TOP + 9 + 11 * row, mark.name, "tick"))
    return _svg(height, parts, title, width=width)


def stacked_bars(
    rows: Sequence[tuple[str, Sequence[tuple[str, float, str]]]],
    *,
    x_name: str,
    title: str = "",
) -> str:
    """A bar a row out of (part, length, CSS colour), each with its name above it."""
    longest = max((sum(length for _, length, _ in parts) for _, parts in rows), default=0)
    if not longest:
        return ""
    step, bar = 54, 20
    first = 4
    height = first + step * len(rows) + _BOTTOM
    x_axis = _Axis(0, longest * 1.02, 12, WIDTH - _RIGHT)
    drawn = []
    for value in x_axis.ticks():
        x = x_axis(value)
        drawn.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{first}" y2="{height - _BOTTOM}"/>'
        )
        drawn.append(_text(x, height - 22, _short(value), "tick middle"))
    drawn.append(_text((12 + WIDTH - _RIGHT) / 2, height - 5, x_name, "axis middle"))
    for number, (name, parts) in enumerate(rows):
        top = first + step * number
        drawn.append(_text(12, top + 15, name, "name"))
        before = 0.0
        for part, length, fill in parts:
            x0, x1 = x_axis(before), x_axis(before + length)
            shown = f"{name}: {part} {length:.3g} ms"
            drawn.append(_bar(x0, top + 22, max(1.0, x1 - x0), bar, f"fill:{fill}", shown))
            before += length
        if parts:
            shown = f"{before:.3g} ms"
            inside = x_axis(before) > WIDTH - 90
            drawn.append(
                _text(
                    x_axis(before) + (-8 if inside else 6),
                    top + 37,
                    shown,
                    "inside end" if inside else "tick",
                )
            )
    return _svg(height, drawn, title)


class _Axis:
    """Values to pixels, linear or logarithmic."""

    def __init__(
        self, low: float, high: float, start: float, end: float, *, may_log: bool = False
    ) -> None:
        self.is_log = may_log and low > 0 and high / low > _LOG_FROM
        if high <= low:
            low, high = low - 0.5, high + 0.5
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, value: float) -> float:
        if self.is_log:
            value = max(value, self.low)
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Some round values within."""
        if self.is_log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            steps = (1, 2, 5) if last - first < 4 else (1,)
            values = [step * 10.0**power for power in range(first, last + 1) for step in steps]
        else:
            rough = (self.high - self.low) / 5
            power = 10.0 ** math.floor(math.log10(rough))
            step = next(power * s for s in (1, 2, 5, 10) if rough <= power * s * 1.000001)
            first = math.ceil(self.low / step - 1e-9)
            values = [step * (first + n) for n in range(12)]
        margin = (self.high - self.low) * 1e-9
        return [value for value in values if self.low - margin <= value <= self.high + margin]


def _frame(
    x_axis: _Axis,
    y_axis: _Axis,
    height: float,
    x_name: str,
    y_name: str,
    y_shown: Callable[[float], str] | None,
) -> str:
    parts = []
    left, right = x_axis.start, x_axis.end
    for value in y_axis.ticks():
        y = y_axis(value)
        parts.append(
            f'<line class="grid" x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(_text(left - 7, y + 3.5, (y_shown or _short)(value), "tick end"))
    for value in x_axis.ticks():
        parts.append(_text(x_axis(value), height - 24, _short(value), "tick middle"))
    base = y_axis.start
    parts.append(
        f'<line class="base" x1="{left:.1f}" x2="{right:.1f}" y1="{base:.1f}" y2="{base:.1f}"/>'
    )
    parts.append(_text((left + right) / 2, height - 6, x_name, "axis middle"))
    parts.append(_text(4, 11, y_name, "axis"))
    return "".join(parts)


def _pieces(line: Line, x_axis: _Axis, y_axis: _Axis) -> list[Points]:
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in line.points:
        if y is None:
            pieces.append([])
        else:
            pieces[-1].append((x_axis(x), y_axis(y)))
    return [piece for piece in pieces if piece]


def _path(points: Points) -> str:
    if len(points) == 1:  # a line of no length is not drawn
        points = [*points, (points[0][0] + 0.1, points[0][1])]
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _padded(low: float, high: float) -> tuple[float, float]:
    # Never so narrow that a change of a percent looks like a cliff.
    margin = max((high - low) * 0.08, abs(high) * 0.03) or 1.0
    return (max(0.0, low - margin) if low >= 0 else low - margin), high + margin


def _short(value: float) -> str:
    return f"{value:.6g}" if abs(value) < 1e5 else f"{value:.2g}"


def _bar(x: float, y: float, width: float, height: float, style: str, shown: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'style="{style}"><title>{escape(shown)}</title></rect>'
    )


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _svg(height: float, parts: Sequence[str], title: str, *, width: int = WIDTH) -> str:
    label = f"<title>{escape(title)}</title>" if title else ""
    return f'<svg viewBox="0 0 {width} {height:g}" role="img">{label}{"".join(parts)}</svg>'
