"""Structured pruning to a budget, in rounds: importance, surgery, recovery by distillation.

Each round removes the least important heads, MLP units (channels, blocks), measured anew on the
round's model, then trains what is left on the data and on the dense model's outputs. The last
round recovers longest. OUT/last is an ordinary checkpoint of a smaller model; OUT/round-N/last are
those on the way; OUT/pruning.json says what went and what it cost. The same call again goes on.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from optimize.pruning.budget import Budget, labels_of
from optimize.pruning.importance import (
    DATA_METHODS,
    METHODS,
    measure_importance,
    random_importance,
)
from optimize.pruning.ledger import Ledger
from optimize.pruning.recovery import (
    ClassifierRecipe,
    DistillConfig,
    Teacher,
    classifier_recipe,
    fingerprint,
    load_teacher,
    measure,
    open_data,
    recover,
    starting_point,
    task_objective,
)
from optimize.pruning.selection import Limits, PruneError, select, smallest
from optimize.pruning.sparsity import make_sparse
from optimize.pruning.surgery import Kept, shrink, shrunk_encoder, shrunk_model
from train.checkpoint import Checkpoint, has_checkpoint, load_classifier, save_checkpoint
from train.data.clips import Batch
from train.encoder import EncoderConfig
from train.machine import Machine, open_machine
from train.model import Classifier
from train.task import Places, TaskData

__all__ = ["PruneConfig", "PruneError", "first_step", "prune"]

_SAVE_EVERY, _LOG_EVERY = 100, 25  # steps
_VALIDATIONS = 3  # of a round's recovery
_SEED_STEPS = 1_000_000  # more than a run has


@dataclass(frozen=True, kw_only=True)
class PruneConfig:
    """The budget (one of three; none: what `limits` says) and how it is reached."""

    macs: float = 0.0  # share of the dense model's
    latency_ms: float = 0.0  # of one window in ONNX Runtime, one thread, on this machine
    latency: float = 0.0  # share of the dense model's
    rounds: int = 3
    round_steps: int = 150  # of recovery after each round but the last
    final_steps: int = 900  # of recovery after the last
    learning_rate: float = 0.0  # of the recovery; 0: half of the recipe's
    warmup_steps: int = 30
    average: float = 0.98  # moving average of the weights in recovery
    importance: str = "taylor"
    samples: int = 768  # training clips that importance is measured on
    measurements: int = 4  # of importance in a round, each before a part of what goes
    sparse: bool = False  # 2:4 on top, for tensor cores from Ampere on
    seed: int = 0  # of the clips' order, and of importance "random"
    limits: Limits = field(default_factory=Limits)
    distill: DistillConfig = field(default_factory=DistillConfig)

    def __post_init__(self) -> None:
        """Refuse budgets that mean nothing, two of them, and words that name nothing."""
        budgets = [name for name in ("macs", "latency_ms", "latency") if getattr(self, name)]
        if len(budgets) > 1:
            raise ValueError(f"give one budget, got {' and '.join(budgets)}")
        for name in ("macs", "latency"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share in (0, 1], got {getattr(self, name)}")
        if not 0 <= self.latency_ms < math.inf:
            raise ValueError(f"latency_ms must be above 0, got {self.latency_ms}")
        for name in ("rounds", "round_steps", "final_steps", "samples", "measurements"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "warmup_steps", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not 0 <= self.average < 1:
            raise ValueError(f"average must be in [0, 1), got {self.average}")
        if self.importance not in METHODS:
            raise ValueError(
                f"importance must be one of {', '.join(METHODS)}, got {self.importance!r}"
            )

    @property
    def has_goal(self) -> bool:
        """Whether anything says how small the model is to be."""
        limits = self.limits
        goals = self.macs, self.latency_ms, self.latency, self.sparse
        return any(goals) or any((limits.depth, limits.heads, limits.dim))


def prune(
    checkpoint: Path,
    out: Path,
    config: PruneConfig,
    *,
    places: Places,
    machine: Machine,
    teacher: Path | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> Path:
    """Prune a fine-tuned checkpoint into `out`; returns the folder of the final checkpoint.

    teacher: instead of the dense model. say: takes a line after each stage. PruneError when the
    budget cannot be met: what earlier rounds gave stays.
    """
    if not config.has_goal:
        raise PruneError(
            "nothing to prune to: give macs, latency or latency_ms, or depth, heads, dim or sparse"
        )
    dense, state = load_classifier(checkpoint)
    recipe = classifier_recipe(state.recipe, checkpoint)
    config.limits.check(dense.encoder.config)
    fabric = open_machine(machine, recipe)
    opened = open_data(recipe, places, fabric, machine, statistics=(state.mean, state.std))
    if opened.record.classes != state.classes:
        raise PruneError(
            f"{checkpoint} knows {', '.join(state.classes)}, the data now gives "
            f"{', '.join(opened.record.classes)}"
        )
    taught_by = load_teacher(teacher or checkpoint, recipe, state.classes)
    taught_by.to(fabric.device)
    prints = {"dense": fingerprint(dense), "teacher": fingerprint(taught_by.model)}
    ledger = Ledger(out, dataclasses.asdict(config) | prints, writes=fabric.is_global_zero)
    shape, labels = dense.encoder.config, labels_of(dense)
    budget = Budget(
        shape, labels, macs=config.macs, latency=config.latency, latency_ms=config.latency_ms,
        dense_ms=ledger.dense.get("latency_ms", 0.0),
    )  # fmt: skip
    if not ledger.dense:
        least = smallest(shape, labels, random_importance(dense, 0), config.limits)
        budget.check_floor(shrunk_encoder(shape, least))
        found = measure(dense, opened.validation, fabric)
        say(ledger.note_dense({**budget.describe(shape), "validation": found}))
    run = _Run(config, state, recipe, opened, taught_by, budget, fabric, machine)
    model, so_far = dense, "nothing was pruned"
    for number in range(1, config.rounds + 1):
        folder = out if number == config.rounds else out / f"round-{number}"
        if fabric.is_global_zero and not has_checkpoint(folder / "start"):
            save_checkpoint(folder / "start", run.shrunk(model, number, so_far))
        fabric.barrier()
        started, start = load_classifier(folder / "start")
        if not ledger.has_round(number):
            entry = run.recovered(started, start, folder, number)
            say(ledger.note_round(number, entry))
        model, _ = load_classifier(folder / "last")
        so_far = f"{folder / 'last'} is kept"
    return out / "last"


@dataclass(frozen=True)
class _Run:
    """What every round needs."""

    config: PruneConfig
    dense: Checkpoint
    recipe: ClassifierRecipe  # of the dense model
    opened: TaskData
    teacher: Teacher
    budget: Budget
    fabric: Fabric
    machine: Machine

    def shrunk(self, model: Classifier, number: int, so_far: str) -> Checkpoint:
        """What round `number` starts from: `model` without what matters least.

        Units make up for each other: what matters is measured anew after each part that goes.
        """
        small, parts = model, self.config.measurements
        for part in range(1, parts + 1):
            progress = (number - 1 + part / parts) / self.config.rounds
            small = self._smaller(small, number, progress, so_far)
        if self._is_sparse(number):
            make_sparse(small)
        shape = small.encoder.config
        recipe = recovery_recipe(self.recipe, shape, self.config, self._steps(number))
        return starting_point(recipe, small, self.dense)

    def _smaller(self, model: Classifier, number: int, progress: float, so_far: str) -> Classifier:
        """Without training, `progress` of the way from the dense model to the budget."""
        config, shape = self.config, model.encoder.config
        importance = measure_importance(
            task_objective(self.recipe, model.to(self.fabric.device)), self._clips(number),
            method=config.importance, fabric=self.fabric, seed=1000 * config.seed + number,
        )  # fmt: skip

        def pick(macs: float) -> Kept:
            return select(shape, labels_of(model), importance, macs, config.limits)

        return shrink(model.cpu(), self.budget.choose(shape, progress, pick, so_far))

    def recovered(
        self, model: Classifier, start: Checkpoint, folder: Path, number: int
    ) -> dict[str, Any]:
        """Train the start of round `number` in `folder`; what the ledger keeps of it."""
        validation = self.opened.validation
        before = measure(model, validation, self.fabric)
        recover(
            classifier_recipe(start.recipe, folder), model, self.opened,
            out=folder, fabric=self.fabric, machine=self.machine,
            sources=(*self.dense.progress.get("sources", ()), *self.teacher.sources),
            teacher=self.teacher,
            distill=self.config.distill, first_step=self._first_step(number),
            is_sparse=self._is_sparse(number),
        )  # fmt: skip
        trained, _ = load_classifier(folder / "last")
        return {
            **self.budget.describe(trained.encoder.config),
            "steps": self._steps(number),
            "before_recovery": before,
            "validation": measure(trained, validation, self.fabric),
        }

    def _steps(self, number: int) -> int:
        is_last = number == self.config.rounds
        return self.config.final_steps if is_last else self.config.round_steps

    def _first_step(self, number: int) -> int:
        """Of the round in the order of the data: rounds do not see the same clips again."""
        return first_step(self.config, number)

    def _is_sparse(self, number: int) -> bool:
        return self.config.sparse and number == self.config.rounds

    def _clips(self, number: int) -> list[Batch]:
        """Those that the round's recovery begins with; none where importance looks at weights."""
        if self.config.importance not in DATA_METHODS:
            return []
        count = math.ceil(self.config.samples / self.recipe.optimizer.batch_size)
        first = self._first_step(number)
        return [self.opened.batches.batch(first + step, 0, 1) for step in range(count)]


def first_step(config: PruneConfig, number: int) -> int:
    """Of round `number` in the endless order of the data's batches, which each seed enters anew."""
    return config.seed * _SEED_STEPS + (number - 1) * config.round_steps


def recovery_recipe(
    recipe: ClassifierRecipe, shape: EncoderConfig, config: PruneConfig, steps: int
) -> ClassifierRecipe:
    """The dense model's recipe for a pruned shape and `steps` of recovery."""
    optimizer = dataclasses.replace(
        recipe.optimizer,
        steps=steps,
        epochs=0.0,
        learning_rate=config.learning_rate or recipe.optimizer.learning_rate / 2,
        warmup_steps=min(config.warmup_steps, steps // 2),
        schedule="cosine",
        head_factor=1.0,
        layer_decay=1.0,
        average=config.average,
        average_epochs=(0, 0),
    )
    engine = dataclasses.replace(
        recipe.engine,
        save_every_steps=min(recipe.engine.save_every_steps, _SAVE_EVERY),
        log_every_steps=min(recipe.engine.log_every_steps, _LOG_EVERY),
        validate_every_steps=max(1, math.ceil(steps / _VALIDATIONS)),
    )
    return dataclasses.replace(
        recipe, model=shrunk_model(recipe.model, shape), optimizer=optimizer, engine=engine
    )
