"""The recordings that calibrate and judge a model: those that it was trained or validated on.

Never one that it is tested on. Validation recordings where there are enough, else training ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from train.corpus import hold_out, split
from train.data.manifest import Example, Manifest, read_manifest, write_manifest
from train.packs import read_packs
from train.recipe import FinetuneRecipe, RecipeError, SpotterRecipe
from train.task import Places
from train.triggers import TRACK_PACKS

__all__ = ["write_calibration_manifest"]

_ENOUGH = 200  # validation recordings


def write_calibration_manifest(
    recipe: FinetuneRecipe | SpotterRecipe, places: Places, target: Path
) -> str:
    """Write the manifest; returns what it lists, for people."""
    if isinstance(recipe, SpotterRecipe):
        examples = _keyword_examples(recipe, places)
        heard = {label for example in examples for label in example.labels}
        classes = tuple(label for label in recipe.labels if label in heard)
        write_manifest(target, Manifest(target.stem, "/", examples, classes))
        return f"{len(examples)} validation recordings of the packs"
    manifests = [_manifest(place, places) for place in recipe.data.manifest.split(" + ")]
    val: list[Example] = []
    train: list[Example] = []
    for found in manifests:
        listed = hold_out(_absolute(found), recipe.data.validation_share)
        train_indices, val_indices = split(listed, recipe)
        train += [listed[i] for i in train_indices]
        val += [listed[i] for i in val_indices]
    chosen, kind = (val, "validation") if len(val) >= _ENOUGH else (train, "training")
    labels = {label for example in chosen for label in example.labels}
    named = dict.fromkeys(label for found in manifests for label in found.classes)
    kept = tuple(label for label in named if label in labels)
    write_manifest(target, Manifest(target.stem, "/", chosen, kept))
    return f"{len(chosen)} {kind} recordings of {recipe.data.manifest}"


def _keyword_examples(recipe: SpotterRecipe, places: Places) -> list[Example]:
    clips = [c for c in read_packs(places.data, TRACK_PACKS) if c.split == "val"]
    return [
        Example(
            path=str(clip.path.resolve()),
            labels=(clip.word,) if clip.word in recipe.labels else (),
            split="val",
            speaker=clip.speaker,
            source=clip.pack,
        )
        for clip in clips
        if clip.kind != "silence"
    ]


def _manifest(place: str, places: Places) -> Manifest:
    path = places.manifests / place
    if "://" in place or (path / "shards.json").is_file():
        raise RecipeError(
            f"{place} holds shards, and calibration reads recordings: give calibration.manifest"
        )
    return read_manifest(path)


def _absolute(manifest: Manifest) -> Sequence[Example]:
    root = Path(manifest.root).resolve()
    return [dataclasses.replace(e, path=str(root / e.path)) for e in manifest.examples]
