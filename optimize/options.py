"""Options that several commands of `python -m optimize` take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from train.options import (
    ACCELERATOR,
    CACHE,
    DATA,
    FOLDER,
    JOBS,
    MANIFESTS,
    MINED,
    SYNTHETIC,
    THREADS,
    WORKERS,
    options_of,
)

__all__ = ["MACHINE", "PLACES", "places_and_machine"]

POOL = click.option(
    "--pool", type=FOLDER, default=Path("runs/pool"), show_default=True,
    help="Rendered features of keyword recipes.",
)  # fmt: skip
PLACES = options_of(MANIFESTS, DATA, CACHE, SYNTHETIC, POOL, JOBS, MINED)
MACHINE = options_of(ACCELERATOR, WORKERS, THREADS)


def places_and_machine(options: dict[str, Any]) -> tuple[Any, Any]:
    """The options of PLACES and MACHINE as the functions take them."""
    from train.machine import Machine
    from train.task import Places

    places = "manifests", "data", "cache", "synthetic", "pool", "jobs", "mined"
    machine = "accelerator", "workers", "threads"
    return (
        Places(**{name: options[name] for name in places}),
        Machine(**{name: options[name] for name in machine}),
    )
