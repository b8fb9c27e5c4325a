"""`ssast-edge bench`: latency, memory and energy of bundles on this machine, and comparisons."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssast_edge.commands.interrupts import ended_by_signal
from ssast_edge.commands.options import DEFAULT_BUNDLE

if TYPE_CHECKING:
    from ssast_edge.commands.source import SourceConfig
    from ssast_edge.errors import AudioError

_STREAM_S = 30.0  # of a microphone, which does not end by itself
_BACKENDS = ("onnx", "tensorrt")


@click.command()
@click.argument("bundles", nargs=-1, metavar="[BUNDLE]...")
@click.option(
    "--backend",
    "backends",
    type=click.Choice(_BACKENDS),
    multiple=True,
    help="May be repeated.  [default: all that the bundle has models for]",
)
@click.option(
    "--precision",
    "precisions",
    metavar="NAME",
    multiple=True,
    help="fp32, fp16 or int8; may be repeated.  [default: the same]",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 64),
    multiple=True,
    metavar="N",
    help="CPU threads; may be repeated.  [default: 1]",
)
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(1, 1024),
    multiple=True,
    metavar="N",
    help="Windows at a time; may be repeated.  [default: 1]",
)
@click.option(
    "--duration",
    metavar="TIME",
    default="20s",
    show_default=True,
    help="Of all cases together, as 20s, 30m, 2h; of the audio of a microphone too.",
)
@click.option(
    "--count",
    type=click.IntRange(1, 100_000_000),
    metavar="N",
    help="Inferences of each case, in place of a time.",
)
@click.option(
    "--input", "input_", metavar="FILE|-", help="Then listen to this with the first case."
)
@click.option("--realtime", is_flag=True, help="Play --input no faster than it was recorded.")
@click.option("--microphone", is_flag=True, help="Then listen to the microphone, for --duration.")
@click.option("--device", metavar="INDEX|NAME", help="The same with this microphone.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write report.json, report.md and report.html there.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of the report.")
@click.option(
    "--compare",
    "compared",
    type=click.Path(dir_okay=False, path_type=Path),
    nargs=2,
    metavar="A.json B.json",
    help="Measure nothing: compare two reports.",
)
@click.option(
    "--fail-over",
    metavar="PERCENT",
    help="With --compare: status 1 when a case became slower by more than this.",
)
@ended_by_signal()
def bench(
    bundles: tuple[str, ...],
    duration: str,
    count: int | None,
    out: Path | None,
    as_json: bool,
    schema: bool,
    compared: tuple[Path, Path] | None,
    fail_over: str | None,
    **options: Any,
) -> None:
    """Measure BUNDLEs (wake-words if none is given) on this machine, by stage.

    Every model of each bundle with every --threads and --batch, in interleaved rounds, with ratios
    to the first case. What cannot run here is listed with the reason. Ctrl-C ends it early and what
    was measured is written, marked as partial.
    """
    if schema:
        from ssast_edge.bench.report_json import schema as report_schema

        click.echo(json.dumps(report_schema(), indent=1))
        return
    if compared:
        _compare(compared, fail_over)
        return
    if fail_over is not None:
        raise click.UsageError("--fail-over is for --compare A.json B.json")
    if out is not None:
        from ssast_edge.bench.files import check_folder

        check_folder(out)  # before minutes of measurement
    try:
        report, failure = _measure(bundles or (DEFAULT_BUNDLE,), duration, count, **options)
    except KeyboardInterrupt as error:
        raise click.ClickException("ended before anything was measured") from error
    _write(report, out, as_json=as_json)
    if failure is not None:
        raise failure


def _measure(
    names: tuple[str, ...],
    duration: str,
    count: int | None,
    *,
    backends: tuple[str, ...],
    precisions: tuple[str, ...],
    threads: tuple[int, ...],
    batches: tuple[int, ...],
    **source_options: Any,
) -> "tuple[dict[str, Any], AudioError | None]":
    """The report, and why its last part, listening to a source, is missing."""
    from ssast_edge.bench.measure import measure
    from ssast_edge.bench.plan import Budget, Grid, expand, parse_duration
    from ssast_edge.bench.report_json import build_report
    from ssast_edge.bundle import load_bundle
    from ssast_edge.commands.benching import check_source, stream
    from ssast_edge.errors import AudioError

    duration_s = parse_duration(duration)
    source = _source(**source_options)
    grid = Grid(
        backends=backends, precisions=precisions, threads=threads or (1,), batches=batches or (1,)
    )
    cases = expand([load_bundle(name) for name in names], grid)
    if source is not None:
        check_source(source, cases[0].bundle.fbank.sample_rate)  # before minutes of measurement
    result = measure(cases, Budget(duration_s=duration_s, count=count), progress=_progress())
    streaming, failure = None, None
    streamed = next((run.case for run in result.runs if run.has_hops), None)
    if source is not None and streamed is not None and not result.is_partial:
        click.echo(f"listening with {streamed.name}", err=True)
        is_default = click.get_current_context().get_parameter_source("duration")
        is_given = is_default is click.core.ParameterSource.COMMANDLINE
        limit_s = duration_s if is_given else _STREAM_S
        try:
            streaming = stream(streamed, source, limit_s if source.input is None else None)
        except AudioError as error:
            failure = error
    command = ["ssast-edge", *sys.argv[1:]]
    return build_report(result, command=command, streaming=streaming), failure


def _source(
    *, input_: str | None, realtime: bool, microphone: bool, device: str | None
) -> "SourceConfig | None":
    from ssast_edge.commands.source import SourceConfig

    if input_ is not None and (microphone or device is not None):
        raise click.UsageError("--input is a file and --microphone or --device is not: give one")
    if input_ is None and realtime:
        raise click.UsageError("--realtime paces a file: give it with --input")
    if input_ is None and not microphone and device is None:
        return None
    return SourceConfig(input=input_, device=device, realtime=realtime)


def _progress() -> Callable[[str], None]:
    """Lines on stderr; on a terminal one line that changes."""
    if not sys.stderr.isatty():
        return lambda text: click.echo(text, err=True)
    return lambda text: click.echo(f"\r\x1b[2K{text}", err=True, nl=False)


def _write(report: dict[str, Any], out: Path | None, *, as_json: bool) -> None:
    from ssast_edge.bench.files import write_whole
    from ssast_edge.bench.report_html import to_html
    from ssast_edge.bench.report_markdown import to_markdown

    if sys.stderr.isatty():
        click.echo("\r\x1b[2K", err=True, nl=False)
    text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    markdown = to_markdown(report)
    if out is not None:
        write_whole(out / "report.json", text)
        write_whole(out / "report.md", markdown)
        write_whole(out / "report.html", to_html(report))
    click.echo(text if as_json else markdown, nl=False)
    if out is not None:
        click.echo(f"written: {out / 'report.html'}, report.md, report.json", err=True)


def _compare(paths: tuple[Path, Path], fail_over: str | None) -> None:
    from ssast_edge.bench.compare import compare, parse_limit
    from ssast_edge.bench.report_json import load_report
    from ssast_edge.bench.wording import milliseconds

    limit = None if fail_over is None else parse_limit(fail_over)
    comparison = compare(load_report(paths[0]), load_report(paths[1]), limit)
    for note in comparison.notes:
        click.echo(f"note: {note}", err=True)
    for row in comparison.rows:
        ratio = row.ratio
        click.echo(
            f"{row.name}, {row.measure}: {milliseconds(row.before_ms)} -> "
            f"{milliseconds(row.after_ms)} ms, x{ratio.value:.3f} "
            f"({ratio.low:.3f} to {ratio.high:.3f}), {row.verdict}"
        )
    if comparison.over:
        raise click.exceptions.Exit(1)
