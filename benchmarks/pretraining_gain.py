"""What pretraining is worth: the same fine-tuning from a pretrained encoder and from scratch.

    python -m train prepare packs --root ../shared/data
    python -m benchmarks.pretraining_gain pretrain
    python -m benchmarks.pretraining_gain run
    python -m benchmarks.pretraining_gain report --json docs/figures/pretraining_gain.json

Every run lies in its own folder and is not repeated when it is there. Test clips (a held-out fold
of ESC-50) are scored once, at the end of a run; nothing is chosen by them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.output import write_json
from train.errors import one_line_errors

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "train" / "recipes"
FOLDER = click.Path(path_type=Path, file_okay=False)


@dataclass(frozen=True)
class Experiment:
    """A fine-tuning recipe, and what it starts from in each arm ("" = scratch)."""

    recipe: str
    overrides: tuple[str, ...]
    # Name -> pretrained encoder; {runs}: the folder of all runs, {fold}: the fold held out.
    arms: dict[str, str]
    folds: tuple[int, ...] = (0,)
    arm_overrides: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Pretraining:
    """A pretraining recipe and what is changed of it."""

    overrides: tuple[str, ...]
    recipe: str = "pretrain_packs_frame.toml"


_NO_VALIDATION = "engine.validate_every_steps=1000000"  # but at the end
# Small enough for two CPU cores to pretrain several times over.
_SMALL = ("model.dim=128", "model.depth=6", "model.num_heads=4")
# The shape of encoders/edge-frame.
_EDGE = (
    "model.depth=6", "model.patch_bins=128", "model.stride_bins=128", "model.patch_frames=8",
    "model.stride_frames=4",
)  # fmt: skip
_TENTH = (_NO_VALIDATION, "data.label_fraction=0.1", "optimizer.epochs=20")
_ABLATED_STEPS = (*_SMALL, "optimizer.steps=1400", "engine.validate_every_steps=700")
_SOUND_FOLDS = (1, 2, 3, 4)
# The authors' optimiser and schedule, and what has become usual since; one learning rate for all.
_REFERENCE = (
    "optimizer.kind='adam'", "optimizer.betas=[0.95, 0.999]", "optimizer.weight_decay=5e-7",
    "optimizer.clip_norm=0.0", "optimizer.schedule='steps'", "optimizer.decay_from_epoch=5",
    "optimizer.decay_factor=0.85", "optimizer.average=0.0",
)  # fmt: skip
_MODERN = ("model.drop_path=0.1", "optimizer.weight_decay=0.05")

PRETRAININGS = {
    # Run -> what it changes of the recipe of tiny-frame (joint, 50 of 64 masked).
    "ablation-joint": Pretraining(_ABLATED_STEPS),
    "ablation-discriminative": Pretraining((*_ABLATED_STEPS, "pretext.objective='discriminative'")),
    "ablation-generative": Pretraining((*_ABLATED_STEPS, "pretext.objective='generative'")),
    "ablation-mask32": Pretraining((*_ABLATED_STEPS, "pretext.num_masked=32")),
    "ablation-mask58": Pretraining((*_ABLATED_STEPS, "pretext.num_masked=58")),
    # The clips of all folds but the one that is tested, without their labels.
    **{
        f"esc50-fold{fold}": Pretraining(
            (
                *_SMALL, "data.manifest='packs_esc50.csv'", f"data.test_fold={fold}",
                "optimizer.steps=3000", "optimizer.learning_rate=1e-3",
            ),
            recipe="pretrain_packs_patch.toml",
        )
        for fold in _SOUND_FOLDS
    },
}  # fmt: skip
_ABLATION = {
    "scratch": "",
    "joint": "{runs}/ablation-joint/last",
    "discriminative": "{runs}/ablation-discriminative/last",
    "generative": "{runs}/ablation-generative/last",
    "mask 50 %": "{runs}/ablation-mask32/last",
    "mask 90 %": "{runs}/ablation-mask58/last",
}

EXPERIMENTS = {
    "speech_commands_10_percent": Experiment(
        "speech_commands_packs.toml",
        ("data.label_fraction=0.1", "optimizer.epochs=20", _NO_VALIDATION),
        {"scratch": "", "pretrained": "encoders/tiny-frame"},
    ),
    "speech_commands": Experiment(
        "speech_commands_packs.toml",
        (*_EDGE, "optimizer.epochs=8", _NO_VALIDATION),
        {"scratch": "", "pretrained": "encoders/edge-frame"},
    ),
    "esc50": Experiment(
        "esc50_packs.toml",
        (*_SMALL, "optimizer.epochs=20", "optimizer.warmup_steps=60"),
        {"scratch": "", "pretrained": "{runs}/esc50-fold{fold}/last"},
        folds=_SOUND_FOLDS,
    ),
    "ablation": Experiment("speech_commands_packs.toml", (*_SMALL, *_TENTH), _ABLATION),
    "modern": Experiment(
        "speech_commands_packs.toml",
        (*_EDGE, *_TENTH),
        dict.fromkeys(("reference", "modern", "modern, layer decay"), "encoders/edge-frame"),
        arm_overrides={
            "reference": _REFERENCE,
            "modern": _MODERN,
            "modern, layer decay": (*_MODERN, "optimizer.layer_decay=0.8"),
        },
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One fine-tuning."""

    experiment: str
    arm: str
    seed: int
    fold: int

    @property
    def folder(self) -> str:
        """Below the folder of all runs."""
        arm = re.sub(r"[ %,]", "", self.arm)
        return f"{self.experiment}/{arm}-fold{self.fold}-seed{self.seed}"


def run_one(run: Run, runs: Path, out: Path, manifests: Path, cache: Path) -> Path:
    """Fine-tune and score the test clips; returns the result's file."""
    from lightning_fabric import Fabric

    from train.checkpoint import load_classifier
    from train.corpus import open_corpus
    from train.finetune import finetune
    from train.machine import Machine
    from train.recipe import FinetuneRecipe, load_recipe, recipe_table
    from train.scoring import score_clips, targets_of

    experiment = EXPERIMENTS[run.experiment]
    overrides = (
        *experiment.overrides, *experiment.arm_overrides.get(run.arm, ()),
        f"seed={run.seed}", f"data.test_fold={run.fold}",
    )  # fmt: skip
    recipe = load_recipe(RECIPES / experiment.recipe, overrides)
    assert isinstance(recipe, FinetuneRecipe)
    folder = out / run.folder
    target = folder / "test.json"
    named = experiment.arms[run.arm].format(runs=runs.resolve(), fold=run.fold)
    start = ROOT / named if named else None
    key = _key(recipe_table(recipe), start)
    if target.is_file():
        if json.loads(target.read_text())["key"] == key:
            return target
        shutil.rmtree(folder)  # of another recipe or encoder
    machine = Machine(accelerator="cpu", workers=0, threads=1)
    last = finetune(
        recipe, manifests=manifests, cache=cache, out=folder, machine=machine,
        init=start,
    )  # fmt: skip
    fabric = Fabric(accelerator="cpu", devices=1)
    model, checkpoint = load_classifier(last)
    corpus = open_corpus(recipe, manifests, cache, fabric, machine)
    held_out = [
        index
        for index, example in enumerate(corpus.examples)
        if (example.fold == run.fold if run.fold else example.split == "test")
    ]
    part = corpus.part(held_out)
    scores = score_clips(model, part, recipe.clips, recipe.fbank, fabric=fabric, softmax=True)
    right = scores.argmax(1) == targets_of(part, checkpoint.classes).argmax(1)
    result = {
        **dataclasses.asdict(run),
        "key": key,
        "clips": len(right),
        "accuracy": float(right.mean()),
        "right": right.astype(int).tolist(),
        "speakers": [example.speaker for example in part.examples],
    }
    partial = target.with_suffix(".tmp")
    partial.write_text(json.dumps(result))
    partial.rename(target)
    return target


def _key(recipe: dict[str, Any], start: Path | None) -> str:
    """Of what a result depends on: recipe and encoder."""
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode())
    for path in sorted(start.glob("*.safetensors")) if start is not None else ():
        if path.name in ("average.safetensors", "encoder.safetensors"):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@click.group()
def main() -> None:
    """Fine-tune from scratch and from pretraining, and compare."""


@main.command("pretrain")
@click.argument("names", nargs=-1, type=click.Choice(list(PRETRAININGS)))
@click.option("--runs", type=FOLDER, default=Path("runs"), show_default=True)
@click.option("--manifests", type=FOLDER, default=Path("runs/manifests"), show_default=True)
@click.option("--cache", type=FOLDER, default=Path("runs/pcm"), show_default=True)
@click.option("--jobs", default=2, show_default=True, help="Runs side by side, a core each.")
def pretrain_all(names: Sequence[str], runs: Path, manifests: Path, cache: Path, jobs: int) -> None:
    """Pretrain the encoders NAMES (all of them by default) that the arms start from."""
    with (
        one_line_errors(),
        ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        wanted = names or PRETRAININGS
        pending = [pool.submit(pretrain_one, n, runs, manifests, cache) for n in wanted]
        for done in as_completed(pending):
            click.echo(done.result())


def pretrain_one(name: str, runs: Path, manifests: Path, cache: Path) -> Path:
    """One pretraining; an unfinished one goes on, a finished one is kept."""
    from train.machine import Machine
    from train.pretrain import pretrain
    from train.recipe import PretrainRecipe, load_recipe

    wanted = PRETRAININGS[name]
    recipe = load_recipe(RECIPES / wanted.recipe, wanted.overrides)
    assert isinstance(recipe, PretrainRecipe)
    machine = Machine(accelerator="cpu", workers=0, threads=1)
    return pretrain(recipe, manifests=manifests, cache=cache, out=runs / name, machine=machine)


@main.command("run")
@click.argument("names", nargs=-1, type=click.Choice(list(EXPERIMENTS)))
@click.option("--runs", type=FOLDER, default=Path("runs"), show_default=True)
@click.option("--out", type=FOLDER, default=Path("runs/gain"), show_default=True)
@click.option("--manifests", type=FOLDER, default=Path("runs/manifests"), show_default=True)
@click.option("--cache", type=FOLDER, default=Path("runs/pcm"), show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--folds", multiple=True, type=int, help="Only these.  [default: the experiment's]")
@click.option("--jobs", default=2, show_default=True, help="Runs side by side, a core each.")
def run_all(
    names: Sequence[str],
    runs: Path,
    out: Path,
    manifests: Path,
    cache: Path,
    seeds: int,
    folds: Sequence[int],
    jobs: int,
) -> None:
    """Make the runs of NAMES (all of them by default) that are not there yet."""
    todo = [
        Run(name, arm, seed, fold)
        for name in names or EXPERIMENTS
        for seed in range(seeds)
        for fold in EXPERIMENTS[name].folds
        if not folds or fold in folds
        for arm in EXPERIMENTS[name].arms
    ]
    with (
        one_line_errors(),
        ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        pending = [pool.submit(run_one, run, runs, out, manifests, cache) for run in todo]
        for number, done in enumerate(as_completed(pending), 1):
            result = json.loads(done.result().read_text())
            click.echo(
                f"{number}/{len(todo)} {result['experiment']} {result['arm']} "
                f"fold {result['fold']} seed {result['seed']}: {result['accuracy']:.3f}"
            )


@main.command()
@click.option("--out", type=FOLDER, default=Path("runs/gain"), show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures here.")
@click.option("--figure", type=click.Path(path_type=Path), help="Draw them as this PNG.")
def report(out: Path, path: Path | None, figure: Path | None) -> None:
    """Errors of each arm, and the share of the first arm's errors that the others save."""
    with one_line_errors():
        results = [json.loads(file.read_text()) for file in sorted(out.glob("*/*/test.json"))]
        if not results:
            raise FileNotFoundError(f"no results below {out}: run some first")
        table = {name: summarise(name, results) for name in EXPERIMENTS}
        for name, arms in table.items():
            click.echo(f"\n{name}")
            for arm in arms:
                click.echo(
                    f"  {arm['arm']:16} error {100 * arm['error']:5.1f} % "
                    f"(seeds {', '.join(f'{100 * e:.1f}' for e in arm['errors'])}; "
                    f"{arm['clips']} clips)  cut {100 * arm['cut']:5.1f} % "
                    f"(95 %: {100 * arm['cut_low']:.1f} to {100 * arm['cut_high']:.1f})"
                )
        if path:
            write_json(table, path)
        if figure:
            _draw({name: arms for name, arms in table.items() if arms}, figure)


def summarise(name: str, results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Error of every arm over the test clips, by seed, and its cut against the first arm.

    Over the folds that every arm and seed has; arms without a result are left out.
    """
    experiment = EXPERIMENTS[name]
    by_arm: dict[str, dict[tuple[int, int], dict[str, Any]]] = {}
    for result in results:
        if result["experiment"] == name and result["arm"] in experiment.arms:
            place = result["seed"], result["fold"]
            by_arm.setdefault(result["arm"], {})[place] = result
    first = next(iter(experiment.arms))
    if first not in by_arm:
        return []
    shared = set.intersection(*(set(found) for found in by_arm.values()))
    seeds = sorted({seed for seed, _ in shared})
    folds = [fold for fold in experiment.folds if all((seed, fold) in shared for seed in seeds)]
    if not folds:
        return []
    clips = [by_arm[first][seeds[0], fold] for fold in folds]
    groups = [s or str(i) for i, s in enumerate(s for r in clips for s in r["speakers"])]
    tables = {
        arm: 1.0
        - np.array([np.concatenate([found[seed, f]["right"] for f in folds]) for seed in seeds])
        for arm, found in sorted(by_arm.items(), key=lambda x: list(experiment.arms).index(x[0]))
    }
    base = tables[first]
    arms = []
    for arm, wrong in tables.items():
        low, high = _cut_interval(base, wrong, groups)
        arms.append(
            {
                "arm": arm,
                "error": float(wrong.mean()),
                "errors": wrong.mean(axis=1).tolist(),
                "clips": wrong.shape[1],
                "folds": folds,
                "cut": float(1 - wrong.mean() / base.mean()),
                "cut_low": low,
                "cut_high": high,
            }
        )
    return arms


def _draw(table: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """A bar an arm, its seeds as dots."""
    from matplotlib.figure import Figure

    from train.plots import BLUE, GREY, save_figure

    figure = Figure(figsize=(3.2 * len(table), 3.2), layout="constrained")
    axes = figure.subplots(1, len(table), squeeze=False)[0]
    for axis, (name, arms) in zip(axes, table.items(), strict=True):
        for place, arm in enumerate(arms):
            axis.bar(place, 100 * arm["error"], color=BLUE if place else GREY, width=0.7)
            axis.plot([place] * len(arm["errors"]), 100 * np.array(arm["errors"]), "k.")
        axis.set_xticks(range(len(arms)), [a["arm"] for a in arms], rotation=25, ha="right")
        axis.tick_params(labelsize=8)
        axis.set_title(name.replace("_", " "), fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("error of test clips, %", fontsize=9)
    save_figure(figure, path)


def _cut_interval(
    base: NDArray[np.float64], wrong: NDArray[np.float64], groups: Sequence[str]
) -> tuple[float, float]:
    """95 % interval of 1 - error / base error: seeds and speakers (or clips) drawn anew."""
    rng = np.random.default_rng(0)
    names, number = np.unique(groups, return_inverse=True)
    count = np.bincount(number).astype(float)
    sums = [
        np.array([np.bincount(number, weights=row) for row in table]) for table in (base, wrong)
    ]
    cuts = []
    for _ in range(2000):
        weight = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        errors = []
        for table in sums:
            seeds = rng.integers(len(table), size=len(table))
            errors.append((table[seeds] @ weight).mean() / (count @ weight))
        if errors[0]:  # a draw without an error says nothing about its cut
            cuts.append(1 - errors[1] / errors[0])
    low, high = np.quantile(cuts or [np.nan], [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()
