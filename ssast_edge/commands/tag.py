"""`ssast-edge tag`: the scores of every label, over time and over the whole of each file."""

import click

from ssast_edge.commands.interrupts import held_signals
from ssast_edge.commands.options import (
    backend_options,
    bundle_options,
    model_options,
    refuse_nan,
)


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@bundle_options
@backend_options
@click.option(
    "--json", "style", flag_value="json", help="A JSON object a line: hops, then overall."
)
@click.option("--csv", "style", flag_value="csv", help="Comma-separated, a row for each hop.")
@click.option(
    "--audacity",
    "style",
    flag_value="audacity",
    help="An Audacity label track: where a score is at or above --threshold.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    callback=refuse_nan,
    metavar="X",
    default=0.5,
    show_default=True,
    help="Score from 0 to 1, for --audacity.",
)
@click.option(
    "--top",
    type=click.IntRange(1),
    metavar="N",
    default=10,
    show_default=True,
    help="Labels in the table, the highest scores first.",
)
def tag(
    files: tuple[str, ...],
    bundle: str,
    hop_ms: int | None,
    threads: int,
    backend: str | None,
    precision: str,
    rebuild: bool,
    style: str | None,
    threshold: float,
    top: int,
) -> None:
    """Score FILEs with every label of a bundle, over time and overall.

    A file that cannot be read is reported on stderr, the others are done, and the status is 1.
    """
    from ssast_edge.bundle import load_bundle
    from ssast_edge.commands.report import ReportConfig, open_report
    from ssast_edge.commands.tagging import tag_files
    from ssast_edge.spotter import Spotter

    if style == "audacity" and len(files) > 1:
        raise click.UsageError("--audacity writes one label track: give one FILE")
    model = load_bundle(bundle)
    hop_s = (hop_ms or model.hop_ms) / 1000
    report = open_report(style, ReportConfig(model.labels, hop_s, threshold, top))
    with held_signals():
        spotter = Spotter(
            model,
            hop_ms=hop_ms,
            keywords=(),
            **model_options(backend=backend, precision=precision, threads=threads, rebuild=rebuild),
            on_scores=report.hop,
        )
    if not tag_files(files, spotter, report):
        raise click.exceptions.Exit(1)
