"""Command line of the training workshop: `python -m train COMMAND --help`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from train.checkpoint_commands import COMMANDS
from train.errors import one_line_errors
from train.options import (
    CACHE,
    DATA,
    FILE,
    FOLDER,
    JOBS,
    MANIFESTS,
    MINED,
    NO_CACHE,
    RUN_OPTIONS,
    SEED,
    SYNTHETIC,
)


@click.group()
def main() -> None:
    """Pretrain, fine-tune, evaluate and export SSAST models."""


for _command in COMMANDS:
    main.add_command(_command)


@main.command()
@RUN_OPTIONS
def pretrain(recipe: Path, out: Path | None, overrides: tuple[str, ...], **options: Any) -> None:
    """Pretrain an encoder on unlabelled audio; the same command again resumes it."""
    from train.pretrain import pretrain as run
    from train.recipe import PretrainRecipe, RecipeError, load_recipe

    with one_line_errors():
        loaded = load_recipe(recipe, overrides)
        if not isinstance(loaded, PretrainRecipe):
            raise RecipeError(f"{recipe}: task is {loaded.task!r}, wanted 'pretrain'")
        folder = run(loaded, out=out or Path("runs") / loaded.name, **_clip_options(options))
        click.echo(f"{folder}")


@main.command()
@RUN_OPTIONS
@DATA
@SYNTHETIC
@JOBS
@click.option("--init", type=FILE, help="Pretrained encoder: a run's checkpoint, or an import.")
@MINED
@click.option("--phones", type=FILE, default=Path("runs/phones.npz"), show_default=True,
              help="Of `python -m train align`, for the tasks phones and stream.")  # fmt: skip
def finetune(
    recipe: Path,
    out: Path | None,
    overrides: tuple[str, ...],
    data: Path,
    synthetic: tuple[Path, ...],
    jobs: int,
    init: Path | None,
    mined: tuple[Path, ...],
    phones: Path,
    **options: Any,
) -> None:
    """Fine-tune a classifier of clips, keywords or phones; the same command again resumes it."""
    from train.finetune import finetune as run_clips
    from train.keywords import train_keywords
    from train.phones import train_phones
    from train.recipe import (
        KeywordRecipe,
        PhoneRecipe,
        PretrainRecipe,
        RecipeError,
        StreamRecipe,
        load_recipe,
    )
    from train.streaming import train_stream

    with one_line_errors():
        loaded = load_recipe(recipe, overrides)
        if isinstance(loaded, PretrainRecipe):
            raise RecipeError(f"{recipe}: task is 'pretrain': use `python -m train pretrain`")
        folder = out or Path("runs") / loaded.name
        settings = _clip_options(options)
        if isinstance(loaded, KeywordRecipe):
            click.echo(
                train_keywords(
                    loaded, data=data, synthetic=synthetic, out=folder, jobs=jobs, init=init,
                    mined=mined, machine=settings["machine"],
                )
            )  # fmt: skip
        elif isinstance(loaded, PhoneRecipe | StreamRecipe):
            train: Any = train_phones if isinstance(loaded, PhoneRecipe) else train_stream
            click.echo(
                train(
                    loaded, data=data, synthetic=synthetic, phones=phones, out=folder, jobs=jobs,
                    init=init, machine=settings["machine"],
                )
            )  # fmt: skip
        else:
            click.echo(run_clips(loaded, out=folder, init=init, **settings))


@main.command()
@click.argument("checkpoint", type=FILE)
@DATA
@SYNTHETIC
@click.option("--out", type=FILE, required=True, help="File of windows to write, .npz.")
@click.option("--hours", type=click.FloatRange(min=0, min_open=True), default=4.0,
              show_default=True, help="Of training audio.")  # fmt: skip
@click.option("--snr", "snrs", type=float, multiple=True, default=(5.0, 10.0, 20.0),
              show_default=True, help="Of the two thirds that are noisy, dB.")  # fmt: skip
@SEED
def mine(
    checkpoint: Path,
    data: Path,
    synthetic: tuple[Path, ...],
    out: Path,
    hours: float,
    snrs: tuple[float, ...],
    seed: int,
) -> None:
    """Collect the windows that a keyword CHECKPOINT gets wrong on hours of training audio.

    For a further round: `finetune RECIPE --init CHECKPOINT --mined OUT` with windows.mined above 0.
    """
    from train.mining import mine_checkpoint, training_clips

    with one_line_errors():
        clips = training_clips(checkpoint, data, synthetic)
        found = mine_checkpoint(checkpoint, clips, hours=hours, snrs_db=snrs, seed=seed)
        found.save(out)
        held = int((found.targets.sum(axis=1) > 0).sum())
        click.echo(f"{out}: {len(found.windows)} windows, {held} of them with a keyword")


@main.command()
@DATA
@click.option(
    "--synthetic",
    type=FOLDER,
    multiple=True,
    default=(Path("runs/synthetic"),),
    show_default=True,
    help="Speech of `train.synthesize`; repeatable.",
)
@click.option("--no-synthetic", is_flag=True, help="The packs alone.")
@click.option(
    "--pack",
    "packs",
    multiple=True,
    default=("speech_commands", "wake_words", "speechocean", "wuw", "librispeech"),
    show_default=True,
)
@click.option("--out", type=FILE, default=Path("runs/phones.npz"), show_default=True,
              help="File of phones to write, .npz.")  # fmt: skip
@JOBS
def align(
    data: Path,
    synthetic: tuple[Path, ...],
    no_synthetic: bool,
    packs: tuple[str, ...],
    out: Path,
    jobs: int,
) -> None:
    """Find the phones of the recordings that train and validate, for recipes of task phones.

    Recordings that cannot be aligned are skipped and listed beside OUT.
    """
    from train.packs import read_packs
    from train.phone_alignment import align_clips
    from train.training_set import read_wanted_synthetic

    with one_line_errors():
        if out.is_dir():
            raise IsADirectoryError(f"{out} is a folder: --out wants a file")
        out.parent.mkdir(parents=True, exist_ok=True)  # now: aligning takes minutes
        clips = read_packs(data, packs)
        if not no_synthetic:
            clips += read_wanted_synthetic(synthetic)
        found, skipped = align_clips([c for c in clips if c.split != "test"], jobs=jobs)
        found.save(out)
        click.echo(f"{out}: {len(found.labels)} recordings")
        listed = out.with_name(f"{out.name}.skipped.txt")
        listed.unlink(missing_ok=True)  # of an earlier run
        if skipped:
            listed.write_text("".join(f"{line}\n" for line in skipped), encoding="utf-8")
            click.echo(f"skipped: {len(skipped)}, listed in {listed}", err=True)


@main.command()
@click.argument("corpus")
@click.option("--root", type=FOLDER, required=True, help="Where the corpus lies, as published.")
@MANIFESTS
def prepare(corpus: str, root: Path, manifests: Path) -> None:
    """Write the manifests of a known CORPUS, with its official splits.

    audioset, librispeech, esc50, speech_commands_v1_12, speech_commands_v2_12,
    speech_commands_v2_35, voxceleb1, iemocap, or of this project's data folder: packs for training,
    eval for `ssast-edge eval`.
    """
    from train.data.corpora import prepare as run

    with one_line_errors():
        for path in run(corpus, root, manifests):
            click.echo(f"{path}")


@main.command()
@click.argument("manifest", type=FILE)
@click.option("--out", type=FOLDER, required=True, help="Folder of the shards.")
@click.option("--root", type=FOLDER, help="Of relative paths.  [default: the manifest's folder]")
@click.option("--clips-per-shard", type=click.IntRange(min=1), default=1000, show_default=True)
@JOBS
def shard(manifest: Path, out: Path, root: Path | None, clips_per_shard: int, jobs: int) -> None:
    """Write a manifest's recordings as WebDataset tar shards; the same command resumes it."""
    from train.data.manifest import read_manifest
    from train.data.shards import write_shards

    with one_line_errors():
        found = read_manifest(manifest, root=root)
        click.echo(f"{write_shards(found, out, clips_per_shard=clips_per_shard, jobs=jobs)}")


@main.command()
@click.argument("bundle")
@DATA
@click.option(
    "--synthetic", type=FOLDER, multiple=True, help="Words in synthetic voices too; repeatable."
)
@click.option("--out", type=FOLDER, help="Another folder.  [default: the bundle's own, replaced]")
@SEED
def background(
    bundle: str, data: Path, synthetic: tuple[Path, ...], out: Path | None, seed: int
) -> None:
    """Put background embeddings into BUNDLE, which `ssast-edge enroll` needs."""
    from tqdm import tqdm

    from ssast_edge.bundle import load_bundle
    from train.background import BACKGROUND, add_background
    from train.training_set import read_wanted_synthetic

    with one_line_errors(), tqdm(unit="clips") as bar:

        def tell(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        if synthetic:
            read_wanted_synthetic(synthetic)  # a folder that holds none is told before the work
        made = add_background(
            load_bundle(bundle), data, out, synthetic=synthetic, seed=seed, progress=tell
        )
        size = (made.path / BACKGROUND).stat().st_size
        click.echo(f"{made.path}: {BACKGROUND}, {size / 1e6:.2f} MB")


@main.command("import")
@click.argument("checkpoint", type=FILE)
@click.option("--out", type=FOLDER, required=True, help="Folder of the encoder to write.")
@click.option(
    "--stride", type=click.IntRange(min=1), nargs=2, help="BINS FRAMES of a fine-tuned .pth."
)
@click.option("--half", is_flag=True, help="Store as float16.")
def import_(checkpoint: Path, out: Path, stride: tuple[int, int] | None, half: bool) -> None:
    """Read an SSAST .pth, a Hugging Face AST folder or a run's checkpoint into an encoder folder.

    What it gives serves as --init of `finetune`.
    """
    from train.formats import save_encoder
    from train.initial import read_any

    with one_line_errors():
        save_encoder(out, read_any(checkpoint, stride=stride or None), half=half)
        click.echo(f"{out}")


@main.command("export-ssast")
@click.argument("checkpoint", type=FILE)
@click.option("--out", type=FILE, required=True, help="The .pth to write.")
@click.option("--prefix/--no-prefix", default=True, show_default=True, help="`module.` of names.")
def export_ssast(checkpoint: Path, out: Path, prefix: bool) -> None:
    """Write any checkpoint in the format of the authors' code."""
    from train.formats import write_ssast
    from train.initial import read_any

    with one_line_errors():
        write_ssast(out, read_any(checkpoint), prefix=prefix)
        click.echo(f"{out}")


@main.command()
@click.argument("checkpoint", type=FOLDER)
@click.option("--manifest", type=FILE, help="Instead of the recipe's.")
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="test",
              show_default=True)  # fmt: skip
@click.option(
    "--fold",
    type=click.IntRange(min=0),
    default=0,
    help="Cross-validation: this fold instead of a split.",
)
@click.option("--window-frames", type=click.IntRange(min=2), multiple=True,
              help="Measure at these lengths too, as the runtime cuts them.")  # fmt: skip
@click.option("--out", type=FOLDER, help="Folder of the report.  [default: beside CHECKPOINT]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
              help="Of the bootstrap.")  # fmt: skip
@MANIFESTS
@CACHE
@NO_CACHE
def evaluate(
    checkpoint: Path,
    manifest: Path | None,
    split: str,
    fold: int,
    window_frames: tuple[int, ...],
    out: Path | None,
    seed: int,
    manifests: Path,
    cache: Path,
    no_cache: bool,
) -> None:
    """Accuracy, mAP, mAUC, d-prime with intervals, per class; JSON, Markdown and HTML."""
    from train.evaluate import evaluate as run

    with one_line_errors():
        report = run(
            checkpoint, manifest=manifest, manifests=manifests,
            cache=None if no_cache else cache, split=split,
            fold=fold, window_frames=window_frames, out=out, seed=seed,
        )  # fmt: skip
        click.echo(report.read_text(), nl=False)
        click.echo(f"{report}")


@main.command()
@click.argument("checkpoint", type=FOLDER)
@click.option("--bundle", type=FOLDER, required=True, help="Folder to write.")
@DATA
@click.option("--model-card", type=FILE, help="Markdown to put beside it.")
@click.option("--note", default="", help="Put into the bundle's provenance.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
              help="Of the validation track.")  # fmt: skip
@click.option("--task", type=click.Choice(["keyword-spotting", "audio-tagging"]),
              help="Of a clip classifier's bundle.  [default: audio-tagging]")  # fmt: skip
@click.option(
    "--hop-ms",
    type=click.IntRange(min=0),
    default=0,
    help="Time between inferences.  [default: the recipe's, 200]",
)
def export(
    checkpoint: Path,
    bundle: Path,
    data: Path,
    model_card: Path | None,
    note: str,
    seed: int,
    task: str | None,
    hop_ms: int,
) -> None:
    """Export a checkpoint as a bundle that `ssast-edge` runs.

    A keyword recipe's triggers are chosen on the validation track of --data. A bundle that is
    there is replaced at the very end, or not at all.
    """
    from train.export import origin
    from train.shipping import ship

    with one_line_errors():
        card = model_card.read_text(encoding="utf-8") if model_card else None
        provenance = {**origin()} | ({"note": note} if note else {})
        ship(
            checkpoint, bundle, data=data, seed=seed, provenance=provenance, task=task or "",
            hop_ms=hop_ms, model_card=card,
        )  # fmt: skip
        click.echo(f"{bundle}")


def _clip_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options of RUN_OPTIONS as the training functions take them."""
    from train.machine import Machine

    names = "accelerator", "devices", "nodes", "workers", "threads"
    return {
        "manifests": options["manifests"],
        "cache": None if options["no_cache"] else options["cache"],
        "machine": Machine(**{name: options[name] for name in names}),
    }


if __name__ == "__main__":
    main(prog_name="python -m train")
