"""Options that several commands of `python -m train` and `python -m optimize` take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = [
    "ACCELERATOR",
    "CACHE",
    "DATA",
    "FILE",
    "FOLDER",
    "JOBS",
    "MANIFESTS",
    "MINED",
    "NO_CACHE",
    "RUN_OPTIONS",
    "SEED",
    "SYNTHETIC",
    "THREADS",
    "WORKERS",
    "options_of",
]

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path)
Command = TypeVar("Command", bound=Callable[..., Any])


def options_of(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in the order of the help."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


DATA = click.option(
    "--data", type=FOLDER, default=Path("../shared/data"), show_default=True,
    help="Recordings of keyword and phone recipes.",
)  # fmt: skip
MANIFESTS = click.option(
    "--manifests", type=FOLDER, default=Path("runs/manifests"), show_default=True,
    help="Folder of the manifests that recipes name.",
)  # fmt: skip
CACHE = click.option(
    "--cache", type=FOLDER, default=Path("runs/pcm"), show_default=True,
    help="Recordings decoded once.",
)  # fmt: skip
NO_CACHE = click.option(
    "--no-cache", is_flag=True,
    help="Decode recordings whenever they are read: for corpora larger than the disk.",
)  # fmt: skip
SYNTHETIC = click.option(
    "--synthetic", type=FOLDER, multiple=True, default=(Path("runs/synthetic"),), show_default=True,
    help="Speech of `python -m train.synthesize`, for recipes of keywords and phones; repeatable.",
)  # fmt: skip
MINED = click.option(
    "--mined", type=FILE, multiple=True,
    help="Windows of `python -m train mine`, for keyword recipes that want them.",
)  # fmt: skip
JOBS = click.option(
    "--jobs", type=click.IntRange(min=1), default=2, show_default=True,
    help="Processes that work on recordings side by side.",
)  # fmt: skip
SEED = click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
ACCELERATOR = click.option(
    "--accelerator", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto",
    show_default=True,
)  # fmt: skip
WORKERS = click.option(
    "--workers", type=click.IntRange(min=0), default=1, show_default=True,
    help="Processes that make batches, for each training process.",
)  # fmt: skip
THREADS = click.option(
    "--threads", type=click.IntRange(min=0), default=0,
    help="Of the CPU, in training.  [default: torch's choice]",
)  # fmt: skip

# Of every command of `train` that trains a recipe.
RUN_OPTIONS = options_of(
    click.argument("recipe", type=FILE),
    click.option("--out", type=FOLDER, help="Folder of the run.  [default: runs/<name>]"),
    click.option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe key."
    ),
    MANIFESTS,
    CACHE,
    NO_CACHE,
    ACCELERATOR,
    click.option("--devices", type=click.IntRange(min=0), default=0,
                 help="Of this node.  [default: all; torchrun decides]"),
    click.option("--nodes", type=click.IntRange(min=1), default=1, show_default=True),
    WORKERS,
    THREADS,
)  # fmt: skip
