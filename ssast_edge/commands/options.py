"""Options and arguments that several commands take."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ssast_edge.errors import one_line

if TYPE_CHECKING:
    from ssast_edge.backends import Choice
    from ssast_edge.bundle import Bundle

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_BUNDLE = "wake-words"


device_option = click.option(
    "--device", metavar="INDEX|NAME", help="Microphone: its index or part of its name."
)
channel_option = click.option(
    "--channel",
    type=click.IntRange(0),
    metavar="N",
    help="Channel to hear, counted from 0.  [default: the mean of all]",
)


def parse_thresholds(
    ctx: click.Context, param: click.Parameter, values: Sequence[str]
) -> list[tuple[str | None, float]]:
    """`X` for every keyword as (None, x), `KEYWORD=X` as (keyword, x)."""
    parsed = []
    for value in values:
        keyword, equals, number = value.rpartition("=")
        try:
            threshold = float(number)
        except ValueError:
            threshold = None
        if threshold is None or (equals and not keyword):
            raise click.BadParameter(f"wanted X or KEYWORD=X, got {value!r}")
        if not 0 < threshold < 1:
            raise click.BadParameter(f"a threshold lies between 0 and 1, got {number}")
        parsed.append((keyword or None, threshold))
    return parsed


def refuse_nan(ctx: click.Context, param: click.Parameter, value: float) -> float:
    """A range lets NaN through, which no score is at or above."""
    if math.isnan(value):
        raise click.BadParameter("a threshold lies between 0 and 1, got nan")
    return value


def bundle_options(command: F) -> F:
    """--bundle, --hop-ms and --threads."""
    options = [
        click.option(
            "--bundle",
            default=DEFAULT_BUNDLE,
            show_default=True,
            metavar="NAME|DIR",
            help="The model: one that ships with ssast-edge, or a bundle's folder.",
        ),
        click.option(
            "--hop-ms",
            type=click.IntRange(1),
            metavar="MS",
            help="Audio between two inferences, ms, a multiple of 10.  [default: the bundle's]",
        ),
        click.option(
            "--threads",
            type=click.IntRange(1, 64),
            metavar="N",
            default=1,
            show_default=True,
            help="CPU threads for inference.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def backend_options(command: F) -> F:
    """--backend, --precision and --rebuild."""
    options = [
        click.option(
            "--backend",
            type=click.Choice(("auto", "onnx", "tensorrt")),
            help="auto takes TensorRT where `ssast-edge build` made an engine, else ONNX Runtime "
            "on the CPU.  [default: auto]",
        ),
        click.option(
            "--precision",
            type=click.Choice(("auto", "fp32", "fp16", "int8")),
            default="auto",
            show_default=True,
            help="Which of the bundle's models; auto is its first that can be run.",
        ),
        click.option(
            "--rebuild", is_flag=True, help="Build TensorRT's engine again when it does not fit."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def model_options(
    *, backend: str | None, precision: str, threads: int, rebuild: bool
) -> dict[str, Any]:
    """What `Spotter` wants to know of the model; what was chosen is told on stderr.

    Nothing is told where nothing was asked for and nothing else could have been taken.
    """
    if rebuild and backend == "onnx":
        raise click.UsageError("--rebuild is for TensorRT: leave it out with --backend onnx")

    def tell(choice: "Choice") -> None:
        if backend is not None or choice.is_notable:
            click.echo(one_line(str(choice)), err=True)

    return {
        "kind": backend or "auto",
        "precision": precision,
        "threads": threads,
        "rebuild": rebuild,
        "on_choice": tell,
        "on_note": lambda note: click.echo(one_line(note), err=True),
    }


def trigger_thresholds(
    bundle: "Bundle", keywords: Sequence[str], given: Sequence[tuple[str | None, float]]
) -> dict[str, float]:
    """The threshold of every label that may fire, as `--keyword` and `--threshold` say.

    keywords: only these, every label with a trigger when empty. A threshold given for one
    keyword goes before one given for all, wherever it stands.
    """
    from ssast_edge.bundle import resolve_label

    labels = [resolve_label(keyword, bundle.triggers) for keyword in keywords or bundle.triggers]
    for_all = [threshold for keyword, threshold in given if keyword is None]
    for_one = {resolve_label(name, bundle.triggers): x for name, x in given if name is not None}
    thresholds = {label: bundle.triggers[label].threshold for label in labels}
    thresholds.update(dict.fromkeys(labels, for_all[-1]) if for_all else {})
    thresholds.update({label: x for label, x in for_one.items() if label in thresholds})
    return thresholds
