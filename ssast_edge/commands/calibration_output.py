"""What `calibrate` says at the end: a table and what it means, one JSON object, a page."""

from pathlib import Path

import click

from ssast_edge.calibration.expected import Expected
from ssast_edge.calibration.page import to_html
from ssast_edge.calibration.solve import Outcome, Solution
from ssast_edge.commands.calibrating import Found
from ssast_edge.commands.output import print_json
from ssast_edge.trigger import TriggerConfig


def tell(found: Found, page: Path, as_json: bool) -> None:
    """Write the page, and the result on stdout."""
    from ssast_edge.bench.files import write_whole

    write_whole(page, to_html(found.bundle.name, found.room, found.solution))
    if as_json:
        print_json(
            "calibration",
            {**found.record, "bundle": str(found.bundle.path), "report": str(page)},
        )
        return
    solution = found.solution
    for line in [*_table(solution.outcomes), "", *_meaning(solution)]:
        click.echo(line)
    click.echo(f"\nwritten: {found.bundle.path}\nreport:  {page}")
    click.echo(f"\nssast-edge listen --bundle {found.task.out}")


def _table(outcomes: tuple[Outcome, ...]) -> list[str]:
    rows = [("keyword", "trigger", "false accepts", "at most, per hour", "expected missed")]
    for outcome in outcomes:
        before, after = _trigger(outcome.before), _trigger(outcome.after)
        rows.append(
            (
                outcome.label,
                f"{before} -> {after}" if outcome.is_changed else f"{after}, as before",
                f"{outcome.before_count} -> {len(outcome.firings)}"
                if outcome.is_changed
                else str(len(outcome.firings)),
                f"{outcome.upper_per_hour:.3g}",
                ", ".join(map(_expected, outcome.expected)) or "not known",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _meaning(solution: Solution) -> list[str]:
    goal = solution.goal
    at = f"at {100 * goal.confidence:g} %"
    changed = sum(outcome.is_changed for outcome in solution.outcomes)
    count = f"{solution.count} false accept{'' if solution.count == 1 else 's'}"
    lines = [
        f"{count} in {solution.hours:.3g} h: expect {solution.expected_per_hour:.2g} per hour, "
        f"below {solution.upper_per_hour:.3g} per hour {at} (all keywords together)"
    ]
    if changed:
        lines.append(
            "each trigger that this recording set counts for one more than it fired: it was set "
            "just so that it did not"
        )
    for condition, missed, words in _totals(solution.outcomes):
        low, high = Expected(condition, missed, words).interval(goal.confidence)
        lines.append(
            f"expected to miss, {condition}: {missed} of {words} words, {100 * missed / words:.1f} "
            f"% ({at}: {100 * low:.1f} to {100 * high:.1f})"
        )
    unknown = [outcome.label for outcome in solution.outcomes if not outcome.expected]
    if unknown:
        lines.append(
            f"what {', '.join(unknown)} will miss is not known: the bundle holds no record of "
            "validation words for it; --positives DIR measures it on your own recordings"
        )
    return lines


def _totals(outcomes: tuple[Outcome, ...]) -> list[tuple[str, int, int]]:
    totals: dict[str, tuple[int, int]] = {}
    for outcome in outcomes:
        for expected in outcome.expected:
            missed, words = totals.get(expected.condition, (0, 0))
            totals[expected.condition] = missed + expected.missed, words + expected.words
    return [(condition, *counts) for condition, counts in totals.items()]


def _expected(expected: Expected) -> str:
    return f"{expected.condition} {expected.missed}/{expected.words}"


def _trigger(config: TriggerConfig) -> str:
    """Threshold, smoothing and hits, as short as they can be told."""
    text = f"{config.threshold:.4g}"
    if config.threshold > 0.999:
        text = f"{config.threshold:.6g}"
    text += f"/{config.smoothing_ms:g}ms" if config.smoothing_ms else ""
    return text + (f"/{config.min_hits}x" if config.min_hits > 1 else "")
