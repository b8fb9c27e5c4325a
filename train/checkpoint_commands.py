"""Commands that make a checkpoint of others, or of a bundle, without training."""

from __future__ import annotations

import os
from pathlib import Path

import click

from train.errors import one_line_errors
from train.options import DATA, FILE, FOLDER, SEED, SYNTHETIC

__all__ = ["COMMANDS"]

OUT = click.option("--out", type=FOLDER, required=True, help="Folder of the checkpoint to write.")


@click.command()
@click.argument("bundle")
@OUT
@click.option("--recipe", type=FILE, help="Instead of the one that the bundle tells.")
def restore(bundle: str, out: Path, recipe: Path | None) -> None:
    """Make a checkpoint of a BUNDLE's float model, to prune, distil or tune it on."""
    from ssast_edge.bundle import load_bundle
    from train.recipe import load_recipe
    from train.restore import restore as run

    with one_line_errors():
        loaded = load_recipe(recipe) if recipe else None
        click.echo(f"{run(load_bundle(bundle), out, loaded)}")


@click.command()
@click.argument("run", type=FOLDER)
@click.option("--start", type=FOLDER, required=True, help="Checkpoint that the run started from.")
@click.option(
    "--share", type=float, default=0.3, show_default=True, help="Of the start's weights, 0 to 1."
)
@OUT
def interpolate(run: Path, start: Path, share: float, out: Path) -> None:
    """Draw the weights of checkpoint RUN back towards those that it started from.

    Most of what the start knew comes back, for little of what the run learned.
    """
    from train.checkpoint import save_checkpoint
    from train.interpolation import interpolate as between

    with one_line_errors():
        _refuse_to_replace(out)
        save_checkpoint(out, between(run, start, share))
        click.echo(f"{out}")


@click.command()
@click.argument("runs", type=FOLDER, nargs=-1, required=True)
@OUT
def average(runs: tuple[Path, ...], out: Path) -> None:
    """Write the mean of the weights of checkpoints RUNS, which began with the same encoder.

    Seeds, data and settings may differ; the mean costs no more to run than one of them.
    """
    from train.checkpoint import save_checkpoint
    from train.interpolation import average_runs

    with one_line_errors():
        _refuse_to_replace(out)
        save_checkpoint(out, average_runs(runs))
        click.echo(f"{out}")


@click.command()
@click.argument("first", type=FOLDER)
@click.argument("second", type=FOLDER)
@click.option("--name", required=True, help="Of the model.")
@click.option("--label", "labels", multiple=True,
              help="Of SECOND, to be told; none given: all that FIRST does not know.")  # fmt: skip
@OUT
def join(first: Path, second: Path, name: str, labels: tuple[str, ...], out: Path) -> None:
    """Make one model of FIRST and SECOND, which share their first blocks (frozen_blocks).

    FIRST's labels score as they did; what both share is computed once.
    """
    from train.branching import join as run
    from train.checkpoint import save_checkpoint

    with one_line_errors():
        _refuse_to_replace(out)
        joined = run(first, second, name=name, labels=labels)
        save_checkpoint(out, joined)
        click.echo(f"shared blocks: {joined.progress['joined']['shared_blocks']}; {out}")


@click.command()
@click.argument("checkpoint", type=FOLDER)
@DATA
@SYNTHETIC
@SEED
@OUT
def balance(
    checkpoint: Path, data: Path, synthetic: tuple[Path, ...], seed: int, out: Path
) -> None:
    """Lower the logits of other speech and silence until CHECKPOINT tells clips right the most.

    On validation clips, weighed as Speech Commands weighs them. Words score as before.
    """
    from train.balance import LARGEST
    from train.balance import balance as run
    from train.checkpoint import save_checkpoint

    with one_line_errors():
        _refuse_to_replace(out)
        balanced, found = run(checkpoint, data, synthetic=synthetic, seed=seed)
        save_checkpoint(out, balanced)
        for name, after in found.after.items():
            parts = zip(("words", "other words", "silence"), found.before[name], after, strict=True)
            told = ", ".join(f"{part} {old:.1%} to {new:.1%}" for part, old, new in parts)
            click.echo(f"{name}: {told}")
        words, others, silences = found.clips
        click.echo(f"chosen on {words} words, {others} other words and {silences} silences")
        if LARGEST in (abs(found.unknown), abs(found.silence)):
            click.echo(
                "that is as far as was tried: look at what the model was trained on", err=True
            )
        click.echo(f"_unknown_ lower by {found.unknown:g}, _silence_ by {found.silence:g}: {out}")


def _refuse_to_replace(out: Path) -> None:
    """Before the work, not after it."""
    from train.checkpoint import CheckpointError, has_checkpoint

    if has_checkpoint(out):
        raise CheckpointError(f"{out} is there already: not replaced, give another --out")
    if out.exists() and not out.is_dir():
        raise CheckpointError(f"{out} is a file: wanted a folder to write, give another --out")
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise CheckpointError(f"{above} cannot be written in: {out} has to be, give another --out")


COMMANDS = (restore, interpolate, average, join, balance)
