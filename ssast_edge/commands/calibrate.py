"""`ssast-edge calibrate`: triggers solved from the sound of the user's own room."""

import math
from pathlib import Path
from typing import Any

import click

from ssast_edge.commands.options import (
    DEFAULT_BUNDLE,
    backend_options,
    channel_option,
    device_option,
    model_options,
)

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)


def _finite(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"wanted a number, got {value}")
    return value


@click.command()
@click.argument("bundle", default=DEFAULT_BUNDLE, metavar="[BUNDLE]")
@click.option("--out", required=True, type=_FOLDER, metavar="DIR", help="The calibrated bundle.")
@click.option(
    "--audio",
    multiple=True,
    metavar="FILE|DIR|-",
    help="Recordings of the room instead of a microphone; - is PCM or WAV on standard input.",
)
@device_option
@channel_option
@click.option(
    "--hours",
    type=click.FloatRange(0, min_open=True),
    callback=_finite,
    metavar="H",
    help="Audio to hear, what --state holds included. Needed for a microphone.",
)
@click.option(
    "--target",
    type=click.FloatRange(0, min_open=True),
    callback=_finite,
    default=0.5,
    show_default=True,
    metavar="X",
    help="False accepts per hour, of all keywords together.",
)
@click.option("--per-keyword", is_flag=True, help="The target is for each keyword.")
@click.option(
    "--strict", is_flag=True, help="The upper bound must meet the target, not the expected rate."
)
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 0.9999),
    callback=_finite,
    default=0.95,
    show_default=True,
    metavar="X",
    help="Of the upper bounds.",
)
@click.option(
    "--keyword", "keywords", multiple=True, metavar="KEYWORD", help="Only this; may be repeated."
)
@click.option(
    "--positives",
    type=_FOLDER,
    metavar="DIR",
    help="<keyword>/*.wav in your own voice: says what would be missed.",
)
@click.option(
    "--said",
    type=_FILE,
    metavar="CSV",
    help="Moments that do not count, a keyword was said there: start_s,end_s[,audio].",
)
@click.option(
    "--state",
    type=_FOLDER,
    metavar="DIR",
    help="Keeps what was heard; the same command goes on.  [microphone: beside --out]",
)
@click.option("--solve", "only_solve", is_flag=True, help="From what --state holds: hear nothing.")
@click.option(
    "--report", type=_FILE, metavar="HTML", help="Where the page goes.  [default: beside --out]"
)
@click.option("--clips", type=_FOLDER, metavar="DIR", help="Keep the sound of the loudest moments.")
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON object.")
@click.option(
    "--threads",
    type=click.IntRange(1, 64),
    metavar="N",
    default=1,
    show_default=True,
    help="CPU threads for inference.",
)
@backend_options
def calibrate(
    bundle: str,
    out: Path,
    threads: int,
    backend: str | None,
    precision: str,
    rebuild: bool,
    as_json: bool,
    report: Path | None,
    **options: Any,
) -> None:
    """Set the triggers of BUNDLE by what is heard where nobody says a keyword.

    From recordings of the room (--audio), or hours at a microphone (--hours), that hold no
    keyword. Writes a copy of the bundle for `listen --bundle`, and says how often it will fire
    at nothing and what it will miss. Ctrl-C keeps what was heard; the same command goes on.
    """
    from ssast_edge.bundle import load_bundle
    from ssast_edge.calibration.rewrite import check_target
    from ssast_edge.commands.calibrating import Task, run
    from ssast_edge.commands.calibration_output import tell

    task = Task(out=out, **options)
    task.check()
    model = load_bundle(bundle)
    check_target(model, out)
    how = model_options(backend=backend, precision=precision, threads=threads, rebuild=rebuild)
    found = run(model, task, how)
    if found is not None:
        tell(found, report or out.parent / f"{out.resolve().name}-calibration.html", as_json)
