"""The page of a calibration: when the room was nearest to a false accept, for each keyword.

No script, no reference to anything outside, light and dark.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from html import escape

import numpy as np

from ssast_edge.bench.page_style import STYLE
from ssast_edge.calibration.evidence import Evidence
from ssast_edge.calibration.grid import logit
from ssast_edge.calibration.room import Firing, Room
from ssast_edge.calibration.solve import Outcome, Solution
from ssast_edge.clock import clock
from ssast_edge.trigger import TriggerConfig

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 880, 150, 56, 18, 12, 34
_LOW, _HIGH = -3.5, 9.5  # logits of the vertical axis
_TICKS = (0.05, 0.5, 0.9, 0.99, 0.999)
_BINS = 400
_APART_S = 5.0  # between two moments of the table
_MOMENTS = 8


def to_html(name: str, room: Room, solution: Solution) -> str:
    """The whole page."""
    goal = solution.goal
    shared = "each keyword" if goal.is_per_keyword else "all keywords together"
    tiles = [
        (f"{solution.hours:.3g} h", "heard"),
        (str(solution.count), "false accepts in them"),
        (f"{solution.expected_per_hour:.2g} / h", "to be expected"),
        (f"{solution.upper_per_hour:.3g} / h", f"at most, at {100 * goal.confidence:g} %"),
        (f"{goal.target:g} / h", f"wanted, {shared}"),
    ]
    cells = "".join(f"<div><b>{escape(b)}</b><span>{escape(s)}</span></div>" for b, s in tiles)
    sections = [_section(room, outcome) for outcome in solution.outcomes]
    body = "\n".join(
        [
            f"<h1>{escape(name)} <span>calibrated</span></h1>",
            f'<section><div class="tiles">{cells}</div></section>',
            f'<section><h2>Triggers</h2><div class="scroll">{_table(solution)}</div>'
            '<p class="note">A trigger that the recording set counts for one more false accept '
            "than it fired: it was set just so that it did not.</p></section>",
            *sections,
        ]
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>ssast-edge calibrate: {escape(name)}</title>\n"
        f"<style>{STYLE}{_OWN_STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n"
        "</html>\n"
    )


_OWN_STYLE = """
svg .peak{stroke:var(--c0);stroke-width:1.6}
svg .fired{fill:var(--c4)}
svg .new{stroke:var(--c1);stroke-width:2}
svg .old{stroke:var(--muted);stroke-width:1.5;stroke-dasharray:5 4}
.fires{color:var(--c4);font-weight:600}
.moments td,.moments th{text-align:left}
"""


def _table(solution: Solution) -> str:
    head = ("keyword", "before", "now", "fired before", "fires now", "at most, per hour", "misses")
    rows = []
    for outcome in solution.outcomes:
        missed = ", ".join(f"{e.condition} {e.missed} of {e.words}" for e in outcome.expected)
        rows.append(
            (
                outcome.label,
                _said(outcome.before),
                _said(outcome.after) if outcome.is_changed else "the same",
                str(outcome.before_count),
                str(len(outcome.firings)),
                f"{outcome.upper_per_hour:.3g}",
                missed or "not known",
            )
        )
    return _html_table(head, rows)


def _section(room: Room, outcome: Outcome) -> str:
    evidence = Evidence(room, outcome.label, outcome.after.smoothing_ms)
    loudest = evidence.peaks(outcome.after.min_hits, _APART_S)[:_MOMENTS]
    before = room.firings(outcome.label, outcome.before)
    rows = [_moment(room, firing, before, outcome.firings) for firing in loudest]
    head = ("when", "recording", "score", "before", "now")
    table = _html_table(head, rows, "moments") if rows else '<p class="note">Nothing.</p>'
    lines = f"Line: the threshold, {outcome.after.threshold:g}, as before; dots: it fires."
    if outcome.is_changed:
        lines = (
            f"Solid: the threshold now, {outcome.after.threshold:g}; dashed: before, "
            f"{outcome.before.threshold:g}; dots: it fires."
        )
    return (
        f"<section><h2>{escape(outcome.label)}</h2>"
        '<p class="note">Highest score in each stretch of time, smoothed and held as the trigger '
        f"is now. {lines}</p>{_timeline(room, outcome, evidence)}"
        f'<div class="scroll">{table}</div></section>'
    )


def _moment(
    room: Room, firing: Firing, before: Sequence[Firing], after: Sequence[Firing]
) -> tuple[str, ...]:
    stretch = room.stretches[firing.stretch]
    when = clock(firing.time_s, digits=1)
    if stretch.begun:
        spoken = datetime.fromisoformat(stretch.begun) + timedelta(seconds=firing.time_s)
        when += f" ({spoken:%a %H:%M:%S})"
    return when, stretch.name, f"{firing.score:.4f}", _fires(before, firing), _fires(after, firing)


def _fires(firings: Sequence[Firing], moment: Firing) -> str:
    near = any(
        firing.stretch == moment.stretch and abs(firing.time_s - moment.time_s) < _APART_S / 2
        for firing in firings
    )
    return "fires" if near else "-"


def _timeline(room: Room, outcome: Outcome, evidence: Evidence) -> str:
    times_s, held = evidence.timeline(outcome.after.min_hits)
    total_s = max(sum(stretch.heard_s for stretch in room.stretches), 1e-3)
    unit_s, unit = (3600.0, "hours") if total_s > 7200 else (60.0, "minutes")
    right, base = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for tick in _TICKS:
        y = _y(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick end" x="{_LEFT - 7}" y="{y + 3.5:.1f}">{tick:g}</text>')
    for value in _ticks(total_s / unit_s):
        x = _LEFT + (right - _LEFT) * value * unit_s / total_s
        parts.append(f'<text class="tick middle" x="{x:.1f}" y="{base + 14}">{value:g}</text>')
    middle = (_LEFT + right) / 2
    parts.append(f'<text class="axis middle" x="{middle:.0f}" y="{base + 29}">{unit}</text>')
    bins = np.clip((times_s / total_s * _BINS).astype(int), 0, _BINS - 1)
    peaks = np.zeros(_BINS)
    np.maximum.at(peaks, bins, held)
    bars = []
    for index, peak in enumerate(peaks.tolist()):
        if peak > 0 and _y(peak) < base:
            x = _LEFT + (right - _LEFT) * (index + 0.5) / _BINS
            bars.append(f"M{x:.1f} {base}V{_y(peak):.1f}")
    if bars:
        parts.append(f'<path class="peak" d="{"".join(bars)}"/>')
    lines = [("old", outcome.before.threshold)] if outcome.is_changed else []
    for kind, threshold in [*lines, ("new", outcome.after.threshold)]:
        y = _y(threshold)
        parts.append(f'<line class="{kind}" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
    starts = np.cumsum([0.0, *(stretch.heard_s for stretch in room.stretches)])
    for firing in outcome.firings:
        at_s = starts[firing.stretch] + firing.time_s
        x = _LEFT + (right - _LEFT) * min(at_s / total_s, 1.0)
        shown = f"{room.stretches[firing.stretch].name} {clock(firing.time_s)}"
        parts.append(
            f'<circle class="fired" cx="{x:.1f}" cy="{_y(firing.score):.1f}" r="4">'
            f"<title>{escape(shown)}</title></circle>"
        )
    parts.append(f'<line class="base" x1="{_LEFT}" x2="{right}" y1="{base}" y2="{base}"/>')
    title = f"<title>{escape(outcome.label)}: scores over time</title>"
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{title}{"".join(parts)}</svg>'


def _y(score: float) -> float:
    """Height of a score, on a scale of logits."""
    value = logit(min(max(score, 1e-6), 1 - 1e-6))
    share = (min(max(value, _LOW), _HIGH) - _LOW) / (_HIGH - _LOW)
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)


def _ticks(last: float) -> list[float]:
    """Some round values from 0 to `last`."""
    rough = last / 8
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(float(power * s) for s in (1, 2, 5, 10) if rough <= power * s * 1.000001)
    return [round(step * n, 6) for n in range(int(last / step) + 1)]


def _said(config: TriggerConfig) -> str:
    text = f"{config.threshold:.6g}"
    text += f", mean of {config.smoothing_ms:g} ms" if config.smoothing_ms else ""
    return text + (f", {config.min_hits} hits" if config.min_hits > 1 else "")


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    first = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    others = "".join(
        "<tr>"
        + "".join(
            f'<td class="fires">{cell}</td>' if cell == "fires" else f"<td>{escape(cell)}</td>"
            for cell in row
        )
        + "</tr>"
        for row in rows
    )
    return f'<table class="{kind}"><thead><tr>{first}</tr></thead><tbody>{others}</tbody></table>'
