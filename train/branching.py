"""One model of two that share their first blocks: a trunk, and a branch for the second's labels.

    python -m train join runs/wake-words-stream/last runs/sounds-stream/last --name joint --out DIR

The first model stays whole: its labels score as they did. The second was trained from it with
`frozen_blocks`; its other blocks are the branch. What both share is computed once (Caruana,
"Multitask learning", 1997: hard parameter sharing, without its training).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train.checkpoint import Checkpoint, CheckpointError, load_tagger
from train.export import WEIGHTS_FROM
from train.recipe import StreamRecipe, recipe_table

__all__ = ["join"]


def join(first: Path, second: Path, *, name: str, labels: Sequence[str] = ()) -> Checkpoint:
    """Checkpoint of `first` with a branch that tells `labels` as `second` does.

    name: of the model. labels: of the second; none given: those that the first does not know. The
    branch begins after the first blocks that both share. The recipe is the first's, with the packs
    of both and the second's held-out fold. Raises CheckpointError unless both read a stream through
    the same front end by encoders of one shape, and share at least one block.
    """
    ours, its = _model(first), _model(second)
    assert isinstance(ours.recipe, StreamRecipe)
    assert isinstance(its.recipe, StreamRecipe)
    known = ours.recipe.labels
    told = tuple(labels) or tuple(x for x in its.recipe.labels if x not in known)
    if not told:
        raise CheckpointError(f"{second} knows no label that {first} does not: nothing to join")
    for label in told:
        if label not in its.recipe.labels or label in known:
            raise CheckpointError(
                f"label {label!r} has to be one of {second} and none of {first}, which have "
                f"{', '.join(its.recipe.labels)} and {', '.join(known)}"
            )
    shared = _shared_blocks(ours, its, first, second)
    one, other = ours.recipe, its.recipe
    model = replace(
        one.model,
        branch_from=shared,
        branch_depth=one.model.depth - shared,
        block_heads=one.model.block_heads + other.model.block_heads[shared:],
        block_hidden=one.model.block_hidden + other.model.block_hidden[shared:],
    )
    data = replace(
        one.data,
        packs=tuple(dict.fromkeys((*one.data.packs, *other.data.packs))),
        esc10_test_fold=other.data.esc10_test_fold or one.data.esc10_test_fold,
    )
    recipe = replace(
        one, name=name, labels=(*known, *told), auxiliary_labels=(), branch_labels=told,
        model=model, data=data, frozen_blocks=0,
    )  # fmt: skip
    weights = _weights(ours, its, shared)
    for side, checkpoint, kept in (("", ours, known), ("branch_", its, told)):
        rows = [checkpoint.classes.index(label) for label in kept]
        for part in ("weight", "bias"):
            weights[f"{side}head.1.{part}"] = checkpoint.average[f"head.1.{part}"][rows]
    sources = [*ours.progress["sources"], *its.progress["sources"]]
    joined = {"shared_blocks": shared, "first": _told(ours), "second": _told(its)}
    return Checkpoint(
        recipe=recipe,
        classes=recipe.labels,
        mean=ours.mean,
        std=ours.std,
        step=ours.step,
        model=weights,
        average=weights,
        optimizer={},
        progress={"sources": list(dict.fromkeys(sources)), "joined": joined},
    )


def _model(path: Path) -> Checkpoint:
    _, checkpoint = load_tagger(path)
    assert isinstance(checkpoint.recipe, StreamRecipe)
    if checkpoint.recipe.branch_labels:
        raise CheckpointError(f"{path} is joined of two already: join the models themselves")
    return checkpoint


def _shared_blocks(ours: Checkpoint, its: Checkpoint, first: Path, second: Path) -> int:
    """How many of the first blocks are the same in both."""
    one, other = ours.recipe, its.recipe
    assert isinstance(one, StreamRecipe)
    assert isinstance(other, StreamRecipe)
    if one.window_frames != other.window_frames:
        raise CheckpointError(
            f"{first} starts from {one.window_frames} frames and {second} from "
            f"{other.window_frames} (window_frames)"
        )
    if one.window_encoder_config() != replace(
        other.window_encoder_config(), dropout=one.model.dropout, drop_path=one.model.drop_path
    ):
        raise CheckpointError(f"{first} and {second} have encoders of other shapes (model)")
    if (one.fbank, one.hop_ms) != (other.fbank, other.hop_ms):
        raise CheckpointError(f"{first} and {second} have other front ends (fbank, hop_ms)")
    if (ours.mean, ours.std) == (its.mean, its.std) and _same(ours, its, "encoder.patch_embed."):
        depth = one.model.depth
        same = (_same(ours, its, f"encoder.blocks.{number}.") for number in range(depth))
        shared = next((number for number, is_same in enumerate(same) if not is_same), depth - 1)
        if shared:
            return shared
    raise CheckpointError(
        f"{first} and {second} share no first block: train the second by --init {first} with "
        "frozen_blocks above 0"
    )


def _same(ours: Checkpoint, its: Checkpoint, prefix: str) -> bool:
    return all(
        torch.equal(value, its.average[name])
        for name, value in ours.average.items() if name.startswith(prefix)
    )  # fmt: skip


def _weights(ours: Checkpoint, its: Checkpoint, shared: int) -> dict[str, Tensor]:
    """All of the first, and of the second what comes after the shared blocks; heads as they are."""
    recipe = ours.recipe
    assert isinstance(recipe, StreamRecipe)
    depth, weights = recipe.model.depth, dict(ours.average)
    for name, value in its.average.items():
        module, _, rest = name.partition(".")
        if module == "head":
            weights[f"branch_{name}"] = value
        elif rest.startswith("norm."):
            weights[f"encoder.branch_{rest}"] = value
        elif rest.startswith("blocks."):
            _, number, own = rest.split(".", 2)
            if int(number) >= shared:
                weights[f"encoder.blocks.{depth + int(number) - shared}.{own}"] = value
    return weights


def _told(checkpoint: Checkpoint) -> dict[str, Any]:
    """Of one of the two, for the provenance of a bundle: what trained it, and what came after."""
    progress = checkpoint.progress
    return {
        "recipe": progress.get("restored_recipe") or recipe_table(checkpoint.recipe),
        "step": checkpoint.step,
        **{key: progress[key] for key in WEIGHTS_FROM if key in progress},
    }
