"""What becomes small without pruning, or after it: a student of a larger model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from optimize.pruning.distill import distill
from optimize.pruning.recovery import (
    DistillConfig,
    classifier_recipe,
    load_teacher,
    open_data,
    recover,
)
from train.checkpoint import load_classifier
from train.machine import Machine, open_machine
from train.recipe import load_recipe
from train.task import Places

__all__ = ["StudentConfig", "teach"]


@dataclass(frozen=True, kw_only=True)
class StudentConfig:
    """Distillation as a step of its own."""

    recipe: str = ""  # a training recipe: its model learns from scratch. Empty: the pruned model
    teacher: str = ""  # a checkpoint; empty: the dense model
    steps: int = 1000  # without `recipe`, whose own length holds
    learning_rate: float = 0.0  # likewise; 0: half of the training recipe's
    loss: DistillConfig = field(default_factory=DistillConfig)

    def __post_init__(self) -> None:
        """Refuse lengths and rates that teach nothing."""
        if self.steps < 1 or not self.learning_rate >= 0:
            raise ValueError(
                f"steps must be at least 1 and learning_rate 0 or more, got {self.steps} and "
                f"{self.learning_rate}"
            )


def teach(
    start: Path,
    dense: Path,
    out: Path,
    config: StudentConfig,
    *,
    places: Places,
    machine: Machine,
) -> Path:
    """Train the student in `out`; returns its checkpoint. The same call resumes.

    start: the checkpoint that goes on, where `config` names no recipe.
    """
    teacher = Path(config.teacher) if config.teacher else dense
    if config.recipe:
        loaded = load_recipe(Path(config.recipe))
        student = classifier_recipe(loaded, Path(config.recipe))
        return distill(student, teacher, out, config.loss, places=places, machine=machine)
    model, state = load_classifier(start)
    recipe = classifier_recipe(state.recipe, start)
    optimizer = dataclasses.replace(
        recipe.optimizer,
        steps=config.steps,
        epochs=0.0,
        learning_rate=config.learning_rate or recipe.optimizer.learning_rate / 2,
        warmup_steps=min(recipe.optimizer.warmup_steps, config.steps // 4),
        schedule="cosine",
        average_epochs=(0, 0),
    )
    recipe = dataclasses.replace(recipe, optimizer=optimizer)
    fabric = open_machine(machine, recipe)
    opened = open_data(recipe, places, fabric, machine, statistics=(state.mean, state.std))
    taught_by = load_teacher(teacher, recipe, state.classes).to(fabric.device)
    return recover(
        recipe, model, opened, out=out, fabric=fabric, machine=machine,
        sources=tuple(state.progress.get("sources", ())), teacher=taught_by, distill=config.loss,
    )  # fmt: skip
