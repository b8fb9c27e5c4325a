"""Self-describing checkpoints: a folder of safetensors and JSON, replaced whole or not at all.

model.safetensors (weights), average.safetensors (their moving average, what ships),
optimizer.safetensors (AdamW's moments) and checkpoint.json (recipe, data statistics, progress).
Nothing is pickled.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from train.encoder import Encoder
from train.model import Classifier, Pooling, TokenTagger
from train.pretext import MaskedSpectrogramPretext
from train.recipe import (
    FinetuneRecipe,
    PhoneRecipe,
    PretrainRecipe,
    Recipe,
    SpotterRecipe,
    StreamRecipe,
    parse_recipe,
    recipe_table,
)

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "build_classifier",
    "build_model",
    "has_checkpoint",
    "load_checkpoint",
    "load_classifier",
    "load_spotter",
    "load_weights",
    "optimizer_tensors",
    "restore_optimizer",
    "save_checkpoint",
]

FORMAT = 2

Model = Classifier | TokenTagger | MaskedSpectrogramPretext


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or does not fit; one line."""


@dataclass
class Checkpoint:
    """What a run is at one step."""

    recipe: Recipe
    classes: tuple[str, ...]  # of the outputs, in order; none while pretraining
    mean: float  # of the training log-mel
    std: float
    step: int
    model: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: dict[str, Tensor]  # "<parameter>/<moment>"
    progress: dict[str, Any]  # what else the next step depends on, and what was measured so far


def build_model(recipe: Recipe, classes: Sequence[str], mean: float, std: float) -> Model:
    """An untrained model of the recipe's shape: pretext task, tagger of tokens or classifier."""
    encoder = Encoder(recipe.encoder_config())
    if isinstance(recipe, PretrainRecipe):
        return MaskedSpectrogramPretext(encoder, recipe.pretext)
    if isinstance(recipe, PhoneRecipe | StreamRecipe):
        branched = len(recipe.branch_labels) if isinstance(recipe, StreamRecipe) else 0
        return TokenTagger(encoder, len(classes), mean=mean, std=std, branch_labels=branched)
    pooling: Pooling = "mean"
    if isinstance(recipe, FinetuneRecipe) and recipe.pooling == "cls":
        pooling = "cls"
    return Classifier(encoder, len(classes), mean=mean, std=std, pooling=pooling)


def build_classifier(
    recipe: Recipe, classes: Sequence[str], mean: float, std: float
) -> Classifier | None:
    """The recipe's untrained model as a device runs it, window by window; None: it has none.

    Of a stream's tagger: the classifier of what its last token tells after `window_frames`.
    """
    if isinstance(recipe, StreamRecipe):
        encoder = Encoder(recipe.window_encoder_config())
        return Classifier(
            encoder, len(classes), mean=mean, std=std, pooling="last",
            branch_labels=len(recipe.branch_labels),
        )  # fmt: skip
    model = build_model(recipe, classes, mean, std)
    return model if isinstance(model, Classifier) else None


def load_classifier(folder: Path) -> tuple[Classifier, Checkpoint]:
    """The averaged weights of a fine-tuned checkpoint, in evaluation mode, and the checkpoint."""
    checkpoint = load_checkpoint(folder)
    model = build_classifier(checkpoint.recipe, checkpoint.classes, checkpoint.mean, checkpoint.std)
    if model is None:
        raise CheckpointError(f"{folder} is a pretrained encoder without classes; fine-tune it")
    load_weights(model, checkpoint.average, folder)
    return model.eval(), checkpoint


def load_spotter(folder: Path) -> tuple[Classifier | TokenTagger, SpotterRecipe]:
    """The averaged weights of a keyword checkpoint as they were trained, and their recipe."""
    checkpoint = load_checkpoint(folder)
    recipe = checkpoint.recipe
    if not isinstance(recipe, SpotterRecipe):
        raise CheckpointError(f"{folder}: task is {recipe.task!r}, wanted 'keywords' or 'stream'")
    model = build_model(recipe, checkpoint.classes, checkpoint.mean, checkpoint.std)
    assert isinstance(model, Classifier | TokenTagger)
    load_weights(model, checkpoint.average, folder)
    return model.eval(), recipe


def load_tagger(folder: Path) -> tuple[TokenTagger, Checkpoint]:
    """The averaged weights of a model that reads a stream token by token, and the checkpoint.

    Raises CheckpointError for another task, weights of other shapes, and weights that are no
    numbers.
    """
    checkpoint = load_checkpoint(folder)
    if not isinstance(checkpoint.recipe, StreamRecipe):
        raise CheckpointError(f"{folder}: task is {checkpoint.recipe.task!r}, wanted 'stream'")
    model = build_model(checkpoint.recipe, checkpoint.classes, checkpoint.mean, checkpoint.std)
    assert isinstance(model, TokenTagger)
    load_weights(model, checkpoint.average, folder)
    broken = [k for k, v in checkpoint.average.items() if not torch.isfinite(v).all()]
    if broken:
        raise CheckpointError(f"{folder}: {broken[0]} holds what is no number: train it again")
    return model.eval(), checkpoint


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a temporary sibling, then rename: a kill or a full disk leaves the last one whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.tmp")  # what a kill left there is overwritten
    old = _before(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        save_file(_contiguous(checkpoint.model), partial / "model.safetensors")
        save_file(_contiguous(checkpoint.average), partial / "average.safetensors")
        save_file(_contiguous(checkpoint.optimizer), partial / "optimizer.safetensors")
        state = {
            "format": FORMAT,
            "step": checkpoint.step,
            "mean": checkpoint.mean,
            "std": checkpoint.std,
            "progress": checkpoint.progress,
            "classes": list(checkpoint.classes),
            "recipe": recipe_table(checkpoint.recipe),
        }
        (partial / "checkpoint.json").write_text(json.dumps(state, indent=2) + "\n")
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except SafetensorError as error:  # a full disk, above all
        raise CheckpointError(f"{folder} not written, the last one is kept: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def has_checkpoint(folder: Path) -> bool:
    """Whether there is one to load, be it the one before that a kill left aside."""
    return folder.exists() or _before(folder).exists()


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint; the one before it where a kill came between the two renames."""
    if not folder.exists() and has_checkpoint(folder):
        _before(folder).rename(folder)
    try:
        state = json.loads((folder / "checkpoint.json").read_text())
        if state.get("format") != FORMAT:
            raise CheckpointError(
                f"{folder}: checkpoint format {state.get('format')}, this version reads {FORMAT}"
            )
        model, average, optimizer = (
            load_file(folder / f"{name}.safetensors") for name in ("model", "average", "optimizer")
        )
    except FileNotFoundError as error:
        if (folder / "last").is_dir():
            raise CheckpointError(
                f"{folder} is a run: its checkpoint is {folder / 'last'}"
            ) from error
        raise CheckpointError(
            f"{folder}: no checkpoint ({Path(error.filename or '').name} is missing)"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError, SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder}: damaged checkpoint: {error}") from error
    missing = [
        key for key in ("recipe", "classes", "mean", "std", "step", "progress") if key not in state
    ]
    if missing:
        raise CheckpointError(f"{folder}: damaged checkpoint: checkpoint.json has no {missing[0]}")
    return Checkpoint(
        parse_recipe(state["recipe"], str(folder)),
        tuple(state["classes"]),
        state["mean"],
        state["std"],
        state["step"],
        model,
        average,
        optimizer,
        state["progress"],
    )


def load_weights(model: nn.Module, weights: dict[str, Tensor], where: Path) -> None:
    """Load strictly, naming the first keys and shapes that differ."""
    wanted = model.state_dict()
    differing = [f"{k} missing" for k in wanted if k not in weights]
    differing += [f"{k} unknown" for k in weights if k not in wanted]
    differing += [
        f"{k} is {tuple(weights[k].shape)}, wanted {tuple(v.shape)}"
        for k, v in wanted.items()
        if k in weights and weights[k].shape != v.shape
    ]
    if differing:
        raise CheckpointError(f"{where}: weights do not fit: {'; '.join(differing[:3])}")
    model.load_state_dict(weights)


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """AdamW's state as named tensors."""
    state = optimizer.state_dict()["state"]
    return {f"{names[i]}/{k}": v for i, moments in state.items() for k, v in moments.items()}


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: list[str], tensors: dict[str, Tensor]
) -> None:
    """Inverse of `optimizer_tensors`."""
    packed = optimizer.state_dict()
    packed["state"] = {
        i: {k.rsplit("/", 1)[1]: v for k, v in tensors.items() if k.rsplit("/", 1)[0] == name}
        for i, name in enumerate(names)
    }
    optimizer.load_state_dict(packed)


def _before(folder: Path) -> Path:
    """Where the last checkpoint lies while the next one takes its place."""
    return folder.with_name(f".{folder.name}.old")


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().contiguous().clone() for key, value in tensors.items()}
