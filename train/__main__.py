"""Command line of the training workshop: `python -m train COMMAND --help`."""

from __future__ import annotations

from pathlib import Path

import click

from ssast_edge.errors import SsastEdgeError

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
@click.option("--jobs", default=2, show_default=True, help="Processes that render features.")
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

    with _one_line_errors():
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
@click.option("--seed", default=0, show_default=True, help="Of the validation track.")
def export(
    checkpoint: Path, bundle: Path, data: Path, model_card: Path | None, seed: int
) -> None:
    """Export a checkpoint as a bundle, its triggers chosen on the validation track."""
    from train.export import export_bundle
    from train.triggers import choose_triggers

    with _one_line_errors():
        card = model_card.read_text(encoding="utf-8") if model_card else None
        export_bundle(checkpoint, bundle)
        triggers, report = choose_triggers(bundle, data, seed=seed)
        provenance = {"validation": report}
        export_bundle(
            checkpoint, bundle, triggers=triggers, provenance=provenance, model_card=card
        )
        click.echo(f"{bundle}")


class _one_line_errors:  # noqa: N801 (reads as a keyword at its use)
    """Turns a user's mistakes into one line and status 1; anything else keeps its traceback."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValueError | SsastEdgeError | FileNotFoundError | FloatingPointError):
            raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main(prog_name="python -m train")
