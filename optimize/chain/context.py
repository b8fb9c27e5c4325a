"""What the steps of a chain share: recipe, places, the checkpoint, and what they depend on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from optimize.chain.keeper import Chain, Done, digest_file, digest_manifest
from optimize.quantization.calibration_audio import write_calibration_manifest
from optimize.recipe import OptimizeRecipe
from ssast_edge.bundle import load_bundle
from ssast_edge.errors import SsastEdgeError
from ssast_edge.trigger import TriggerConfig
from train.checkpoint import load_checkpoint
from train.export import origin
from train.machine import Machine
from train.packs import read_packs
from train.recipe import (
    FinetuneRecipe,
    Recipe,
    RecipeError,
    SpotterRecipe,
    StreamRecipe,
    recipe_table,
)
from train.task import Places
from train.training_set import read_wanted_synthetic
from train.triggers import TRACK_PACKS

__all__ = ["Context", "Say"]

Say = Callable[[str], object]


class Context:
    """One run of one recipe."""

    def __init__(
        self, recipe: OptimizeRecipe, out: Path, places: Places, machine: Machine, say: Say
    ) -> None:
        self.recipe, self.out, self.places, self.machine = recipe, out, places, machine
        self.say = say
        self.chain = Chain(out, say, expected=(SsastEdgeError,))
        self.checkpoint = Path(recipe.checkpoint)
        state = load_checkpoint(self.checkpoint)
        self.trained = _trained(state.recipe, recipe)
        self.is_keywords = isinstance(self.trained, SpotterRecipe)
        self.source = {
            "weights": digest_file(self.checkpoint / "average.safetensors"),
            "recipe": recipe_table(state.recipe),
        }
        self.audio = self._audio()
        # Read here, not after hours of pruning: a wrong path is one line at once.
        self.calibrated_on = self._manifest(recipe.calibration.manifest) or self.audio
        self.other_words: tuple[Path, ...] = ()  # synthetic speech, heard when triggers are chosen
        if self.is_keywords and recipe.bundle.other_words:
            read_wanted_synthetic(places.synthetic)
            self.other_words = places.synthetic
        self.kept_triggers = _kept_triggers(self.trained, recipe)
        self.compared_on = self._manifest(recipe.compare.manifest)

    def quantizing(self, source: Done) -> dict[str, Any]:
        """What quantising a step's bundle depends on."""
        if self.recipe.quantize is None:
            return {"model": source.key}
        return {
            "model": source.key,
            "config": asdict(self.recipe.quantize),
            "manifest": self.calibrated_on,
        }

    def calibration(self, folder: Path) -> tuple[Path, str]:
        """The manifest to calibrate on, and what it lists."""
        given = self.recipe.calibration.manifest
        if given:
            return self.places.manifests / given, given
        target = folder / "calibration.csv"
        return target, write_calibration_manifest(self.trained, self.places, target)

    def provenance(self) -> dict[str, Any]:
        """For the bundle that ships: by which recipe it was made, and how small it became."""
        made: dict[str, Any] = {"recipe": self.recipe.name, "from": self.trained.name}
        if "prune" in self.chain.done:
            last = self.chain.done["prune"].result["pruning"]["rounds"][-1]
            made["pruned"] = {key: last[key] for key in ("macs", "macs_share", "parameters")}
        return {**origin(), "optimized": made}

    def indented(self, line: str) -> None:
        """A line of progress within a step."""
        self.say(f"  {line}")

    def _manifest(self, given: str) -> str | None:
        return digest_manifest(self.places.manifests / given) if given else None

    def _audio(self) -> Any:
        """Of the recordings that training, triggers and comparison read: what changes with them."""
        if isinstance(self.trained, SpotterRecipe):
            packs = tuple(dict.fromkeys((*TRACK_PACKS, *self.trained.data.packs)))
            clips = read_packs(self.places.data, packs)
            return [len(clips), sum(clip.path.stat().st_size for clip in clips)]
        places = self.trained.data.manifest.split(" + ")
        files = [self.places.manifests / place for place in places]
        return [digest_manifest(file) for file in files if file.exists()]


def _kept_triggers(
    trained: FinetuneRecipe | SpotterRecipe, recipe: OptimizeRecipe
) -> Mapping[str, TriggerConfig]:
    """Of the bundle that the recipe names, for labels that ours tells too; none: none is named."""
    name = recipe.bundle.triggers_from
    if not name:
        return {}
    if not isinstance(trained, StreamRecipe):  # others are pruned, and score otherwise then
        raise RecipeError("bundle.triggers_from is for models that read a stream (task 'stream')")
    found, hop_ms = load_bundle(name), recipe.bundle.hop_ms or trained.hop_ms
    told = recipe.bundle.labels or trained.labels
    kept = {
        label: trigger for label, trigger in found.triggers.items()
        if label in told and label in found.model_labels
    }  # fmt: skip
    if not kept:
        raise RecipeError(f"bundle.triggers_from: {found.name} has no label of {recipe.checkpoint}")
    if found.hop_ms != hop_ms:
        raise RecipeError(
            f"bundle.triggers_from: {found.name} has a hop of {found.hop_ms} ms, ours is {hop_ms}: "
            "its triggers count other hops"
        )
    return kept


def _trained(found: Recipe, wanted: OptimizeRecipe) -> FinetuneRecipe | SpotterRecipe:
    """The recipe that the checkpoint was trained by, where the chain can do what is wanted."""
    if not isinstance(found, FinetuneRecipe | SpotterRecipe):
        raise RecipeError(
            f"{wanted.checkpoint} is a pretrained encoder without classes; fine-tune it"
        )
    if isinstance(found, StreamRecipe):
        for name in ("prune", "distill", "qat"):
            if getattr(wanted, name) is not None:
                raise RecipeError(
                    f"{wanted.checkpoint} reads a stream token by token (task 'stream'): it is "
                    f"quantised as it is, leave [{name}] out"
                )
    return found
