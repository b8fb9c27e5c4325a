"""Command line of the training workshop: `python -m train COMMAND --help`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from train.errors import one_line_errors

FOLDER = click.Path(path_type=Path, file_okay=False)


@click.group()
def main() -> None:
    """Train, evaluate and export SSAST models."""


@main.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--data", type=FOLDER, default=Path("../shared/data"), show_default=True)
@click.option("--synthetic", type=FOLDER, default=Path("runs/synthetic"), show_default=True)
@click.option("--out", type=FOLDER, help="Folder of the run.  [default: runs/<recipe name>]")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a recipe key."
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Processes that render features, threads that train.",
)
@click.option("--bfloat16/--float32", default=True, show_default=True, help="Autocast on the CPU.")
def finetune(
    recipe: Path,
    data: Path,
    synthetic: Path,
    out: Path | None,
    overrides: tuple[str, ...],
    jobs: int,
    bfloat16: bool,
) -> None:
    """Fine-tune a keyword model; the same command again resumes it."""
    from train.finetune import finetune as run
    from train.recipe import load_recipe

    with one_line_errors():
        loaded = load_recipe(recipe, overrides)
        folder = run(
            loaded,
            data=data,
            synthetic=synthetic,
            out=out or Path("runs") / loaded.name,
            jobs=jobs,
            bfloat16=bfloat16,
        )
        click.echo(f"{folder}")


@main.command()
@click.argument("checkpoint", type=FOLDER)
@click.option("--bundle", type=FOLDER, required=True, help="Folder to write.")
@click.option("--data", type=FOLDER, default=Path("../shared/data"), show_default=True)
@click.option("--model-card", type=click.Path(path_type=Path), help="Markdown to put beside it.")
@click.option("--note", default="", help="Put into the bundle's provenance.")
@click.option("--seed", default=0, show_default=True, help="Of the validation track.")
def export(
    checkpoint: Path, bundle: Path, data: Path, model_card: Path | None, note: str, seed: int
) -> None:
    """Export a checkpoint as a bundle, its triggers chosen on the validation track.

    A bundle that is there is replaced at the very end, or not at all.
    """
    from train.export import export_bundle, origin
    from train.triggers import choose_triggers

    with one_line_errors(), tempfile.TemporaryDirectory() as temporary:
        card = model_card.read_text(encoding="utf-8") if model_card else None
        draft = Path(temporary) / "draft"
        export_bundle(checkpoint, draft)
        triggers, report = choose_triggers(draft, data, seed=seed)
        provenance = {"validation": report, **origin()} | ({"note": note} if note else {})
        export_bundle(checkpoint, bundle, triggers=triggers, provenance=provenance, model_card=card)
        click.echo(f"{bundle}")


if __name__ == "__main__":
    main(prog_name="python -m train")
