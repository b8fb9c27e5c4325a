"""The whole chain of a recipe: dense checkpoint to a small bundle in every flavour, with a report.

    python -m optimize run optimize/recipes/wake_words.toml

Each step is kept by what it was made from (chain/keeper.py): the same command goes on where it
ended, a changed recipe redoes only what depends on the change. OUT/bundle is what ships,
OUT/report.html what it cost and gained.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from optimize.bundling.assemble import Flavour, assemble
from optimize.chain.bundle_steps import (
    bundle_of,
    bundled,
    dense_int8,
    exported,
    flavours,
    published,
    shipped,
)
from optimize.chain.context import Context, Say
from optimize.chain.keeper import ChainError, Done
from optimize.chain.training_steps import baselines, checkpoint_of, distilled, pruned, tuned
from optimize.comparison.compare import Held, compare
from optimize.comparison.report import write_report
from optimize.quantization.quantize import BudgetError, float_model
from optimize.recipe import OptimizeRecipe
from ssast_edge.bundle import load_bundle
from ssast_edge.engines.build import BuildOptions, build_engine
from ssast_edge.engines.cache import choose_model
from ssast_edge.errors import SsastEdgeError
from train.machine import Machine
from train.recipe import RecipeError
from train.task import Places

__all__ = ["optimize"]


def optimize(
    recipe: OptimizeRecipe,
    *,
    out: Path,
    places: Places,
    machine: Machine,
    say: Say,
    does_compare: bool = True,
) -> Path:
    """Do the recipe's steps below `out`; returns the report. say: gets lines of progress.

    does_compare: else it ends with the bundle, which is returned; no test recording is read.

    Raises ChainError, one line, for a step that fails: what was done before it is kept.
    """
    run = Context(recipe, out, places, machine, say)
    if not does_compare:
        bundle = bundled(run, within_budget(run, distilled(run, pruned(run))))
        published(run, bundle)
        built(run, bundle)
        return out / "bundle"
    dense = shipped(run, "dense", run.checkpoint, run.source)
    small = distilled(run, pruned(run))
    rivals = {
        title: shipped(run, f"{done.name}-bundle", checkpoint_of(done), done.key)
        for title, done in baselines(run, small).items()
    }
    made = within_budget(run, small)
    dense_in_int8 = dense_int8(run, dense, made)
    bundle = bundled(run, made)
    published(run, bundle)
    built(run, bundle)
    compared(run, dense, dense_in_int8, bundle, rivals)
    results = {name: {"seconds": d.seconds, **d.result} for name, d in run.chain.done.items()}
    return write_report(out, recipe, results)


def within_budget(run: Context, small: Path) -> Done:
    """The flavours; after fine-tuning under INT8's rounding where they miss the budget."""
    try:
        return flavours(run, exported(run, small))
    except ChainError as error:
        if run.recipe.qat is None or not isinstance(error.__cause__, BudgetError):
            raise
        run.say("flavours: the budget is missed; fine-tuning under INT8's rounding")
    return flavours(run, exported(run, tuned(run, small)))


def built(run: Context, bundled: Done) -> None:
    """TensorRT engines, where there is a TensorRT and a GPU."""
    config = run.recipe.build
    if config is None:
        return
    bundle = load_bundle(run.out / "bundle")
    found: dict[str, Any] = {}
    for precision in config.precisions:
        try:
            engine = build_engine(bundle, choose_model(bundle, precision), BuildOptions())
            found[precision] = {"engine": engine.name, "bytes": engine.stat().st_size}
            run.say(f"build {precision}: {engine}")
        except SsastEdgeError as error:
            if config.required:
                raise RecipeError(
                    f"step build failed: {error}; the bundle is kept in {bundle.path}"
                ) from error
            found[precision] = {"left_out": str(error)}
            run.say(f"build {precision}: left out: {error}")
    # No step that is kept: engines belong to this machine, and tell by themselves if they fit.
    run.chain.done["build"] = Done("build", bundled.key, run.out, {"engines": found}, 0.0, False)


def compared(
    run: Context, dense: Done, dense_int8: Done | None, bundled: Done, baselines: dict[str, Done]
) -> Done:
    """Every model beside the dense one, in one run."""
    config = run.recipe.compare
    bundles = {"dense": dense, "small": bundled, **baselines}
    inputs = {
        "bundles": {title: done.key for title, done in bundles.items()},
        "dense_int8": dense_int8.key if dense_int8 else None,
        "config": asdict(config),
        "seed": run.recipe.seed,
        "audio": run.audio,
        "manifest": run.compared_on,
        "engines": run.chain.done["build"].result if "build" in run.chain.done else None,
    }

    def work(folder: Path) -> dict[str, Any]:
        opened = [(title, bundle_of(done)) for title, done in bundles.items()]
        if dense_int8 is not None:
            base = opened[0][1]
            int8 = dense_int8.folder / str(dense_int8.result["int8"])
            both = [
                Flavour("onnx", "fp32", float_model(base).name),
                Flavour("onnx", "int8", int8.name, int8),
            ]
            opened[0] = "dense", assemble(base, folder / "dense", both)
        held = Held(
            data=run.places.data,
            manifests=run.places.manifests,
            cache=run.places.cache,
            manifest=run.places.manifests / config.manifest if config.manifest else None,
            split=config.split,  # type: ignore[arg-type]
            fold=config.fold,
            conditions=config.conditions,
            scores=run.out.parent / "scores",
        )
        return compare(
            opened, held, eager=run.checkpoint, rounds=config.rounds, seed=run.recipe.seed
        )

    return run.chain.do("compare", inputs, work)
