"""Compares the models of bundles: accuracy, logits, size, cost and latency, in one run.

    python -m optimize compare dense-bundle small-bundle --data DIR

Everything is relative to the first model of the first bundle. What a figure needs and this machine
lacks (a GPU, a recipe in the bundle) is null in the result and "-" in the tables.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from optimize.comparison.clips import compare_on_clips
from optimize.comparison.latency import interleaved
from optimize.comparison.tracks import compare_on_track, open_track
from optimize.comparison.variants import Variant, variants_of
from optimize.pruning.macs import model_cost
from ssast_edge.backends import next_hop
from ssast_edge.bundle import Bundle, load_bundle
from train.evaluate import open_held_out
from train.packs import Split
from train.recipe import FinetuneRecipe, RecipeError, StreamRecipe, parse_recipe

__all__ = ["Held", "bundle_recipe", "compare", "eager_classifier", "named"]

EAGER = "torch eager fp32"


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a comparison is measured on: labelled clips of taggers, a track of keyword spotters."""

    data: Path  # packs that a track is made of
    manifests: Path  # folder of the manifests that recipes name
    cache: Path | None = None  # of decoded recordings
    manifest: Path | None = None  # clips: instead of the one in the bundle's recipe
    split: Split = "test"
    fold: int = 0  # clips: instead of a split
    conditions: tuple[str, ...] = ("clean", "10 dB")  # of a track
    scores: Path | None = None  # folder that keeps the scores on tracks


def compare(
    bundles: Sequence[tuple[str, Bundle]],
    held: Held | None,
    *,
    eager: Path | None = None,
    rounds: int = 40,
    seed: int = 0,
) -> dict[str, Any]:
    """Figures of every model of (title, bundle) pairs, ready for JSON.

    held: None leaves accuracy out. eager: a checkpoint that PyTorch runs beside them, for its time
    alone.
    """
    variants = variants_of(bundles)
    try:
        measured = _accuracy(variants, held, seed) if held is not None else {}
        golden = variants[0].bundle.golden.fbank
        calls: dict[str, Callable[[], object]] = {
            v.name: _inference(v, golden) for v in variants if v.is_native
        }
        if eager is not None:
            calls[EAGER] = eager_classifier(eager, golden)
        with tqdm(total=rounds, desc="latency", unit="round") as progress:
            times = interleaved(calls, rounds=rounds, progress=progress.update)
        table = [
            {
                "name": variant.name,
                "bundle": variant.bundle.name,
                "backend": variant.model.backend,
                "precision": variant.model.precision,
                "run_by": variant.backend.name if variant.is_native else "ONNX Runtime, on the CPU",
                "is_native": variant.is_native,
                "bytes": variant.path.stat().st_size,
                **_cost(variant.bundle),
                **measured.get(variant.name, {}),
                "latency": asdict(times[variant.name]) if variant.is_native else None,
            }
            for variant in variants
        ]
        if eager is not None:
            table.append({"name": EAGER, "latency": asdict(times[EAGER]), "backend": "torch"})
    finally:
        for variant in variants:
            variant.backend.close()
    return {
        "task": variants[0].bundle.task,
        "reference": variants[0].name,
        "machine": f"{platform.machine()}, 1 thread",
        "rounds": rounds,
        "seed": seed,
        "models": table,
    }


def named(bundles: Sequence[str]) -> list[tuple[str, Bundle]]:
    """Bundles by name or folder, each with a title of its own."""
    found: list[tuple[str, Bundle]] = []
    for place in bundles:
        bundle = load_bundle(place)
        title = bundle.name
        if any(title == other for other, _ in found):
            title = f"{title} {len(found) + 1}"
        found.append((title, bundle))
    return found


def bundle_recipe(bundle: Bundle) -> Any:
    """The recipe that its model was trained by; None where the bundle does not tell."""
    try:
        return parse_recipe(bundle.provenance.get("recipe") or {}, f"bundle {bundle.name}")
    except (RecipeError, AttributeError):
        return None


def eager_classifier(checkpoint: Path, fbank: np.ndarray[Any, Any]) -> Callable[[], object]:
    """A call of the checkpoint's model in PyTorch as it is: eager, float32, one thread."""
    import torch

    from train.checkpoint import load_classifier

    model, _ = load_classifier(checkpoint)
    window = torch.from_numpy(np.array(fbank, dtype=np.float32))[None]

    def call() -> object:
        # Set anew: something else may have set it in this process.
        torch.set_num_threads(1)
        with torch.inference_mode():
            return model(window)

    return call


def _accuracy(variants: Sequence[Variant], held: Held, seed: int) -> dict[str, dict[str, Any]]:
    bundle = variants[0].bundle
    if bundle.task == "keyword-spotting":
        track = open_track(held.data, held.split, bundle.labels, held.conditions, seed=seed)
        return compare_on_track(variants, track, cache=held.scores, seed=seed)
    recipe = bundle_recipe(bundle)
    if not isinstance(recipe, FinetuneRecipe):
        raise RecipeError(
            f"bundle {bundle.path} does not tell how its clips are cut (provenance.recipe of the "
            "task 'finetune'): compare it without clips (--latency-only), or export it again"
        )
    chosen = open_held_out(
        recipe, bundle.path, manifest=held.manifest, manifests=held.manifests, cache=held.cache,
        split=held.split, fold=held.fold,
    )  # fmt: skip
    return compare_on_clips(
        variants, chosen.part, recipe.clips, multilabel=recipe.multilabel, seed=seed
    )


def _cost(bundle: Bundle) -> dict[str, int | None]:
    recipe = bundle_recipe(bundle)
    if recipe is None:
        return {"macs": None, "parameters": None}
    shape = recipe.encoder_config()
    if isinstance(recipe, StreamRecipe):  # an inference is a hop
        tokens = round(recipe.hop_ms / recipe.fbank.hop_ms) // shape.stride_frames
        frames = shape.patch_frames + (tokens - 1) * shape.stride_frames
        shape = dataclasses.replace(shape, num_frames=frames)
    cost = model_cost(shape, len(bundle.labels))
    return {"macs": cost.macs, "parameters": cost.parameters}


def _inference(variant: Variant, fbank: np.ndarray[Any, Any]) -> Callable[[], object]:
    return next_hop(variant.backend, np.ascontiguousarray(fbank, dtype=np.float32))
