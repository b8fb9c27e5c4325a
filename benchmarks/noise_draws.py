"""Misses at a rate over several draws of the noise: one event of one draw decides less.

    for seed in 0 1 2 3 4; do
        ssast-edge eval wake-words --data CSV --split test --condition 10dB \
            --seed $seed --out runs/draws/$seed
    done
    python -m benchmarks.noise_draws runs/draws/*/report.json --out runs/draws.json

Reports of one bundle on the same recordings, whose order, pauses and noise their seeds drew. Adds
up the counts of each setting and reads misses off at rates of false accepts. The words are the same
in all draws: the intervals are as wide as for one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from benchmarks.output import write_json
from ssast_edge.evaluation.curves import Point, best_within, together
from ssast_edge.evaluation.intervals import miss_interval, rate_interval
from train.errors import one_line_errors

RATES = (0.0, 0.1, 0.2, 0.4, 0.5, 1.0)


def curve(report: dict[str, Any], detector: str, condition: str) -> list[Point]:
    """The curve of one detector in one condition of a report."""
    for result in report.get("results", ()):
        if (result["detector"], result["condition"]) == (detector, condition):
            return [
                Point(
                    point["setting"], point["words"], point["missed"], point["false_accepts"],
                    point["duplicates"], result["hours"],
                )
                for point in result["curve"]
            ]  # fmt: skip
    raise ValueError(f"no result of {detector} in {condition}")


def pooled(curves: Sequence[Sequence[Point]]) -> list[Point]:
    """Setting by setting, the counts of all draws together.

    Raises ValueError for curves of other settings or words: they are of other triggers or data.
    """
    grids = {tuple((point.setting, point.words) for point in points) for points in curves}
    if len(grids) > 1:
        raise ValueError("the reports' curves differ in settings or words: are they of one bundle?")
    hours = sum(points[0].hours for points in curves)
    return [replace(point, hours=hours) for point in together(dict(enumerate(curves)))]


def told(point: Point | None, draws: int) -> dict[str, Any] | None:
    """A point, its intervals as of one draw: the same words are in each, and the same speech."""
    if point is None:
        return None
    misses = miss_interval(round(point.missed / draws), point.words // draws)
    rates = rate_interval(round(point.false_accepts / draws), point.hours / draws)
    return {
        **point.counts(),
        "miss_rate_95": [round(x, 4) for x in misses],
        "false_accepts_per_hour_95": [round(x, 3) for x in rates],
    }


@click.command()
@click.argument("reports", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--detector", default="wake-words", show_default=True)
@click.option("--condition", default="10dB", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Keep the figures.")
def main(reports: tuple[Path, ...], detector: str, condition: str, out: Path | None) -> None:
    """Pool the draws."""
    with one_line_errors():
        found = [json.loads(path.read_text(encoding="utf-8")) for path in reports]
        curves = [curve(report, detector, condition) for report in found]
        seeds = [report["data"]["seed"] for report in found]
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"each report must have a seed of its own, got {seeds}")
        whole = pooled(curves)
        ships = [p for points in (whole, *curves) for p in points if p.setting == 0]
        if not ships:
            raise ValueError(f"{detector} has no setting 0: it is no bundle")
        write_json(
            {
                "detector": detector,
                "condition": condition,
                "seeds": seeds,
                "hours": round(whole[0].hours, 2),
                "ships": told(ships[0], len(curves)),
                "ships_by_draw": [
                    {"missed": p.missed, "false_accepts": p.false_accepts} for p in ships[1:]
                ],
                "at_most_per_hour": {
                    f"{rate:g}": told(best_within(whole, rate), len(curves)) for rate in RATES
                },
            },
            out,
        )


if __name__ == "__main__":
    main()
