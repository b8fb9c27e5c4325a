"""Measures a fine-tuned checkpoint on clips: metrics with intervals, per class, as a report.

python -m train evaluate runs/esc50-packs/last --fold 1 --window-frames 98
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric

from ssast_edge.evaluation.class_scores import Evaluation, evaluate_scores
from train.checkpoint import CheckpointError, load_checkpoint, load_classifier
from train.corpus import Part, hold_out, open_recordings
from train.data.manifest import Example, ManifestError
from train.encoder import Encoder
from train.evaluation_report import write_report
from train.model import Classifier
from train.positions import fit_pos_embed
from train.recipe import FinetuneRecipe
from train.scoring import score_clips, targets_of

__all__ = ["HeldOut", "at_length", "evaluate", "open_held_out"]


def evaluate(
    checkpoint: Path,
    *,
    manifest: Path | None = None,
    manifests: Path,
    cache: Path | None,
    split: str = "test",
    fold: int = 0,
    window_frames: tuple[int, ...] = (),
    out: Path | None = None,
    seed: int = 0,
) -> Path:
    """Score the clips of a split, or of a fold, and write the report; returns its Markdown.

    The training length comes first, then each of `window_frames`: windows that overlap by half,
    averaged, through the same weights with their positions cut or stretched.
    """
    recipe = load_checkpoint(checkpoint).recipe
    if not isinstance(recipe, FinetuneRecipe):
        raise CheckpointError(
            f"{checkpoint} is a {recipe.task!r} run, wanted a clip classifier (task 'finetune'); "
            "keyword models are measured on a track: export one, then `ssast-edge eval`"
        )
    model, trained = load_classifier(checkpoint)
    fabric = Fabric(accelerator="auto", devices=1)
    model.to(fabric.device)
    chosen = open_held_out(
        recipe, checkpoint, manifest=manifest, manifests=manifests, cache=cache, split=split,
        fold=fold,
    )  # fmt: skip
    part, place, fold = chosen.part, chosen.place, chosen.fold
    measured = {f"{recipe.clips.num_frames} frames (training length)": recipe.clips}
    for frames in window_frames:
        measured[f"{frames} frames (windows)"] = dataclasses.replace(
            recipe.clips, num_frames=frames, validation_windows=0
        )
    unknown = {label for e in part.examples for label in e.labels} - set(trained.classes)
    if unknown:
        raise ManifestError(
            f"{place}: label {sorted(unknown)[0]!r} is none of the checkpoint's classes: "
            f"{', '.join(trained.classes)}"
        )
    evaluations: dict[str, Evaluation] = {}
    for title, clips in measured.items():
        scores = score_clips(
            at_length(model, clips.num_frames), part, clips, recipe.fbank,
            fabric=fabric, softmax=recipe.loss == "ce", progress=True,
        )  # fmt: skip
        readable = ~np.isnan(scores).any(axis=1)
        evaluations[title] = evaluate_scores(
            scores[readable],
            targets_of(part, trained.classes)[readable],
            trained.classes,
            multilabel=recipe.multilabel,
            groups=np.array([example.speaker for example in part.examples])[readable],
            seed=seed,
        )
    trained_on = ", which it was trained on" if manifest is None and split == "train" else ""
    provenance = {
        "checkpoint": recipe.name,
        "step": trained.step,
        "manifest": Path(place).name,
        "clips": f"fold {fold}" if fold else f"split {split}" + trained_on,
        "seed": seed,
    }
    folder = out or checkpoint.parent / "evaluation"
    write_report(folder, recipe.name, evaluations, provenance)
    return folder / "evaluation.md"


@dataclass(frozen=True)
class HeldOut:
    """Clips to measure on."""

    part: Part
    place: str  # the manifest
    fold: int  # 0: a split was chosen


def open_held_out(
    recipe: FinetuneRecipe,
    trained: Path,
    *,
    manifest: Path | None = None,
    manifests: Path,
    cache: Path | None,
    split: str = "test",
    fold: int = 0,
) -> HeldOut:
    """The clips of a split or a fold: of `manifest`, or else of the recipe's, held out as there.

    trained: what the recipe made, for the error when the fold is one that it was trained on.
    """
    place = recipe.data.manifest if manifest is None else str(manifest.resolve())
    if manifest is None:
        if recipe.data.test_fold and fold not in (0, recipe.data.test_fold):
            raise ManifestError(
                f"{trained} was trained on fold {fold}; held out was {recipe.data.test_fold}"
            )
        fold = recipe.data.test_fold

    def choose(examples: Sequence[Example]) -> list[Example]:
        if manifest is None:
            examples = hold_out(examples, recipe.data.validation_share)
        return _choose(examples, split, fold, place)

    source, examples, _ = open_recordings(place, manifests, cache, 2, keep=choose)
    chosen = {(example.path, example.start_s) for example in choose(examples)}
    indices = [i for i, e in enumerate(examples) if (e.path, e.start_s) in chosen]
    part = Part(source, [examples[i] for i in indices], np.asarray(indices, dtype=np.intp))
    return HeldOut(part, place, fold)


def at_length(model: Classifier, num_frames: int) -> Classifier:
    """The same weights for windows of another length; positions are cut or stretched."""
    old = model.encoder.config
    if num_frames == old.num_frames:
        return model
    config = dataclasses.replace(old, num_frames=num_frames)
    head = model.head[1]
    assert isinstance(head, torch.nn.Linear)
    other = Classifier(
        Encoder(config), head.out_features,
        mean=float(model.mean), std=float(model.std), pooling=model.pooling,
    )  # fmt: skip
    weights = dict(model.state_dict())
    if not config.context:
        weights["encoder.pos_embed"] = fit_pos_embed(weights["encoder.pos_embed"], old, config)
    other.load_state_dict(weights)
    return other.to(model.mean.device).eval()


def _choose(examples: Sequence[Example], split: str, fold: int, name: str) -> list[Example]:
    chosen = [e for e in examples if (e.fold == fold if fold else e.split == split)]
    if not chosen:
        where = f"fold {fold}" if fold else f"split {split!r}"
        raise ManifestError(f"{name} has no clip in {where}; --split and --fold choose others")
    return chosen
