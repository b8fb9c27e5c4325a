"""Misses against false accepts an hour as an inline SVG, with exact intervals at a marked setting.

False accepts are on a logarithmic axis that begins with 0: what happened less than once in the
track cannot be told from never.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from ssast_edge.bench.charts import colour

__all__ = ["DetLine", "det_chart"]

_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 18, 24, 44
_WIDTH, _HEIGHT = 560, 320
_ZERO = 42  # pixels between the place of 0 and the least rate that can be seen
_MOST_PER_HOUR = 60.0
_TICKS = [m * 10.0**e for e in range(-3, 4) for m in (1, 2, 5)]

Rate = tuple[float, float]  # false accepts an hour, miss rate


@dataclass(frozen=True)
class DetLine:
    """A detector's settings, and the one that is marked with its 95 % intervals."""

    name: str
    points: Sequence[Rate]
    colour: int
    mark: Rate | None = None
    per_hour_95: Rate = (0.0, 0.0)
    miss_95: Rate = (0.0, 0.0)


def det_chart(lines: Sequence[DetLine], *, hours: float, title: str = "") -> str:
    """The curves over common axes; hours: of the track, one event in which is the least rate."""
    scale = _Scale(lines, hours)
    parts = [scale.grid()]
    for line in lines:
        stroke = f"stroke:{colour(line.colour)}"
        shown = _front(line.points)
        path = "L".join(f"{scale.x(x):.1f} {scale.y(y):.1f}" for x, y in _steps(shown))
        parts.append(f"<g><title>{escape(line.name)}</title>")
        if path:
            parts.append(f'<path class="line" style="{stroke}" d="M{path}"/>')
        for x, y in shown:
            parts.append(_dot(scale.x(x), scale.y(y), 2.4, line.colour, _told(line.name, x, y)))
        if line.mark is not None:
            parts.append(_cross(scale, line, stroke))
        parts.append("</g>")
    label = f"<title>{escape(title)}</title>" if title else ""
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{label}{"".join(parts)}</svg>'


def _front(points: Sequence[Rate]) -> list[Rate]:
    """The settings that no other beats in both, by false accepts."""
    best: list[Rate] = []
    for x, y in sorted(points):
        if not best or y < best[-1][1] - 1e-12:
            best.append((x, y))
    return best


def _steps(front: Sequence[Rate]) -> list[Rate]:
    """Between two settings, what the stricter one gives holds."""
    line: list[Rate] = []
    for x, y in front:
        if line:
            line.append((x, line[-1][1]))
        line.append((x, y))
    return line


class _Scale:
    """Rates to pixels."""

    def __init__(self, lines: Sequence[DetLine], hours: float) -> None:
        self._least = 0.7 / hours
        fronts = [_front(line.points) for line in lines]
        marks = [line.mark for line in lines if line.mark is not None]
        rates = [x for front in fronts for x, _ in front] + [x for x, _ in marks]
        most = min(max([*rates, 4 * self._least]), max(_MOST_PER_HOUR, 20 * self._least))
        self._most = 1.3 * max(most, *(x for x, _ in marks), 1.5) if marks else 1.3 * max(most, 1.5)
        misses = [y for front in fronts for x, y in front if x <= self._most]
        wanted = [y for _, y in marks] + [min(front[0][1], 0.5) for front in fronts if front]
        high = max([*wanted, *(line.miss_95[1] for line in lines if line.mark), 0.02])
        self._high = min(1.0, 1.08 * min(high, max([*misses, *wanted, 0.02]) + 0.05))

    def x(self, per_hour: float) -> float:
        """Of false accepts an hour."""
        if per_hour <= 0:
            return _LEFT + 6
        start, end = _LEFT + _ZERO, _WIDTH - _RIGHT
        share = math.log(max(per_hour, self._least) / self._least)
        share /= math.log(self._most / self._least)
        return start + min(share, 1.0) * (end - start)

    def y(self, miss_rate: float) -> float:
        """Of a share of missed words."""
        share = min(miss_rate / self._high, 1.0)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)

    def grid(self) -> str:
        """Lines, numbers and names of the axes."""
        parts = []
        left, right, base = _LEFT, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
        step = next(s for s in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2) if self._high / s <= 8)
        for count in range(int(self._high / step) + 1):
            y = self.y(count * step)
            parts.append(_line("grid", left, right, y, y))
            parts.append(_text(left - 7, y + 3.5, f"{100 * count * step:g} %", "tick end"))
        ticks = [value for value in _TICKS if self._least <= value <= self._most]
        if len(ticks) > 9:
            ticks = [value for value in ticks if f"{value:e}"[0] == "1"]
        for value in (0.0, *ticks):
            x = self.x(value)
            parts.append(_line("grid", x, x, _TOP, base))
            parts.append(_text(x, base + 16, f"{value:g}", "tick middle"))
        parts.append(_line("base", left, right, base, base))
        parts.append(
            _text((left + right) / 2, _HEIGHT - 8, "false accepts per hour", "axis middle")
        )
        parts.append(_text(4, 11, "missed words", "axis"))
        return "".join(parts)


def _cross(scale: _Scale, line: DetLine, stroke: str) -> str:
    assert line.mark is not None
    x, y = scale.x(line.mark[0]), scale.y(line.mark[1])
    (left, right), (low, high) = line.per_hour_95, line.miss_95
    told = _told(f"{line.name}, as it ships", *line.mark)
    across = (
        f'<line class="bar" style="{stroke}" x1="{scale.x(left):.1f}" x2="{scale.x(right):.1f}" '
    )
    along = f'<line class="bar" style="{stroke}" x1="{x:.1f}" x2="{x:.1f}" '
    return (
        f'{across}y1="{y:.1f}" y2="{y:.1f}"/>'
        f'{along}y1="{scale.y(low):.1f}" y2="{scale.y(high):.1f}"/>'
        + _dot(x, y, 5.5, line.colour, told)
    )


def _told(name: str, per_hour: float, miss_rate: float) -> str:
    return f"{name}: {100 * miss_rate:.1f} % missed at {per_hour:.2f} an hour"


def _dot(x: float, y: float, radius: float, number: int, told: str) -> str:
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" style="fill:{colour(number)}">'
        f"<title>{escape(told)}</title></circle>"
    )


def _line(kind: str, x1: float, x2: float, y1: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
