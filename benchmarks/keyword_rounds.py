r"""What each round of training, or each start, is worth: DET curves of checkpoints on validation.

    python -m benchmarks.keyword_rounds first=runs/wake-words/last second=runs/wake-words-2/last \
        --figure docs/figures/keyword_rounds.png --json docs/figures/keyword_rounds.json

The track is the validation split's, clean and at 10 dB, of the packs of the first checkpoint's
recipe. One threshold of all keywords moves, without smoothing: what ships chooses its triggers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import torch
from matplotlib.figure import Figure

from benchmarks.output import write_json
from ssast_edge.evaluation.det import DetPoint, miss_rate_at
from train.checkpoint import load_spotter
from train.errors import one_line_errors
from train.selection import curve_of, validation_tracks

RATES = (0.5, 1.0, 2.0)  # false accepts per hour
FILE = click.Path(path_type=Path)
Curves = dict[str, dict[str, list[DetPoint]]]


def measure(checkpoints: dict[str, Path], data: Path) -> tuple[Curves, float, int]:
    """Curves by checkpoint and condition, the track's hours and its words."""
    curves: Curves = {}
    heard = None
    for name, folder in checkpoints.items():
        model, recipe = load_spotter(folder)
        if heard is None:
            heard = validation_tracks(recipe, data)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            curves[name] = {
                condition: curve_of(one, model, recipe, torch.device("cpu"))
                for condition, one in heard.items()
            }
        click.echo(f"{name}: done", err=True)
    assert heard is not None
    track = heard["clean"].track
    return curves, track.hours, len(track.words)


def _best(points: list[DetPoint]) -> list[tuple[float, float]]:
    """(false accepts per hour, least share in % missed at no more than these), ascending.

    A model that fires late misses more and fires more falsely at the same time: its plain curve
    goes back and forth.
    """
    rates = sorted({p.false_accepts_per_hour for p in points})
    return [(rate, 100 * miss_rate_at(points, rate)) for rate in rates]


def draw(curves: Curves, path: Path) -> None:
    """A panel a condition: the least that is missed at no more than so many false accepts."""
    conditions = list(next(iter(curves.values())))
    each = [points for found in curves.values() for points in found.values()]
    # Up to 30 % good models can be told apart; one that never gets there wants the whole axis.
    highest = 30 if all(100 * miss_rate_at(points, 30) < 30 for points in each) else 100
    figure = Figure(figsize=(10, 4.2))
    for number, condition in enumerate(conditions, 1):
        axes = figure.add_subplot(1, len(conditions), number)
        for name, found in curves.items():
            axes.step(*zip(*_best(found[condition]), strict=True), where="post", label=name)
        axes.set_xscale("symlog", linthresh=0.5)
        axes.set_xlim(0, 30)
        axes.set_ylim(0, highest)
        axes.set_title(condition)
        axes.set_xlabel("false accepts per hour (linear below 0.5)")
        axes.set_ylabel("missed words (%)")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def table(curves: Curves, hours: float, words: int) -> dict[str, Any]:
    """The least miss rate at each rate of false accepts."""
    return {
        "track_hours": round(hours, 3),
        "words": words,
        "curves": {
            name: {condition: _best(points) for condition, points in found.items()}
            for name, found in curves.items()
        },
        "missed_at_false_accepts_per_hour": {
            name: {
                condition: {str(rate): round(miss_rate_at(points, rate), 4) for rate in RATES}
                for condition, points in found.items()
            }
            for name, found in curves.items()
        },
    }


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, metavar="NAME=CHECKPOINT...")
@click.option("--data", type=FILE, default=Path("../shared/data"), show_default=True)
@click.option("--figure", type=FILE, help="Picture to write.")
@click.option("--json", "json_file", type=FILE, help="Keep the figures.")
def main(
    checkpoints: tuple[str, ...], data: Path, figure: Path | None, json_file: Path | None
) -> None:
    """Measure the checkpoints on one track."""
    with one_line_errors():
        named = {}
        for text in checkpoints:
            name, equals, folder = text.partition("=")
            if not equals:
                raise ValueError(f"wanted NAME=CHECKPOINT, got {text!r}")
            named[name] = Path(folder)
        curves, hours, words = measure(named, data)
        if figure is not None:
            draw(curves, figure)
        write_json(table(curves, hours, words), json_file)


if __name__ == "__main__":
    main()
