"""The whole chain of a recipe: dense checkpoint to a small bundle in every flavour, with a report.

    python -m optimize run optimize/recipes/wake_words.toml

Each step is kept by what it was made from (optimize/chain.py): the same command goes on where it
ended, a changed recipe redoes only what depends on the change. OUT/bundle is what ships,
OUT/report.html what it cost and gained.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx

from optimize.assemble import Flavour, assemble
from optimize.baselines import drop_depth_at_random, train_from_scratch
from optimize.calibration_audio import write_calibration_manifest
from optimize.chain import Chain, ChainError, Done, digest_file
from optimize.compare import Held, compare
from optimize.flavours import write_flavours
from optimize.precision import half_graph
from optimize.prune import prune
from optimize.qat import quantization_aware
from optimize.quantize import CalibrationError, float_model, quantize_bundle
from optimize.recipe import OptimizeRecipe
from optimize.recovery import classifier_recipe
from optimize.report import write_report
from optimize.students import teach
from ssast_edge.bundle import Bundle, load_bundle
from ssast_edge.engine import BuildOptions, build_engine, choose_model
from ssast_edge.errors import SsastEdgeError
from train.checkpoint import load_checkpoint
from train.engine import Machine
from train.export import export_bundle, origin
from train.packs import read_packs
from train.recipe import KeywordRecipe, RecipeError, recipe_table
from train.shipping import ship
from train.task import Places
from train.triggers import TRACK_PACKS, choose_triggers

__all__ = ["optimize"]

Say = Callable[[str], object]


def optimize(
    recipe: OptimizeRecipe, *, out: Path, places: Places, machine: Machine, say: Say
) -> Path:
    """Do the recipe's steps below `out`; returns the report. say: gets lines of progress.

    Raises ChainError, one line, for a step that fails: what was done before it is kept.
    """
    run = _Run(recipe, out, places, machine, say)
    dense = run.dense()
    small = run.distilled(run.pruned())
    baselines = run.baselines(small)
    flavours = run.within_budget(small)
    dense_int8 = run.dense_int8(dense)
    bundle = run.bundled(flavours)
    run.published(bundle)
    run.built(bundle)
    run.compared(dense, dense_int8, bundle, baselines)
    results = {name: {"seconds": d.seconds, **d.result} for name, d in run.chain.done.items()}
    return write_report(out, recipe, results)


class _Run:
    """The steps of one recipe, each with what it depends on."""

    def __init__(
        self, recipe: OptimizeRecipe, out: Path, places: Places, machine: Machine, say: Say
    ) -> None:
        self.recipe, self.out, self.places, self.machine = recipe, out, places, machine
        self.say = say
        self.chain = Chain(out, say, expected=(SsastEdgeError,))
        self.checkpoint = Path(recipe.checkpoint)
        state = load_checkpoint(self.checkpoint)
        self.trained = classifier_recipe(state.recipe, self.checkpoint)
        self.is_keywords = isinstance(self.trained, KeywordRecipe)
        self.source = {
            "weights": digest_file(self.checkpoint / "average.safetensors"),
            "recipe": recipe_table(state.recipe),
        }
        self.audio = self._audio()

    def dense(self) -> Done:
        """The dense model's bundle, whose triggers are chosen as any other's."""
        return self._shipped("dense", self.checkpoint, self.source)

    def pruned(self) -> Path:
        """The checkpoint to export: the pruned one, or the dense one."""
        config = self.recipe.prune
        if config is None:
            return self.checkpoint
        teacher = Path(self.recipe.teacher) if self.recipe.teacher else None
        inputs = {"source": self.source, "config": asdict(config), "audio": self.audio}
        if teacher is not None:
            load_checkpoint(teacher)  # a wrong path is one line here
            inputs["teacher"] = digest_file(teacher / "average.safetensors")

        def work(folder: Path) -> dict[str, Any]:
            last = prune(
                self.checkpoint, folder, config, places=self.places, machine=self.machine,
                teacher=teacher, say=self._indented,
            )  # fmt: skip
            return {
                "checkpoint": last.name,
                "pruning": json.loads((folder / "pruning.json").read_text()),
            }

        done = self.chain.do("prune", inputs, work)
        return done.folder / str(done.result["checkpoint"])

    def distilled(self, small: Path) -> Path:
        """The checkpoint that a teacher has taught further, or instead of pruning."""
        config = self.recipe.distill
        if config is None:
            return small
        teacher = Path(config.teacher) if config.teacher else self.checkpoint
        load_checkpoint(teacher)
        inputs = {
            "start": None if config.recipe else digest_file(small / "average.safetensors"),
            "student": digest_file(Path(config.recipe)) if config.recipe else None,
            "teacher": digest_file(teacher / "average.safetensors"),
            "config": asdict(config),
            "audio": self.audio,
        }

        def work(folder: Path) -> dict[str, Any]:
            last = teach(
                small, self.checkpoint, folder, config, places=self.places, machine=self.machine
            )
            return {"checkpoint": last.name}

        done = self.chain.do("distill", inputs, work)
        return done.folder / str(done.result["checkpoint"])

    def baselines(self, small: Path) -> dict[str, Done]:
        """Bundles of what pruning is to beat, by title."""
        wanted, config = self.recipe.baselines, self.recipe.prune
        if wanted is None or config is None:
            return {}
        pruning = self.chain.done["prune"]
        rounds = pruning.result["pruning"]["rounds"]
        share = float(rounds[-1]["macs_share"])
        inputs = {"pruned": pruning.key, "share": share}
        found = {}
        if wanted.random_depth:

            def drop(folder: Path) -> dict[str, Any]:
                last = drop_depth_at_random(
                    self.checkpoint, folder, config, share, places=self.places,
                    machine=self.machine, say=self._indented,
                )  # fmt: skip
                return {"checkpoint": last.name}

            done = self.chain.do("random-depth", inputs, drop)
            found["random depth"] = self._shipped(
                "random-depth-bundle", done.folder / str(done.result["checkpoint"]), done.key
            )
        if wanted.scratch:

            def train(folder: Path) -> dict[str, Any]:
                last = train_from_scratch(
                    self.checkpoint, small, folder, config, places=self.places,
                    machine=self.machine,
                )  # fmt: skip
                return {"checkpoint": last.name}

            done = self.chain.do("scratch", inputs, train)
            found["from scratch"] = self._shipped(
                "scratch-bundle", done.folder / str(done.result["checkpoint"]), done.key
            )
        return found

    def exported(self, small: Path) -> Done:
        """The small model's float bundle; its triggers come later."""
        inputs = {
            "weights": digest_file(small / "average.safetensors"),
            "task": self.recipe.bundle.task,
            "hop_ms": self.recipe.bundle.hop_ms,
        }

        def work(folder: Path) -> dict[str, Any]:
            export_bundle(
                small, folder / "bundle", provenance=origin(), task=self.recipe.bundle.task,
                hop_ms=self.recipe.bundle.hop_ms,
            )  # fmt: skip
            return {"bundle": "bundle"}

        return self.chain.do("export", inputs, work)

    def within_budget(self, small: Path) -> Done:
        """The flavours; after fine-tuning under INT8's rounding where they miss the budget."""
        config, quantize = self.recipe.qat, self.recipe.quantize
        try:
            return self.flavours(self.exported(small))
        except ChainError as error:
            if config is None or quantize is None or "budget" not in str(error):
                raise
            self.say("flavours: the budget is missed; fine-tuning under INT8's rounding")
        inputs = {
            "weights": digest_file(small / "average.safetensors"),
            "config": asdict(config),
            "quantize": asdict(quantize),
            "audio": self.audio,
        }

        def work(folder: Path) -> dict[str, Any]:
            manifest, _ = self._calibration(folder)
            last = quantization_aware(
                small, manifest, folder, places=self.places, machine=self.machine, config=config,
                quantize=quantize,
            )  # fmt: skip
            return {"checkpoint": last.name}

        done = self.chain.do("qat", inputs, work)
        return self.flavours(self.exported(done.folder / str(done.result["checkpoint"])))

    def flavours(self, exported: Done) -> Done:
        """The small model in every precision, for CPUs and for TensorRT."""
        config = self.recipe.quantize

        def work(folder: Path) -> dict[str, Any]:
            base = _bundle(exported)
            if config is None:
                source, half = float_model(base), folder / "model.fp16.onnx"
                onnx.save(half_graph(onnx.load(source)), half)
                made = [
                    Flavour("onnx", "fp32", source.name),
                    Flavour("tensorrt", "fp16", half.name, half),
                ]
                assemble(base, folder / "bundle", made)
                return {"bundle": "bundle"}
            manifest, listed = self._calibration(folder)
            found = write_flavours(
                base, manifest, folder / "bundle", work=folder / "work", config=config
            )
            return {
                "bundle": "bundle",
                "recordings": listed,
                "quantization": found.quantized.report.to_json(),
                "arbitration": found.arbitration.to_json(),
            }

        return self.chain.do("flavours", self._quantizing(exported), work)

    def dense_int8(self, dense: Done) -> Done | None:
        """What INT8 alone makes of the dense model."""
        config = self.recipe.quantize
        if config is None or not self.recipe.compare.dense_int8:
            return None

        def work(folder: Path) -> dict[str, Any]:
            manifest, _ = self._calibration(folder)
            try:
                found = quantize_bundle(_bundle(dense), manifest, folder, config)
            except CalibrationError:  # what it costs is to be shown, not to be kept small
                free = dataclasses.replace(config, logit_budget=None, points_budget=None)
                found = quantize_bundle(_bundle(dense), manifest, folder, free)
            return {"int8": found.cpu.name, "quantization": found.report.to_json()}

        return self.chain.do("dense-int8", self._quantizing(dense), work)

    def bundled(self, flavours: Done) -> Done:
        """The bundle that ships: triggers chosen anew, on the model that a CPU runs first."""
        card = self.recipe.bundle.model_card
        inputs = {
            "flavours": flavours.key,
            "bundle": asdict(self.recipe.bundle),
            "card": digest_file(Path(card)) if card else None,
            "seed": self.recipe.seed,
            "audio": self.audio if self.is_keywords else None,
        }

        def work(folder: Path) -> dict[str, Any]:
            base = _bundle(flavours)
            models = [Flavour(m.backend, m.precision, m.file) for m in base.models]
            on_cpu = [flavour for flavour in models if flavour.backend == "onnx"]
            triggers, provenance = None, self._provenance()
            if self.is_keywords:
                rehearsed = assemble(base, folder / "draft", on_cpu)
                triggers, validation = choose_triggers(
                    rehearsed.path, self.places.data, seed=self.recipe.seed
                )
                provenance["validation"] = validation
            made = assemble(
                base, folder / "bundle", models if self.recipe.bundle.tensorrt else on_cpu,
                triggers=triggers, provenance=provenance, version=self.recipe.bundle.version,
                model_card=Path(card).read_text(encoding="utf-8") if card else None,
            )  # fmt: skip
            return {
                "bundle": "bundle",
                "models": [asdict(model) for model in made.models],
                "validation": provenance.get("validation"),
            }

        return self.chain.do("bundle", inputs, work)

    def published(self, bundled: Done) -> None:
        """OUT/bundle is the bundle of this recipe, whichever an earlier run left there."""
        target, made = self.out / "bundle", bundled.folder / "bundle"
        if (target / "bundle.json").is_file() and _same(target, made):
            return
        partial = self.out / f".bundle.{os.getpid()}.tmp"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(made, partial)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)

    def built(self, bundled: Done) -> None:
        """TensorRT engines, where there is a TensorRT and a GPU."""
        config = self.recipe.build
        if config is None:
            return
        bundle = load_bundle(self.out / "bundle")
        found: dict[str, Any] = {}
        for precision in config.precisions:
            try:
                engine = build_engine(bundle, choose_model(bundle, precision), BuildOptions())
                found[precision] = {"engine": engine.name, "bytes": engine.stat().st_size}
                self.say(f"build {precision}: {engine}")
            except SsastEdgeError as error:
                if config.required:
                    raise RecipeError(
                        f"step build failed: {error}; the bundle is kept in {bundle.path}"
                    ) from error
                found[precision] = {"left_out": str(error)}
                self.say(f"build {precision}: left out: {error}")
        # No step that is kept: engines belong to this machine, and tell by themselves if they fit.
        self.chain.done["build"] = Done(
            "build", bundled.key, self.out, {"engines": found}, 0.0, False
        )

    def compared(
        self, dense: Done, dense_int8: Done | None, bundled: Done, baselines: dict[str, Done]
    ) -> Done:
        """Every model beside the dense one, in one run."""
        config = self.recipe.compare
        bundles = {"dense": dense, "small": bundled, **baselines}
        inputs = {
            "bundles": {title: done.key for title, done in bundles.items()},
            "dense_int8": dense_int8.key if dense_int8 else None,
            "config": asdict(config),
            "seed": self.recipe.seed,
            "audio": self.audio,
            "manifest": digest_file(self.places.manifests / config.manifest)
            if config.manifest
            else None,
            "engines": self.chain.done["build"].result if "build" in self.chain.done else None,
        }

        def work(folder: Path) -> dict[str, Any]:
            opened = [(title, _bundle(done)) for title, done in bundles.items()]
            if dense_int8 is not None:
                base = opened[0][1]
                flavours = [
                    Flavour("onnx", "fp32", float_model(base).name),
                    Flavour("onnx", "int8", "model.int8.onnx", _file(dense_int8, "int8")),
                ]
                opened[0] = "dense", assemble(base, folder / "dense", flavours)
            held = Held(
                data=self.places.data,
                manifests=self.places.manifests,
                cache=self.places.cache,
                manifest=self.places.manifests / config.manifest if config.manifest else None,
                split=config.split,  # type: ignore[arg-type]
                fold=config.fold,
                conditions=config.conditions,
                scores=self.out.parent / "scores",
            )
            return compare(
                opened, held, eager=self.checkpoint, rounds=config.rounds, seed=self.recipe.seed
            )

        return self.chain.do("compare", inputs, work)

    def _shipped(self, name: str, checkpoint: Path, source: Any) -> Done:
        settings = {"task": self.recipe.bundle.task, "hop_ms": self.recipe.bundle.hop_ms}
        inputs = {
            "source": source,
            "seed": self.recipe.seed,
            "audio": self.audio if self.is_keywords else None,
            **settings,
        }

        def work(folder: Path) -> dict[str, Any]:
            ship(
                checkpoint, folder / "bundle", data=self.places.data, seed=self.recipe.seed,
                provenance=origin(), **settings,
            )  # fmt: skip
            return {"bundle": "bundle"}

        return self.chain.do(name, inputs, work)

    def _audio(self) -> Any:
        """Of the recordings that training, triggers and comparison read: what changes with them."""
        if isinstance(self.trained, KeywordRecipe):
            packs = tuple(dict.fromkeys((*TRACK_PACKS, *self.trained.data.packs)))
            clips = read_packs(self.places.data, packs)
            return [len(clips), sum(clip.path.stat().st_size for clip in clips)]
        places = self.trained.data.manifest.split(" + ")
        files = [self.places.manifests / place for place in places]
        return [digest_file(file) for file in files if file.is_file()]

    def _quantizing(self, source: Done) -> dict[str, Any]:
        """What quantising a step's bundle depends on."""
        if self.recipe.quantize is None:
            return {"model": source.key}
        given = self.recipe.calibration.manifest
        return {
            "model": source.key,
            "config": asdict(self.recipe.quantize),
            "manifest": digest_file(self.places.manifests / given) if given else self.audio,
        }

    def _calibration(self, folder: Path) -> tuple[Path, str]:
        """The manifest to calibrate on, and what it lists."""
        given = self.recipe.calibration.manifest
        if given:
            return self.places.manifests / given, given
        target = folder / "calibration.csv"
        return target, write_calibration_manifest(self.trained, self.places, target)

    def _provenance(self) -> dict[str, Any]:
        made: dict[str, Any] = {"recipe": self.recipe.name, "from": self.trained.name}
        if "prune" in self.chain.done:
            last = self.chain.done["prune"].result["pruning"]["rounds"][-1]
            made["pruned"] = {key: last[key] for key in ("macs", "macs_share", "parameters")}
        return {**origin(), "optimized": made}

    def _indented(self, line: str) -> None:
        self.say(f"  {line}")


def _bundle(done: Done) -> Bundle:
    return load_bundle(done.folder / "bundle")


def _file(done: Done, key: str) -> Path:
    return done.folder / str(done.result[key])


def _same(left: Path, right: Path) -> bool:
    return (left / "bundle.json").read_bytes() == (right / "bundle.json").read_bytes()
