"""`ssast-edge doctor`: would `listen` work here, and what to type if not."""

import dataclasses
from typing import TYPE_CHECKING

import click

from ssast_edge.commands.options import DEFAULT_BUNDLE

if TYPE_CHECKING:
    from ssast_edge.doctor.examination import Line

_COLORS = {"ok": "green", "warning": "yellow", "problem": "red", "skipped": "bright_black"}


@click.command()
@click.option(
    "--bundle", default=DEFAULT_BUNDLE, show_default=True, metavar="NAME|DIR", help="The model."
)
@click.option(
    "--device", "--microphone", metavar="INDEX|NAME", help="Microphone, as `listen` takes it."
)
@click.option("--channel", type=click.IntRange(0), metavar="N", help="Channel of the microphone.")
@click.option(
    "--backend",
    type=click.Choice(("auto", "onnx", "tensorrt")),
    default="auto",
    show_default=True,
    help="As `listen` takes it.",
)
@click.option(
    "--precision",
    type=click.Choice(("auto", "fp32", "fp16", "int8")),
    default="auto",
    show_default=True,
    help="As `listen` takes it.",
)
@click.option(
    "--no-microphone",
    "has_microphone",
    flag_value=False,
    default=True,
    help="Audio comes from a file or a pipe: leave the microphone alone.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, the last sums up.")
def doctor(as_json: bool, **options: object) -> None:
    """Check microphone, model, GPU and machine; records a second of sound.

    The status is 1 when `listen` would not work, and then only. Nothing is changed or installed.
    """
    from ssast_edge.commands.output import print_json
    from ssast_edge.doctor.checks import AREAS
    from ssast_edge.doctor.examination import examine
    from ssast_edge.doctor.finding import Options

    lines = []
    for line in examine(AREAS, Options(**options)):  # type: ignore[arg-type]
        lines.append(line)
        if as_json:
            print_json("check", _fields(line))
        else:
            _show(line)
    stopping = [line.check for line in lines if line.stops_listen]
    if as_json:
        counts = {status: _count(lines, status) for status in _COLORS}
        print_json("doctor", {"can_listen": not stopping, "stopped_by": stopping, **counts})
    else:
        click.echo(_conclusion(lines, stopping))
    if stopping:
        raise click.exceptions.Exit(1)


def _fields(line: "Line") -> dict[str, object]:
    finding = dataclasses.asdict(line.finding)
    return {"area": line.area, "check": line.check, **finding, "stops_listen": line.stops_listen}


def _show(line: "Line") -> None:
    finding = line.finding
    status = click.style(f"{finding.status:<8}", fg=_COLORS[finding.status])
    click.echo(f"{status} {line.check}: {finding.text}")
    if finding.fix:
        click.echo(f"{'':<8} -> {finding.fix}")


def _conclusion(lines: "list[Line]", stopping: list[str]) -> str:
    if stopping:
        return f"\n`listen` does not work here: {', '.join(dict.fromkeys(stopping))}"
    warnings = _count(lines, "warning") + _count(lines, "problem")
    more = f"; {warnings} thing{'' if warnings == 1 else 's'} to look at" if warnings else ""
    return f"\n`listen` works here{more}"


def _count(lines: "list[Line]", status: str) -> int:
    return sum(line.finding.status == status for line in lines)
