"""Trains a student, pruned or not, on its recipe's data and on what a larger model says of it.

The student learns the targets and the teacher's outputs at once (Hinton et al. 2015): sigmoid
models by binary cross-entropy against the teacher's probabilities, softmax models by the
Kullback-Leibler divergence at a temperature, both beside the task's own loss. The loop is the
engine's, which resumes. B clips, C classes, D channels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from optimize.pruning.sparsity import keep_zeros
from train.checkpoint import Checkpoint, CheckpointError, load_classifier
from train.data.clips import Batch
from train.engine import Batches, Objective, Validation, fit, resume_point
from train.evaluate import at_length
from train.finetune import ClipObjective, open_clips
from train.initial import Start
from train.keywords import KeywordObjective, open_keywords
from train.machine import Machine
from train.model import Classifier
from train.recipe import FinetuneRecipe, KeywordRecipe, Recipe, StreamRecipe
from train.task import Places, TaskData, TaskObjective

__all__ = [
    "DistillConfig",
    "DistilledObjective",
    "Teacher",
    "classifier_recipe",
    "fingerprint",
    "load_teacher",
    "measure",
    "open_data",
    "recover",
    "starting_point",
    "task_objective",
]

ClassifierRecipe = FinetuneRecipe | KeywordRecipe


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """How much a student listens to its teacher."""

    teacher_share: float = 0.7  # of the loss; the rest is the task's own. 0: no teacher
    temperature: float = 2.0  # softens both sides of softmax models
    embedding: float = 0.0  # weight of the pooled embedding's mean squared error beside it

    def __post_init__(self) -> None:
        """Refuse shares and temperatures that mean nothing."""
        if not 0 <= self.teacher_share <= 1:
            raise ValueError(f"teacher_share must be in [0, 1], got {self.teacher_share}")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        if not self.embedding >= 0:
            raise ValueError(f"embedding must be 0 or more, got {self.embedding}")


class Teacher(nn.Module):
    """A frozen classifier; its outputs in the order of the student's classes."""

    columns: Tensor

    def __init__(
        self, model: Classifier, columns: Sequence[int], sources: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.sources = tuple(sources)  # corpora that it learnt from
        self.register_buffer("columns", torch.tensor(list(columns)))

    @torch.no_grad()
    def forward(self, fbank: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, F) raw log-mel -> (B, C) logits, (B, D) pooled embeddings."""
        embedding = self.model.embed(fbank)
        logits: Tensor = self.model.head(embedding)
        return logits.float()[:, self.columns], embedding.float()


class DistilledObjective(Objective):
    """The task's loss and the distance to a teacher."""

    def __init__(
        self, task: TaskObjective, teacher: Teacher, config: DistillConfig, *, softmax: bool
    ) -> None:
        super().__init__()
        self.task, self.teacher, self.config, self.softmax = task, teacher, config, softmax
        self.model = task.model

    def forward(self, fbank: Tensor, target: Tensor) -> dict[str, Tensor]:
        """(B, T, F) raw log-mel, (B, C) targets in [0, 1]."""
        model = self.model
        assert isinstance(model, Classifier)
        wanted, its_embedding = self.teacher(fbank)
        embedding = model.embed(fbank)
        logits = model.head(embedding).float()
        share = self.config.teacher_share
        task = self.task.loss_of(logits, target)
        taught = self._distance(logits, wanted)
        losses = {"loss": (1 - share) * task + share * taught, "task": task, "teacher": taught}
        if self.config.embedding:
            apart = embedding_distance(embedding.float(), its_embedding)
            losses["loss"] = losses["loss"] + self.config.embedding * apart
            losses["embedding"] = apart
        return losses

    def _distance(self, logits: Tensor, wanted: Tensor) -> Tensor:
        if not self.softmax:
            return self.task.loss_of(logits, wanted.sigmoid())
        warmth = self.config.temperature
        divergence = F.kl_div(
            F.log_softmax(logits / warmth, dim=1),
            F.log_softmax(wanted / warmth, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        return divergence * warmth**2  # gradients as large as at temperature 1


def embedding_distance(embedding: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared error of normalised embeddings (B, D); of their cosines where D differs."""
    if embedding.shape == wanted.shape:
        size = wanted.shape[1:]
        return F.mse_loss(F.layer_norm(embedding, size), F.layer_norm(wanted, size))
    ours, theirs = F.normalize(embedding, dim=1), F.normalize(wanted, dim=1)
    return F.mse_loss(ours @ ours.T, theirs @ theirs.T)


def classifier_recipe(recipe: Recipe, where: Path) -> ClassifierRecipe:
    """The recipe as one of a classifier's; CheckpointError for an encoder's or a stream's."""
    if isinstance(recipe, StreamRecipe):
        raise CheckpointError(
            f"{where} reads a stream token by token (task 'stream'): it can only be quantised"
        )
    if not isinstance(recipe, FinetuneRecipe | KeywordRecipe):
        raise CheckpointError(f"{where} is a pretrained encoder without classes; fine-tune it")
    return recipe


def load_teacher(folder: Path, recipe: ClassifierRecipe, classes: Sequence[str]) -> Teacher:
    """A checkpoint as teacher of the recipe; CheckpointError when it cannot be one."""
    model, checkpoint = load_classifier(folder)
    missing = [label for label in classes if label not in checkpoint.classes]
    if missing:
        raise CheckpointError(
            f"{folder} cannot teach {missing[0]!r}: its classes are {', '.join(checkpoint.classes)}"
        )
    if checkpoint.recipe.fbank != recipe.fbank:
        raise CheckpointError(f"{folder} cannot teach: its front end (fbank) is another one")
    if is_softmax(classifier_recipe(checkpoint.recipe, folder)) != is_softmax(recipe):
        raise CheckpointError(f"{folder} cannot teach: one of the two is softmax, one sigmoid")
    columns = [checkpoint.classes.index(label) for label in classes]
    its_model = at_length(model, recipe.encoder_config().num_frames)
    return Teacher(its_model, columns, checkpoint.progress.get("sources", ()))


def is_softmax(recipe: ClassifierRecipe) -> bool:
    """Whether classes exclude each other."""
    return isinstance(recipe, FinetuneRecipe) and recipe.loss == "ce"


def task_objective(recipe: ClassifierRecipe, model: Classifier) -> TaskObjective:
    """The recipe's own loss of the model."""
    if isinstance(recipe, KeywordRecipe):
        return KeywordObjective(model, recipe.label_smoothing)
    return ClipObjective(model, recipe.loss, recipe.label_smoothing)


def open_data(
    recipe: ClassifierRecipe,
    places: Places,
    fabric: Fabric,
    machine: Machine,
    *,
    statistics: tuple[float, float] | None = None,
) -> TaskData:
    """The recipe's data, with a validation where recordings are held out."""
    if isinstance(recipe, KeywordRecipe):
        return open_keywords(recipe, places, fabric, statistics=statistics, held_out="val")
    return open_clips(
        recipe, places.manifests, places.cache, fabric, machine, statistics=statistics
    )


@dataclass(frozen=True)
class _Later:
    """Batches from another step on: each round sees clips that the one before did not."""

    batches: Batches
    first: int

    def batch(self, step: int, part: int, parts: int) -> Batch:
        """Part `part` of `parts` of the batch of `step`."""
        return self.batches.batch(self.first + step, part, parts)


def recover(
    recipe: ClassifierRecipe,
    model: Classifier,
    opened: TaskData,
    *,
    out: Path,
    fabric: Fabric,
    machine: Machine,
    sources: tuple[str, ...],
    teacher: Teacher | None,
    distill: DistillConfig,
    first_step: int = 0,
    is_sparse: bool = False,
) -> Path:
    """Train `model` to the recipe's last step in `out`; returns the checkpoint folder.

    A run that is there goes on. sources: corpora that the starting weights come from.
    """
    resume = resume_point(recipe, out)
    record = opened.record.starting_from(Start(sources, fingerprint(model)))
    record = record.resumed(resume, out)
    if is_sparse:
        keep_zeros(model)
    task = task_objective(recipe, model)
    objective: Objective = task
    if teacher is not None and (distill.teacher_share or distill.embedding):
        objective = DistilledObjective(task, teacher, distill, softmax=is_softmax(recipe))
    return fit(
        recipe,
        objective,
        _Later(opened.batches, first_step),
        fabric=fabric,
        out=out,
        steps_per_epoch=opened.steps_per_epoch,
        data=record,
        resume=resume,
        validation=opened.validation,
        workers=machine.workers,
    )


@torch.no_grad()
def measure(model: Classifier, validation: Validation | None, fabric: Fabric) -> dict[str, float]:
    """The validation's numbers of the model; none where nothing is held out."""
    if validation is None:
        return {}
    was_training = model.training
    model.to(fabric.device).eval()
    with fabric.autocast():
        found = validation.measure(model, fabric)
    model.train(was_training)
    return found


def fingerprint(model: nn.Module) -> str:
    """Of the weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def starting_point(recipe: ClassifierRecipe, model: Classifier, dense: Checkpoint) -> Checkpoint:
    """The untrained weights of a round as a checkpoint of step 0."""
    weights = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    progress = {name: dense.progress.get(name, ()) for name in ("sources", "fingerprint")}
    return replace(
        dense,
        recipe=recipe,
        step=0,
        model=weights,
        average=weights,
        optimizer={},
        progress=progress,
    )
