"""The steps of a chain that make bundles: of the dense model, of the small one in every flavour."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from optimize.bundling.assemble import Flavour, assemble
from optimize.bundling.flavours import write_flavours
from optimize.chain.context import Context
from optimize.chain.keeper import Done, digest_file
from optimize.quantization.precision import half_graph
from optimize.quantization.quantize import CalibrationError, float_model, quantize_bundle
from ssast_edge.backends import open_backend
from ssast_edge.bundle import Bundle, load_bundle
from train.export import export_bundle, origin
from train.recipe import RecipeError
from train.shipping import ship
from train.triggers import choose_triggers

_ALIKE = 1e-3  # logits in float32: one model's, exported twice

__all__ = ["bundle_of", "bundled", "dense_int8", "exported", "flavours", "published", "shipped"]


def shipped(run: Context, name: str, checkpoint: Path, source: Any) -> Done:
    """A checkpoint's float bundle, its triggers chosen; source: what the checkpoint depends on."""
    settings = _settings(run)
    inputs = {
        "source": source,
        "seed": run.recipe.seed,
        "audio": run.audio if run.is_keywords else None,
        **_choice_inputs(run),
        **settings,
    }

    def work(folder: Path) -> dict[str, Any]:
        ship(
            checkpoint, folder / "bundle", data=run.places.data, seed=run.recipe.seed,
            provenance=origin(), kept=run.kept_triggers, **_choice(run), **settings,
        )  # fmt: skip
        return {"bundle": "bundle"}

    return run.chain.do(name, inputs, work)


def _settings(run: Context) -> dict[str, Any]:
    """Of the bundle, as an export takes them."""
    bundle = run.recipe.bundle
    settings: dict[str, Any] = {"task": bundle.task, "hop_ms": bundle.hop_ms}
    if bundle.labels:
        settings |= {"labels": list(bundle.labels), "name": run.recipe.name}
    return settings


def _choice(run: Context) -> dict[str, Any]:
    """How triggers are chosen, as `choose_triggers` takes it."""
    bundle = run.recipe.bundle
    return {
        "price": bundle.false_accept_price,
        "longest_smoothing_ms": bundle.longest_smoothing_ms,
        "draws": bundle.trigger_draws,
        "synthetic": run.other_words,
    }


def _choice_inputs(run: Context) -> dict[str, Any]:
    """The same as a step's inputs: of speech that a folder holds, what its manifest says."""
    manifests = [digest_file(folder / "manifest.csv") for folder in run.other_words]
    rule = 3  # of train/triggers.py, raised when another choice comes of the same
    named = run.recipe.bundle.triggers_from  # its manifest tells its models and its triggers
    kept = digest_file(load_bundle(named).path / "bundle.json") if named else None
    return {**_choice(run), "synthetic": manifests, "rule": rule, "kept": kept}


def exported(run: Context, small: Path) -> Done:
    """The small model's float bundle; its triggers come later."""
    inputs = {
        "weights": digest_file(small / "average.safetensors"),
        "told": digest_file(small / "checkpoint.json"),  # goes into the bundle's provenance
        **_settings(run),
    }

    def work(folder: Path) -> dict[str, Any]:
        export_bundle(small, folder / "bundle", provenance=origin(), **_settings(run))
        return {"bundle": "bundle"}

    return run.chain.do("export", inputs, work)


def flavours(run: Context, exported: Done) -> Done:
    """The small model in every precision, for CPUs and for TensorRT."""
    config = run.recipe.quantize

    def work(folder: Path) -> dict[str, Any]:
        base = bundle_of(exported)
        if config is None:
            source, half = float_model(base), folder / "model.fp16.onnx"
            onnx.save(half_graph(onnx.load(source)), half)
            made = [
                Flavour("onnx", "fp32", source.name),
                Flavour("tensorrt", "fp16", half.name, half),
            ]
            assemble(base, folder / "bundle", made)
            return {"bundle": "bundle"}
        manifest, listed = run.calibration(folder)
        found = write_flavours(
            base, manifest, folder / "bundle", work=folder / "work", config=config
        )
        return {
            "bundle": "bundle",
            "recordings": listed,
            "quantization": found.quantized.report.to_json(),
            "arbitration": found.arbitration.to_json(),
        }

    return run.chain.do("flavours", run.quantizing(exported), work)


def dense_int8(run: Context, dense: Done, small: Done) -> Done | None:
    """What INT8 alone makes of the dense model, in the form that won for the small one."""
    config = run.recipe.quantize
    if config is None or not run.recipe.compare.dense_int8:
        return None
    won = small.result["quantization"]
    config = dataclasses.replace(
        config, windows=min(config.windows, 64), forms=(won["form"],), observer=won["observer"]
    )
    inputs = {**run.quantizing(dense), "config": asdict(config)}

    def work(folder: Path) -> dict[str, Any]:
        manifest, _ = run.calibration(folder)
        try:
            found = quantize_bundle(bundle_of(dense), manifest, folder, config)
        except CalibrationError:  # what it costs is to be shown, not to be kept small
            free = dataclasses.replace(config, logit_budget=None, points_budget=None)
            found = quantize_bundle(bundle_of(dense), manifest, folder, free)
        return {"int8": found.cpu.name, "quantization": found.report.to_json()}

    return run.chain.do("dense-int8", inputs, work)


def bundled(run: Context, flavours: Done) -> Done:
    """The bundle that ships: triggers chosen anew, on the model that a CPU runs first."""
    card = run.recipe.bundle.model_card
    inputs = {
        "flavours": flavours.key,
        "bundle": asdict(run.recipe.bundle),
        "card": digest_file(Path(card)) if card else None,
        "seed": run.recipe.seed,
        "audio": run.audio if run.is_keywords else None,
        **_choice_inputs(run),
    }

    def work(folder: Path) -> dict[str, Any]:
        base = bundle_of(flavours)
        models = [Flavour(m.backend, m.precision, m.file) for m in base.models]
        on_cpu = [flavour for flavour in models if flavour.backend == "onnx"]
        triggers, provenance = None, run.provenance()
        if run.is_keywords:
            rehearsed = assemble(base, folder / "draft", on_cpu)
            if named := run.recipe.bundle.triggers_from:
                found = load_bundle(named)
                _check_alike(rehearsed, found, list(run.kept_triggers))
                provenance["triggers_from"] = f"{found.name} {found.version}"
            triggers, validation = choose_triggers(
                rehearsed.path, run.places.data, seed=run.recipe.seed, kept=run.kept_triggers,
                **_choice(run),
            )  # fmt: skip
            provenance["validation"] = validation
        made = assemble(
            base, folder / "bundle", models if run.recipe.bundle.tensorrt else on_cpu,
            triggers=triggers, provenance=provenance, version=run.recipe.bundle.version,
            model_card=Path(card).read_text(encoding="utf-8") if card else None,
        )  # fmt: skip
        return {
            "bundle": "bundle",
            "models": [asdict(model) for model in made.models],
            "validation": provenance.get("validation"),
        }

    return run.chain.do("bundle", inputs, work)


def published(run: Context, bundled: Done) -> None:
    """OUT/bundle is the bundle of this recipe, whichever an earlier run left there."""
    target, made = run.out / "bundle", bundled.folder / "bundle"
    if (target / "bundle.json").is_file() and _same(target, made):
        return
    partial = run.out / f".bundle.{os.getpid()}.tmp"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(made, partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


def bundle_of(done: Done) -> Bundle:
    """The bundle that a step made."""
    return load_bundle(done.folder / "bundle")


def _check_alike(ours: Bundle, named: Bundle, labels: Sequence[str]) -> None:
    """Refuse triggers of another model: what scores otherwise fires otherwise at them."""
    if ours.golden.fbank.shape != named.golden.fbank.shape:
        raise RecipeError(f"bundle.triggers_from: {named.name} has windows of other frames")
    if not any((m.backend, m.precision) == ("onnx", "fp32") for m in named.models):
        raise RecipeError(
            f"bundle.triggers_from: {named.name} has no fp32 model to compare ours to"
        )
    opened = [open_backend(bundle, kind="onnx", precision="fp32") for bundle in (ours, named)]
    whole = ours.golden.fbank
    for fbank in (whole, np.ascontiguousarray(whole[::-1]), named.golden.fbank):
        told = [
            backend.infer(fbank)[[bundle.model_labels.index(label) for label in labels]]
            for backend, bundle in zip(opened, (ours, named), strict=True)
        ]
        apart = float(np.abs(told[0] - told[1]).max())
        if not apart <= _ALIKE:
            raise RecipeError(
                f"bundle.triggers_from: {', '.join(labels)} score up to {apart:.2g} apart in "
                f"{named.name} (at most {_ALIKE}): another model's triggers are not ours"
            )


def _same(left: Path, right: Path) -> bool:
    return (left / "bundle.json").read_bytes() == (right / "bundle.json").read_bytes()
