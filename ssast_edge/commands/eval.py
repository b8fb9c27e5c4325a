"""`ssast-edge eval`: misses, false accepts and delay on a long track, of one or more detectors."""

import math
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import click

from ssast_edge.commands.interrupts import ended_by_signal
from ssast_edge.commands.options import backend_options, model_options

_PROTOCOLS = ("strict", "picovoice")  # of ssast_edge.evaluation.protocols, which needs numpy


def _positive(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"wanted a number, got {value}")
    return value


@click.command("eval")
@click.argument("bundles", nargs=-1, metavar="BUNDLE...")
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    metavar="CSV|DIR",
    help="A manifest (path,kind,label,...), or a folder of keywords/<label>, speech, "
    "sounds/<label> and noise.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="The report's folder; scores that are in it already are used again.",
)
@click.option("--split", metavar="NAME", help="Of the manifest, where it holds several.")
@click.option(
    "--protocol", type=click.Choice(_PROTOCOLS), default="strict", show_default=True,
    help="How the track is put together.",
)  # fmt: skip
@click.option(
    "--condition",
    "conditions",
    multiple=True,
    metavar="NAME",
    help="clean, reverb, telephone, or noise so far below the voice: 10dB; may be repeated.  "
    "[default: clean, 20dB, 10dB, 5dB, 0dB, reverb, telephone; picovoice: 10dB]",
)
@click.option(
    "--external",
    "externals",
    multiple=True,
    metavar="NAME=COMMAND",
    help="Another program on the same track: gets a WAV file, prints JSON lines; may be repeated.",
)
@click.option(
    "--hours",
    type=click.FloatRange(0, min_open=True),
    callback=_positive,
    metavar="H",
    help="Length of the track, at most.  [default: what the recordings give]",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, metavar="N",
              help="Of the order, the pauses and the noise.")  # fmt: skip
@click.option("--clips", is_flag=True, help="Classify or tag each recording by itself, too.")
@click.option(
    "--clip-rule",
    type=click.Choice(("last", "max", "mean")),
    help="Which of its hops' scores are a clip's, with --clips.  [default: last where every clip "
    "fits into a window, else max]",
)
@backend_options
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True, metavar="N",
              help="CPU threads for inference.")  # fmt: skip
@ended_by_signal()
def eval(
    bundles: tuple[str, ...],
    data: Path,
    out: Path,
    split: str | None,
    protocol: str,
    conditions: tuple[str, ...],
    externals: tuple[str, ...],
    hours: float | None,
    seed: int,
    clips: bool,
    clip_rule: Literal["last", "max", "mean"] | None,
    **model: Any,
) -> None:
    """Measure BUNDLEs on hours of recordings, each through the same streaming runtime.

    One long seeded track of keywords among speech and sounds, heard in every condition. Writes
    report.html (curves, false accepts and misses to listen to), report.json and report.md. The
    same command again goes on from where it was stopped.
    """
    from ssast_edge.bench.files import check_folder
    from ssast_edge.commands.evaluating import Evaluation, evaluate
    from ssast_edge.evaluation.conditions import condition_name

    if not bundles and not externals:
        raise click.UsageError("give a BUNDLE, or --external NAME=COMMAND")
    wanted = Evaluation(
        bundles=bundles,
        data=data,
        out=out,
        split=split,
        protocol=protocol,
        conditions=tuple(dict.fromkeys(condition_name(name) for name in conditions)),
        externals=_named(externals),
        hours=hours,
        seed=seed,
        clips=clips,
        clip_rule=clip_rule,
        command=shlex.join(["ssast-edge", *sys.argv[1:]]),
        model=model_options(**model),
    )
    was_there = out.exists()
    check_folder(out)  # before minutes of work
    try:
        report, page = evaluate(wanted)
    except KeyboardInterrupt as error:
        raise click.ClickException("stopped: the same command goes on from here") from error
    finally:
        if not was_there:
            with suppress(OSError):  # what was kept stays
                out.rmdir()
    click.echo(report, nl=False)
    click.echo(f"written: {page}, report.md, report.json", err=True)


def _named(externals: tuple[str, ...]) -> dict[str, str]:
    commands = {}
    for text in externals:
        name, equals, command = text.partition("=")
        if not equals or not name.strip() or not command.strip():
            raise click.UsageError(f"--external wants NAME=COMMAND, got {text!r}")
        if name.strip() in commands:
            raise click.UsageError(f"--external {name.strip()} is given twice")
        commands[name.strip()] = command.strip()
    return commands
