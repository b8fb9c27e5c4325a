"""Accuracy of the sounds on ESC-10 by cross-validation over folds 1 to 4.

    python -m benchmarks.sounds_folds --init runs/wake-words-stream/last --out runs/folds

Each fold is tested by a model that trained on the three others, exported and run as the device runs
it: every clip is a stream of its own, its class the best mean score over its hops. With --seeds,
that model is the mean of as many runs. A run that is there is not trained again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.output import write_json
from ssast_edge.bundle import Bundle, load_bundle
from ssast_edge.evaluation.bootstrap import Estimate, bootstrap
from ssast_edge.evaluation.clips import LabelledClips, labelled_clips, score_clips
from train.checkpoint import save_checkpoint
from train.errors import one_line_errors
from train.export import export_bundle
from train.interpolation import average_runs, interpolate
from train.keywords import train_keywords
from train.machine import Machine
from train.packs import read_packs
from train.recipe import KeywordRecipe, RecipeError, StreamRecipe, load_recipe
from train.streaming import train_stream
from train.triggers import as_recording

FOLDS = (1, 2, 3, 4)
RECIPE = Path("train/recipes/sounds_branch.toml")
FILE = click.Path(path_type=Path)
FOLDER = click.Path(path_type=Path, file_okay=False)


def held_out(bundle: Bundle, data: Path, fold: int, labels: Sequence[str]) -> LabelledClips:
    """The clips of a fold, and the sounds among the bundle's labels."""
    clips = [c for c in read_packs(data, ("esc10",), esc10_test_fold=fold) if c.split == "test"]
    recordings = [as_recording(clip) for clip in clips]
    return labelled_clips(bundle, recordings, sounds=True, labels=labels)


def score_fold(
    bundle: Bundle, data: Path, fold: int, labels: Sequence[str]
) -> tuple[LabelledClips, NDArray[np.float32], NDArray[np.intp]]:
    """The fold's clips, their mean scores (N, labels) and what each is (N,)."""
    clips = held_out(bundle, data, fold, labels)
    with tqdm(total=len(clips.recordings), desc=f"fold {fold}", unit="clip") as progress:
        scores = score_clips(bundle, clips, progress=progress.update)
    wanted = np.array([clips.targets[i][0] for i in scores.kept], np.intp)
    return clips, scores.tables["mean"], wanted


def figures(right: list[NDArray[np.bool_]], groups: list[list[str]], seed: int) -> dict[str, Any]:
    """Accuracy in all and by fold; clips that were cut from one recording are drawn together."""
    together = np.concatenate(right)
    drawn = np.array([name for fold in groups for name in fold])
    interval = bootstrap(lambda values: float(values.mean()), together, groups=drawn, seed=seed)
    return {
        "clips": len(together),
        "accuracy": Estimate(float(together.mean()), interval).to_json(),
        "by_fold": [round(float(fold.mean()), 4) for fold in right],
        "seed": seed,
    }


def _train(recipe: KeywordRecipe | StreamRecipe, phones: Path, how: Mapping[str, Any]) -> Path:
    if isinstance(recipe, KeywordRecipe):
        return train_keywords(recipe, **how)
    return train_stream(recipe, phones=phones, **how)


@click.command()
@click.option("--recipe", type=FILE, default=RECIPE, show_default=True)
@click.option(
    "--init",
    type=FOLDER,
    help="Pretrained encoder, {fold} in it being the fold; none: from scratch.",
)
@click.option("--data", type=FOLDER, default=Path("../shared/data"), show_default=True)
@click.option("--synthetic", type=FOLDER, multiple=True, default=(Path("runs/synthetic"),),
              show_default=True)  # fmt: skip
@click.option("--phones", type=FILE, default=Path("runs/phones.npz"), show_default=True,
              help="Of `python -m train align`, for the task stream.")  # fmt: skip
@click.option("--out", type=FOLDER, default=Path("runs/sounds-folds"), show_default=True)
@click.option("--fold", "folds", type=click.IntRange(1, 4), multiple=True, default=FOLDS,
              show_default=True)  # fmt: skip
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Of the recipe.")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True,
              help="Runs of a fold, whose mean is tested: python -m train average.")  # fmt: skip
@click.option("--share", type=float, default=0.0, show_default=True,
              help="Of --init in what is tested: python -m train interpolate.")  # fmt: skip
@click.option("--threads", type=click.IntRange(min=0), default=0, help="Of the CPU.")
@click.option("--json", "json_file", type=FILE, help="Keep the figures.")
def main(
    recipe: Path,
    init: Path | None,
    data: Path,
    synthetic: tuple[Path, ...],
    phones: Path,
    out: Path,
    folds: tuple[int, ...],
    overrides: tuple[str, ...],
    seeds: int,
    share: float,
    threads: int,
    json_file: Path | None,
) -> None:
    """Train and test the folds."""
    with one_line_errors():
        if not 0 <= share < 1:
            raise RecipeError(f"--share must be at least 0 and below 1, got {share:g}")
        if share and init is None:
            raise RecipeError("--share is of what --init gives: give both")
        loaded = load_recipe(recipe, overrides)
        if not isinstance(loaded, KeywordRecipe | StreamRecipe):
            raise RecipeError(f"{recipe}: task is {loaded.task!r}, wanted keywords or stream")
        if not isinstance(loaded, StreamRecipe) and (share or seeds > 1):
            raise RecipeError(f"{recipe}: --share and --seeds are for recipes of task 'stream'")
        right, groups = [], []
        for fold in folds:
            run = out / f"fold-{fold}"
            start = Path(str(init).replace("{fold}", str(fold))) if init else None
            how: dict[str, Any] = {
                "data": data, "synthetic": synthetic, "init": start, "jobs": 1,
                "machine": Machine(accelerator="cpu", threads=threads),
            }  # fmt: skip
            runs = []
            for number in range(seeds):
                one = replace(
                    loaded,
                    seed=loaded.seed + number,
                    data=replace(loaded.data, esc10_test_fold=fold),
                )
                folder = out / f"fold-{fold}-{number}" if number else run
                runs.append(_train(one, phones, {**how, "out": folder}))
            checkpoint = runs[0]
            if seeds > 1:
                checkpoint = run / f"average-{seeds}"
                save_checkpoint(checkpoint, average_runs(runs))
            if share:
                assert start is not None
                between = interpolate(checkpoint, start, share)
                checkpoint = run / f"interpolated-{seeds}-{share:g}"
                save_checkpoint(checkpoint, between)
            export_bundle(checkpoint, run / "bundle")
            bundle = load_bundle(run / "bundle")
            esc10 = {c.word for c in read_packs(data, ("esc10",))}
            labels = [label for label in bundle.labels if label in esc10]
            clips, scores, wanted = score_fold(bundle, data, fold, labels)
            right.append(scores.argmax(axis=1) == wanted)
            groups.append([clip.speaker for clip in clips.recordings])
            click.echo(f"fold {fold}: {right[-1].mean():.1%} of {len(wanted)} clips", err=True)
        how_made = {"recipe": str(recipe), "init": str(init or ""), "share": share, "seeds": seeds}
        write_json({**figures(right, groups, seed=0), **how_made}, json_file)


if __name__ == "__main__":
    main()
