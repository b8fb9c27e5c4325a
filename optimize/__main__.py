"""Command line of the way from a model to the edge: `python -m optimize COMMAND --help`."""

from __future__ import annotations

from pathlib import Path

import click

from train.errors import one_line_errors

FILE = click.Path(path_type=Path)


@click.group()
def main() -> None:
    """Make models smaller and faster, and say what it costs."""


@main.command()
@click.argument("bundle")
@click.option(
    "--audio",
    type=FILE,
    required=True,
    help="Manifest, or folder of class folders, of recordings as the device will hear.",
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--split", default="", help="Of the manifest; all of it if not given.")
@click.option("--windows", type=click.IntRange(min=4), default=128, show_default=True)
@click.option(
    "--observer",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "min-max", "percentile", "mse", "entropy"]),
)
@click.option(
    "--budget",
    type=click.FloatRange(min=0, min_open=True),
    default=0.1,
    show_default=True,
    help="Mean absolute change of a logit that is allowed.",
)
@click.option(
    "--points",
    type=click.FloatRange(min=0, min_open=True),
    help="Points of accuracy (or mAP) on the labelled recordings that may be lost too.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def quantize(
    bundle: str,
    audio: Path,
    out: Path,
    split: str,
    windows: int,
    observer: str,
    budget: float,
    points: float | None,
    seed: int,
) -> None:
    """Calibrate BUNDLE's model to INT8: the fastest form for this CPU, and Q/DQ for TensorRT."""
    from optimize.quantize import QuantizeConfig, quantize_bundle
    from ssast_edge.bundle import load_bundle

    with one_line_errors():
        config = QuantizeConfig(
            windows=windows, observer=observer, logit_budget=budget, points_budget=points,
            split=split, seed=seed,
        )  # fmt: skip
        found = quantize_bundle(load_bundle(bundle), audio, out, config)
        click.echo(found.report.markdown(), nl=False)
        click.echo(f"{found.cpu}\n{found.tensorrt}")


if __name__ == "__main__":
    main(prog_name="python -m optimize")
