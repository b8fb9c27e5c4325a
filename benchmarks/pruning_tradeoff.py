"""Accuracy against MACs and against latency: pruning, and what it has to beat.

    python -m benchmarks.pruning_tradeoff runs/speech-commands-packs/last --out runs/tradeoff \
        --macs 0.5 --macs 0.35 --macs 0.2 --seeds 2 --test

At each share of the dense model's MACs, with the same steps of training: `pruned` (importance from
data, recovery from the dense model), `magnitude` (importance from weights), `random depth` (blocks
drawn by chance), `from scratch` (the pruned shape from random weights, no teacher). Everything is
measured on validation; --test measures the test split too, once, after all training: nothing may
be chosen by it. The same command goes on. Writes result.json and tradeoff.png.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from lightning_fabric import Fabric
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.output import write_json
from optimize.pruning.baselines import drop_depth_at_random, train_from_scratch
from optimize.pruning.budget import labels_of, measure_shapes
from optimize.pruning.macs import model_cost
from optimize.pruning.prune import PruneConfig, prune
from optimize.pruning.recovery import classifier_recipe, measure, open_data
from train.checkpoint import load_checkpoint, load_classifier
from train.errors import one_line_errors
from train.evaluate import evaluate
from train.keywords import open_keywords
from train.machine import Machine, open_machine
from train.plots import BLUE, GREY, ORANGE, save_figure
from train.recipe import FinetuneRecipe, KeywordRecipe
from train.seeds import mean_and_interval_over_seeds
from train.task import Places

ARMS = ("pruned", "magnitude", "random depth", "from scratch")
COLOURS = dict(zip(ARMS, (BLUE, "#2f855a", GREY, ORANGE), strict=True))


class Experiment:
    """Runs of every arm, share and seed below one folder; those that are there are not repeated."""

    def __init__(
        self, dense: Path, out: Path, config: PruneConfig, places: Places, machine: Machine
    ) -> None:
        self.dense, self.out, self.config = dense, out, config
        self.places, self.machine = places, machine

    def train(self, arm: str, macs: float, seed: int, say: Callable[[str], object]) -> Path:
        """The checkpoint of one arm."""
        folder = self.out / arm.replace(" ", "-") / f"macs-{macs:g}-seed-{seed}"
        config = dataclasses.replace(self.config, macs=macs, seed=seed)
        where: dict[str, Any] = {"places": self.places, "machine": self.machine}
        if arm == "random depth":
            return drop_depth_at_random(self.dense, folder, config, macs, say=say, **where)
        if arm == "from scratch":
            shape = self.train("pruned", macs, seed, say)
            return train_from_scratch(self.dense, shape, folder, config, **where)
        if arm == "magnitude":
            config = dataclasses.replace(config, importance="magnitude")
        return prune(self.dense, folder, config, say=say, **where)

    def on_validation(self, checkpoints: Sequence[Path]) -> list[dict[str, float]]:
        """Each checkpoint's numbers on the recipe's validation."""
        state = load_checkpoint(self.dense)
        recipe = classifier_recipe(state.recipe, self.dense)
        fabric = open_machine(self.machine, recipe)
        statistics = (state.mean, state.std)
        opened = open_data(recipe, self.places, fabric, self.machine, statistics=statistics)
        return [measure(load_classifier(c)[0], opened.validation, fabric) for c in checkpoints]

    def on_test(self, checkpoints: Sequence[Path]) -> list[dict[str, float]]:
        """Each checkpoint's numbers on the test split; clips with an interval over clips."""
        recipe = classifier_recipe(load_checkpoint(self.dense).recipe, self.dense)
        if isinstance(recipe, KeywordRecipe):
            return self._on_test_windows(recipe, checkpoints)
        return [self._on_test_clips(recipe, checkpoint) for checkpoint in checkpoints]

    def _on_test_clips(self, recipe: FinetuneRecipe, checkpoint: Path) -> dict[str, float]:
        folder = checkpoint.parent / "test" if checkpoint != self.dense else self.out / "dense-test"
        report = folder / "evaluation.json"
        if not report.is_file():
            evaluate(
                checkpoint, manifests=self.places.manifests, cache=self.places.cache, out=folder
            )
        found = next(iter(json.loads(report.read_text())["evaluations"].values()))
        name = "mAP" if recipe.multilabel else "accuracy"
        value = found["metrics"][name]
        return {name: value["value"], "low": value["low"], "high": value["high"]}

    def _on_test_windows(
        self, recipe: KeywordRecipe, checkpoints: Sequence[Path]
    ) -> list[dict[str, float]]:
        fabric = Fabric(accelerator="auto", devices=1)
        state = load_checkpoint(self.dense)
        opened = open_keywords(
            recipe, self.places, fabric, statistics=(state.mean, state.std), held_out="test"
        )
        return [measure(load_classifier(c)[0], opened.validation, fabric) for c in checkpoints]


def table_of(
    experiment: Experiment, shares: Sequence[float], seeds: int, arms: Sequence[str], *, test: bool
) -> dict[str, Any]:
    """Train everything, then measure everything side by side."""
    runs = {
        (arm, share, seed): experiment.train(arm, share, seed, _say(f"{arm} {share:g} {seed}"))
        for share in shares
        for seed in range(seeds)
        for arm in arms
    }
    checkpoints = [experiment.dense, *runs.values()]
    models = [load_classifier(checkpoint)[0] for checkpoint in checkpoints]
    shapes = [model.encoder.config for model in models]
    labels = labels_of(models[0])
    latencies = measure_shapes(shapes, labels)
    validated = experiment.on_validation(checkpoints)
    tested = experiment.on_test(checkpoints) if test else [{} for _ in checkpoints]
    dense = model_cost(shapes[0], labels)
    rows: list[dict[str, Any]] = []
    for key, shape, latency, on_val, on_test in zip(
        [("dense", 1.0, 0), *runs], shapes, latencies, validated, tested, strict=True
    ):
        cost = model_cost(shape, labels)
        rows.append(
            {
                "arm": key[0],
                "asked_macs_share": key[1],
                "seed": key[2],
                "macs": cost.macs,
                "macs_share": cost.macs / dense.macs,
                "parameters": cost.parameters,
                "cpu_ms": latency.cpu_ms,
                "latency_share": latency.ratio,
                "depth": shape.depth,
                "block_heads": shape.heads,
                "block_hidden": shape.hidden,
                "validation": on_val,
                "test": on_test,
            }
        )
    judged = "test" if test else "validation"
    metric = next(iter(rows[0][judged]), None)
    return {
        "checkpoint": experiment.dense.parent.name,
        "settings": dataclasses.asdict(experiment.config),
        "judged_on": judged,
        "metric": metric,
        "runs": rows,
        "summary": summary(rows, judged, metric) if metric else [],
    }


def summary(rows: Sequence[dict[str, Any]], judged: str, metric: str) -> list[dict[str, Any]]:
    """Mean over the seeds of each arm and share with its 95 % interval (null for one seed)."""
    groups: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["arm"], row["asked_macs_share"]), []).append(row)
    found = []
    for (arm, share), members in groups.items():
        estimate = mean_and_interval_over_seeds([row[judged][metric] for row in members])
        sizes = {
            name: sum(row[name] for row in members) / len(members)
            for name in ("macs", "macs_share", "cpu_ms", "latency_share")
        }
        found.append(
            {"arm": arm, "asked_macs_share": share, "seeds": len(members), **sizes}
            | {metric: estimate.to_json()}
        )
    return found


def plot(table: dict[str, Any], path: Path) -> Path:
    """The metric against MACs, and against measured latency; bars are 95 % over seeds."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _draw(left, table, "macs", 1e-6, "million MACs of one window")
    _draw(right, table, "cpu_ms", 1.0, "ms of CPU time a window, ONNX Runtime, one thread")
    left.set_ylabel(f"{table['metric']}, {table['judged_on']} (%)")
    left.legend(frameon=False, fontsize=9)
    return save_figure(figure, path)


def _draw(axis: Axes, table: dict[str, Any], key: str, scale: float, label: str) -> None:
    metric, points = table["metric"], table["summary"]
    dense = points[0]
    level = 100 * dense[metric]["value"]
    axis.axhline(level, color="#4a5568", linewidth=0.8, linestyle=":")
    axis.plot(dense[key] * scale, level, "D", color="#4a5568", label="dense")
    for arm in ARMS:
        found = sorted((p for p in points if p["arm"] == arm), key=lambda point: point[key])
        if not found:
            continue
        values = [100 * point[metric]["value"] for point in found]
        ends = [
            (point[metric]["low"], point[metric]["high"])
            if point[metric]["low"] is not None
            else (point[metric]["value"],) * 2
            for point in found
        ]
        errors = [
            [v - 100 * low for v, (low, _) in zip(values, ends, strict=True)],
            [100 * high - v for v, (_, high) in zip(values, ends, strict=True)],
        ]
        axis.errorbar(
            [point[key] * scale for point in found], values, yerr=errors, marker="o",
            color=COLOURS[arm], label=arm, capsize=3, linewidth=1.2,
        )  # fmt: skip
    axis.set_xlabel(label)
    axis.spines[["top", "right"]].set_visible(False)


def _say(name: str) -> Callable[[str], object]:
    return lambda line: click.echo(f"{name}: {line}", err=True)


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option(
    "--macs", "shares", type=click.FloatRange(0, 1, min_open=True), multiple=True,
    default=(0.6, 0.4, 0.25), show_default=True, help="Shares of the dense MACs.",
)  # fmt: skip
@click.option("--seeds", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--arm", "arms", type=click.Choice(ARMS), multiple=True, default=ARMS)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--round-steps", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--final-steps", type=click.IntRange(min=1), default=400, show_default=True)
@click.option("--samples", type=click.IntRange(min=1), default=768, show_default=True)
@click.option("--learning-rate", type=float, default=0.0, help="[default: half of the recipe's]")
@click.option("--test", is_flag=True, help="Measure the test split too, after all training.")
@click.option("--manifests", type=Path, default=Path("runs/manifests"), show_default=True)
@click.option("--cache", type=Path, default=Path("runs/pcm"), show_default=True)
@click.option("--data", type=Path, default=Path("../shared/data"), show_default=True)
@click.option("--synthetic", type=Path, multiple=True, default=(Path("runs/synthetic"),),
              show_default=True)  # fmt: skip
@click.option("--pool", type=Path, default=Path("runs/pool"), show_default=True)
@click.option("--accelerator", default="auto", show_default=True)
@click.option("--workers", type=click.IntRange(min=0), default=1, show_default=True)
@click.option("--threads", type=click.IntRange(min=0), default=1, show_default=True)
def main(
    checkpoint: Path,
    out: Path,
    shares: tuple[float, ...],
    seeds: int,
    arms: tuple[str, ...],
    rounds: int,
    round_steps: int,
    final_steps: int,
    samples: int,
    learning_rate: float,
    test: bool,
    accelerator: str,
    workers: int,
    threads: int,
    **where: Any,
) -> None:
    """Trade accuracy for cost, by pruning and by what it has to beat."""
    with one_line_errors():
        config = PruneConfig(
            rounds=rounds, round_steps=round_steps, final_steps=final_steps, samples=samples,
            learning_rate=learning_rate,
        )  # fmt: skip
        machine = Machine(accelerator=accelerator, workers=workers, threads=threads)
        experiment = Experiment(checkpoint, out, config, Places(**where), machine)
        table = table_of(experiment, shares, seeds, arms, test=test)
        write_json(table, out / "result.json")
        if table["metric"]:
            click.echo(f"{plot(table, out / 'tradeoff.png')}", err=True)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.pruning_tradeoff")
