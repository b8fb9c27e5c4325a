"""Which recordings of the packs a keyword recipe takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from train.packs import Clip, Split, read_packs, read_synthetic, says
from train.recipe import RecipeError, SpotterRecipe

__all__ = ["read_wanted_synthetic", "training_set"]


def training_set(
    recipe: SpotterRecipe, data: Path, synthetic: Sequence[Path], split: Split
) -> list[Clip]:
    """The recipe's clips of a split. Running speech that says a label is left out."""
    fold = recipe.data.esc10_test_fold
    found = read_packs(data, recipe.data.packs, esc10_test_fold=fold)
    clips = [clip for clip in found if clip.split == split]
    if recipe.data.synthetic:
        clips += [clip for clip in read_wanted_synthetic(synthetic) if clip.split == split]
    return [clip for clip in clips if clip.kind != "silence" and _wanted(clip, recipe)]


def read_wanted_synthetic(folders: Sequence[Path]) -> list[Clip]:
    """Clips of `train.synthesize`; RecipeError that says how to make them when there are none."""
    how = "run `python -m train.synthesize --out DIR` and pass --synthetic DIR"
    if not folders:
        raise RecipeError(f"synthetic speech is wanted, no folder of it is given: {how}")
    clips: dict[str, Clip] = {}  # the same noises lie in every folder
    for folder in folders:
        if not (folder / "manifest.csv").is_file():
            raise RecipeError(f"synthetic speech is wanted, there is none in {folder}: {how}")
        for clip in read_synthetic(folder):
            clips.setdefault(str(clip.path.relative_to(folder)), clip)
    return list(clips.values())


def _wanted(clip: Clip, recipe: SpotterRecipe) -> bool:
    if clip.kind == "keyword":  # a wake word that is no label may say nothing else
        return clip.word in recipe.labels or not clip.word
    if clip.kind in ("word", "sound"):
        return True
    # Running speech that says a label would be a wrong negative.
    return not says(clip.word, recipe.labels)
