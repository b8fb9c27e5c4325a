"""Options that several commands of `python -m optimize` take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = ["DATA", "FILE", "FOLDER", "MACHINE", "MANIFESTS", "PLACES", "places_and_machine"]

FILE = click.Path(path_type=Path)
FOLDER = click.Path(path_type=Path, file_okay=False)
Command = TypeVar("Command", bound=Callable[..., Any])


def options_of(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in the order of the help."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


MANIFESTS = click.option(
    "--manifests", type=FOLDER, default=Path("runs/manifests"), show_default=True,
    help="Folder of the manifests that recipes name.",
)  # fmt: skip
DATA = click.option(
    "--data", type=FOLDER, default=Path("../shared/data"), show_default=True,
    help="Recordings of keyword recipes.",
)  # fmt: skip
PLACES = options_of(
    MANIFESTS,
    DATA,
    click.option("--cache", type=FOLDER, default=Path("runs/pcm"), show_default=True,
                 help="Recordings decoded once."),
    click.option("--synthetic", type=FOLDER, default=Path("runs/synthetic"), show_default=True,
                 help="Speech of `python -m train.synthesize`, for keyword recipes."),
    click.option("--pool", type=FOLDER, default=Path("runs/pool"), show_default=True,
                 help="Rendered features of keyword recipes."),
    click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True,
                 help="Processes that decode and render."),
    click.option("--mined", type=FILE, multiple=True,
                 help="Windows of `python -m train mine`, for keyword recipes that want them."),
)  # fmt: skip
MACHINE = options_of(
    click.option(
        "--accelerator", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto",
        show_default=True,
    ),
    click.option("--workers", type=click.IntRange(min=0), default=1, show_default=True,
                 help="Processes that make batches."),
    click.option("--threads", type=click.IntRange(min=0), default=0,
                 help="Of the CPU, in training.  [default: torch's choice]"),
)  # fmt: skip


def places_and_machine(options: dict[str, Any]) -> tuple[Any, Any]:
    """The options of PLACES and MACHINE as the functions take them."""
    from train.engine import Machine
    from train.task import Places

    places = "manifests", "data", "cache", "synthetic", "pool", "jobs", "mined"
    machine = "accelerator", "workers", "threads"
    return (
        Places(**{name: options[name] for name in places}),
        Machine(**{name: options[name] for name in machine}),
    )
