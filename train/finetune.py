"""Fine-tunes a classifier of clips: the paper's tasks, and any manifest with labels.

python -m train finetune train/recipes/esc50_patch.toml --init ENCODER --manifests DIR
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from ssast_edge.evaluation.metrics import mean_average_precision
from train.checkpoint import Model, build_model
from train.corpus import Corpus, Part, open_corpus
from train.data.clips import BatchOrder, ClipBatches
from train.engine import Validation, fit, resume_point
from train.initial import start_from
from train.machine import Machine, open_machine
from train.model import Classifier
from train.recipe import FinetuneRecipe, RecipeError
from train.scoring import score_clips, targets_of
from train.task import TaskData, TaskObjective

__all__ = ["ClipObjective", "finetune", "label_weights", "open_clips"]


class ClipObjective(TaskObjective):
    """Cross-entropy against soft labels, or binary cross-entropy of each class.

    The authors' code floors the soft labels of mixed clips to class 0 under cross-entropy; here
    they stay shares of two classes.
    """

    def __init__(self, model: Classifier, loss: str, smoothing: float) -> None:
        super().__init__()
        self.model: Classifier = model
        self.loss, self.smoothing = loss, smoothing

    def loss_of(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar, mean over the clips."""
        if self.loss == "ce":
            share = target / target.sum(dim=1, keepdim=True).clamp_min(1e-6)
            return F.cross_entropy(logits, share, label_smoothing=self.smoothing)
        target = target * (1 - 2 * self.smoothing) + self.smoothing
        return F.binary_cross_entropy_with_logits(logits, target)


def finetune(
    recipe: FinetuneRecipe,
    *,
    manifests: Path,
    cache: Path | None,
    out: Path,
    machine: Machine,
    init: Path | None = None,
) -> Path:
    """Train to the recipe's last step; returns the checkpoint folder."""
    fabric = open_machine(machine, recipe)
    resume = resume_point(recipe, out)
    statistics = (resume.mean, resume.std) if resume is not None else None
    opened = open_clips(recipe, manifests, cache, fabric, machine, statistics=statistics)
    torch.manual_seed(recipe.seed)
    model = build_model(recipe, opened.record.classes, *opened.record.statistics)
    assert isinstance(model, Classifier)
    start = start_from(init, model.encoder) if init is not None else None
    return fit(
        recipe,
        ClipObjective(model, recipe.loss, recipe.label_smoothing),
        opened.batches,
        fabric=fabric,
        out=out,
        steps_per_epoch=opened.steps_per_epoch,
        data=opened.record.starting_from(start).resumed(resume, out),
        resume=resume,
        validation=opened.validation,
        workers=machine.workers,
    )


def open_clips(
    recipe: FinetuneRecipe,
    manifests: Path,
    cache: Path | None,
    fabric: Fabric,
    machine: Machine,
    *,
    statistics: tuple[float, float] | None = None,
) -> TaskData:
    """The recipe's recordings; `statistics` of a model that is there instead of the data's."""
    corpus = open_corpus(recipe, manifests, cache, fabric, machine)
    train = corpus.part(corpus.train)
    check_classes(corpus, recipe)
    record = corpus.record()
    if statistics is not None:
        record = dataclasses.replace(record, statistics=statistics)
    order = BatchOrder(
        len(train),
        recipe.optimizer.batch_size,
        recipe.seed,
        weights=label_weights(targets_of(train, corpus.classes)) if recipe.data.balanced else None,
        blocks=train.blocks,
    )
    batches = ClipBatches(
        train,
        train.examples,
        order,
        recipe.clips,
        recipe.fbank,
        classes=corpus.classes,
        std=record.statistics[1],
        seed=recipe.seed,
    )
    validation = None
    if corpus.val:
        validation = _validation(recipe, corpus.part(corpus.val), corpus.classes)
    return TaskData(record, batches, order.steps_per_epoch, validation)


def label_weights(targets: NDArray[np.float32]) -> NDArray[np.float64]:
    """(examples,) sum of 1 / frequency of an example's labels, as PSLA balances AudioSet."""
    frequency = targets.sum(axis=0).astype(np.float64)
    weights: NDArray[np.float64] = targets @ (1 / np.maximum(frequency, 1))
    return np.maximum(weights, weights[weights > 0].min() if (weights > 0).any() else 1.0)


def check_classes(corpus: Corpus, recipe: FinetuneRecipe) -> None:
    """RecipeError for a class that no training clip has, or clips with no label at all."""
    name = recipe.data.manifest
    if len(corpus.classes) < 2:
        raise RecipeError(f"{name}: fine-tuning wants at least two classes, got {corpus.classes}")
    targets = targets_of(corpus.part(corpus.train), corpus.classes)
    empty = [c for c, n in zip(corpus.classes, targets.sum(axis=0), strict=True) if not n]
    if empty:
        hint = " (validation took them: another data.validation_share)" * bool(
            recipe.data.validation_share
        )
        raise RecipeError(f"{name}: class {empty[0]!r} has no training clip{hint}")
    count = targets.sum(axis=1)
    if not recipe.multilabel and (count != 1).any():
        example = corpus.examples[corpus.train[int((count != 1).argmax())]]
        raise RecipeError(
            f"{name}: {example.path} has {len(example.labels)} labels, wanted 1 "
            "(multilabel = true takes any number)"
        )


def _validation(recipe: FinetuneRecipe, part: Part, classes: tuple[str, ...]) -> Validation:
    targets = targets_of(part, classes)

    def measure(model: Model, fabric: Fabric) -> dict[str, float]:
        assert isinstance(model, Classifier)
        softmax = recipe.loss == "ce"
        scores = score_clips(
            model, part, recipe.clips, recipe.fbank, fabric=fabric, softmax=softmax
        )
        readable = ~np.isnan(scores).any(axis=1)
        found, wanted = scores[readable], targets[readable]
        if recipe.multilabel:
            return {"mAP": mean_average_precision(found, wanted)}
        return {"accuracy": float((found.argmax(1) == wanted.argmax(1)).mean())}

    return Validation(measure, "mAP" if recipe.multilabel else "accuracy", higher_is_better=True)
