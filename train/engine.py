"""The training loop: one for every task, on one CPU core or many GPUs (Lightning Fabric).

    torchrun --nproc-per-node 4 -m train pretrain RECIPE

Knows an objective (a module that turns a batch into losses), batches by step, and a validation.
Writes OUT/last and OUT/best (checkpoints), OUT/log.csv, OUT/validation.csv, OUT/training.png and
OUT/tensorboard. The same command goes on after the last checkpoint: batches, masks and dropout
depend on the step alone.
"""

from __future__ import annotations

import math
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from train.checkpoint import (
    Checkpoint,
    Model,
    has_checkpoint,
    load_checkpoint,
    load_weights,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from train.data.clips import Batch
from train.initial import Start
from train.optim import Plateau, WeightAverage, learning_rate, make_optimizer, parameter_names
from train.plots import plot_training
from train.recipe import Recipe, RecipeError, recipe_table
from train.run_log import RunLog

__all__ = [
    "Batches",
    "Objective",
    "TrainingData",
    "Validation",
    "fit",
    "resume_point",
]


@dataclass(frozen=True)
class TrainingData:
    """What a checkpoint says of the data that it learnt from."""

    classes: tuple[str, ...]  # of the outputs, in order; none while pretraining
    statistics: tuple[float, float]  # mean and standard deviation of the raw log-mel
    sources: tuple[str, ...]  # corpora that the weights come from, for the licences of exports
    fingerprint: str = ""  # of the training examples, in order
    start: str = ""  # fingerprint of the encoder that the run starts from; none: from scratch
    start_classes: tuple[str, ...] = ()  # whose head it goes on with
    teacher: str = ""  # fingerprint of the model whose scores are learned beside the labels

    def starting_from(self, encoder: Start | None, classes: tuple[str, ...] = ()) -> TrainingData:
        """With the corpora of a pretrained encoder added; classes: whose head came with it."""
        if encoder is None:
            return self
        sources = tuple(dict.fromkeys((*self.sources, *encoder.sources)))
        return replace(self, sources=sources, start=encoder.fingerprint, start_classes=classes)

    def resumed(self, checkpoint: Checkpoint | None, out: Path) -> TrainingData:
        """As the checkpoint has it; RecipeError when it learnt from other data."""
        if checkpoint is None:
            return self
        if checkpoint.classes != self.classes:
            unlike = sorted(set(checkpoint.classes) ^ set(self.classes)) or ["their order"]
            raise RecipeError(
                f"the classes of {out} and of the data now differ in {', '.join(unlike)}; choose "
                "another --out"
            )
        known = checkpoint.progress.get("fingerprint", "")
        if known and self.fingerprint and known != self.fingerprint:
            raise RecipeError(
                f"the training recordings are not those that {out} began with; bring them back "
                "or choose another --out"
            )
        ours = {"start": self.start, "teacher": self.teacher}
        if any(checkpoint.progress.get(name, now) != now for name, now in ours.items()):
            raise RecipeError(
                f"{out} began from another model than --init now says; give the same, or another "
                "--out"
            )
        return replace(
            self,
            statistics=(checkpoint.mean, checkpoint.std),
            sources=tuple(checkpoint.progress["sources"]),
            fingerprint=known or self.fingerprint,
        )


class Objective(nn.Module):
    """A model and its losses. `forward` returns scalars, the one to minimise under "loss"."""

    model: Model

    def forward(self, fbank: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Losses of one part of a batch, from raw log-mel (B, T, F)."""
        raise NotImplementedError


class Batches(Protocol):
    """Training batches by step; the parts of a step make up its whole batch."""

    def batch(self, step: int, part: int, parts: int) -> Batch:
        """Part `part` of `parts` of the batch of `step`."""
        ...


@dataclass(frozen=True)
class Validation:
    """How to measure a model, and which of the numbers chooses the best one."""

    measure: Callable[[Model, Fabric], dict[str, float]]
    metric: str
    higher_is_better: bool


def resume_point(recipe: Recipe, out: Path) -> Checkpoint | None:
    """The last checkpoint of this recipe in `out`; RecipeError when another recipe's lies there."""
    folder = out / "last"
    if not has_checkpoint(folder):
        return None
    checkpoint = load_checkpoint(folder)
    if differing := _differing_key(recipe_table(checkpoint.recipe), recipe_table(recipe)):
        raise RecipeError(
            f"{folder} was trained by another recipe, {differing}; choose another --out or remove "
            "it"
        )
    return checkpoint


def _differing_key(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> str:
    """The first key that changes what is learnt, as "key is NEW, was OLD"; empty: none."""
    for key in new:
        before, after = old.get(key), new[key]
        if prefix == "engine." and key != "precision":
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            if found := _differing_key(before, after, f"{prefix}{key}."):
                return found
        elif before != after:
            return f"{prefix}{key} is {after!r}, was {before!r}"
    return ""


def fit(
    recipe: Recipe,
    objective: Objective,
    batches: Batches,
    *,
    fabric: Fabric,
    out: Path,
    steps_per_epoch: float,
    data: TrainingData,
    resume: Checkpoint | None,
    validation: Validation | None = None,
    workers: int = 1,
) -> Path:
    """Train to the recipe's last step; returns the folder of the last checkpoint."""
    settings, engine = recipe.optimizer, recipe.engine
    total = settings.steps or math.ceil(settings.epochs * steps_per_epoch - 1e-9)
    if fabric.is_global_zero and settings.warmup_steps > total // 2:
        tqdm.write(
            f"warning: {settings.warmup_steps} of the run's {total} steps warm up; give more "
            "optimizer.epochs or fewer optimizer.warmup_steps"
        )
    run = _Run(
        recipe, objective, fabric, out, data,
        higher_is_better=validation is None or validation.higher_is_better,
    )  # fmt: skip
    if resume is not None:
        run.restore(resume)
        if run.step >= total:
            return out / "last"
    every = engine.validate_every_steps or max(1, round(steps_per_epoch))
    window = _LossWindow(fabric)
    start_time, start_step = time.perf_counter(), run.step
    stream = _stream(batches, fabric, run.step, total, settings.accumulate, workers)
    with ExitStack() as open_until_the_end:
        log: RunLog | None = None
        if fabric.is_global_zero:
            log = open_until_the_end.enter_context(RunLog(out, run.step))
        progress_bar = open_until_the_end.enter_context(
            tqdm(total=total, initial=run.step, unit="step", mininterval=2, disable=log is None)
        )
        while run.step < total:
            rate = run.train_step(stream, window, total, steps_per_epoch)
            progress_bar.update()
            step, epoch, is_end = run.step, run.step / steps_per_epoch, run.step == total
            does_save = is_end or step % engine.save_every_steps == 0
            does_validate = validation is not None and (is_end or step % every == 0)
            # Losses are looked at before anything is kept: each step's own would make GPUs wait.
            if is_end or does_save or does_validate or step % engine.log_every_steps == 0:
                values = window.take(out / "last")
                if log is not None:
                    seconds = (time.perf_counter() - start_time) / (step - start_step)
                    log.training(step, epoch, values, rate, seconds)
                    progress_bar.set_postfix(loss=f"{values['loss']:.4f}", lr=f"{rate:.1e}")
            if validation is not None and does_validate:
                measured = _validate(validation, run.model, run.average, fabric)
                is_best = run.plateau.update(measured[validation.metric])
                if log is not None:
                    log.validation(step, epoch, measured)
                    plot_training(out)
                if is_best:
                    run.save("best")
            if does_save:
                run.save("last")
                _list_unreadable(window.unreadable, out, fabric)
    if fabric.is_global_zero:
        plot_training(out)
    if window.unreadable:
        tqdm.write(
            f"{len(window.unreadable)} recordings could not be read, others took their place: "
            f"{out / 'unreadable.txt'}"
        )
    return out / "last"


class _Run:
    """What changes with every step, and how it is kept."""

    def __init__(
        self,
        recipe: Recipe,
        objective: Objective,
        fabric: Fabric,
        out: Path,
        data: TrainingData,
        *,
        higher_is_better: bool,
    ) -> None:
        self.recipe, self.fabric, self.out, self.data = recipe, fabric, out, data
        settings, self.model = recipe.optimizer, objective.model
        encoder = self.model.encoder
        encoder.checkpoint_activations = recipe.engine.checkpoint_activations
        if recipe.engine.compile:
            encoder.encode = torch.compile(encoder.encode)  # type: ignore[method-assign]
        self.step = 0
        self.plateau = Plateau(settings, higher_is_better=higher_is_better)
        is_fused = recipe.engine.precision != "16-mixed"
        self.optimizer = make_optimizer(self.model, settings, fused=is_fused)
        self.names = parameter_names(self.model, self.optimizer)
        wrapped = fabric.setup(objective, self.optimizer)
        self._wrapped: Any = wrapped[0]  # Fabric's, which synchronise and scale
        self._wrapped_optimizer: Any = wrapped[1]
        self.average = WeightAverage(self.model, settings)
        self.model.train()

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on where it was."""
        load_weights(self.model, checkpoint.model, self.out / "last")
        device = self.fabric.device
        self.average.tensors = {k: v.to(device) for k, v in checkpoint.average.items()}
        self.step = checkpoint.step
        self.plateau.restore(checkpoint.progress["plateau"])
        restore_optimizer(self.optimizer, self.names, checkpoint.optimizer)
        self.fabric.strategy.precision.load_state_dict(checkpoint.progress["precision"])

    def train_step(
        self, stream: Iterator[Batch], window: _LossWindow, total: int, steps_per_epoch: float
    ) -> float:
        """Gradients of the step's parts one after another, then the optimiser; returns the rate."""
        settings = self.recipe.optimizer
        torch.manual_seed(
            (self.recipe.seed * 1_000_003 + self.step) * 4096 + self.fabric.global_rank
        )
        rate = learning_rate(self.step, total, steps_per_epoch, settings) * self.plateau.factor
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        for number in range(settings.accumulate):
            batch = next(stream).to(self.fabric.device)
            waits = self.fabric.world_size > 1 and number < settings.accumulate - 1
            with self.fabric.no_backward_sync(self._wrapped, enabled=waits):
                losses = self._wrapped(batch.fbank, batch.target)
                self.fabric.backward(losses["loss"] / settings.accumulate)
            window.add(self.step, losses, batch)
        if settings.clip_norm:
            self.fabric.clip_gradients(
                self._wrapped, self._wrapped_optimizer,
                max_norm=settings.clip_norm, error_if_nonfinite=False,
            )  # fmt: skip
        self._wrapped_optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.average.update(self.model, self.step, steps_per_epoch)
        return rate

    def save(self, name: str) -> None:
        """Write OUT/name, by the first process while the others wait."""
        self.fabric.barrier()
        if self.fabric.is_global_zero:
            progress = {
                "sources": list(self.data.sources),
                "fingerprint": self.data.fingerprint,
                "start": self.data.start,
                "start_classes": list(self.data.start_classes),
                "teacher": self.data.teacher,
                "plateau": self.plateau.state(),
                "precision": self.fabric.strategy.precision.state_dict(),
            }
            checkpoint = Checkpoint(
                self.recipe, self.data.classes, *self.data.statistics, self.step,
                self.model.state_dict(), self.average.tensors,
                optimizer_tensors(self.optimizer, self.names), progress,
            )  # fmt: skip
            save_checkpoint(self.out / name, checkpoint)
        self.fabric.barrier()


def _list_unreadable(lines: set[str], out: Path, fabric: Fabric) -> None:
    """Add to OUT/unreadable.txt what this process could not read."""
    if not lines:
        return
    path = out / "unreadable.txt" if fabric.is_global_zero else (
        out / f"unreadable-{fabric.global_rank}.txt"
    )  # fmt: skip
    known = set(path.read_text().splitlines()) if path.is_file() else set()
    path.write_text("\n".join(sorted(known | lines)) + "\n")


def _validate(
    validation: Validation, model: Model, average: WeightAverage, fabric: Fabric
) -> dict[str, float]:
    """Measure the averaged weights, which are what ships, then put the trained ones back."""
    trained = {key: value.clone() for key, value in model.state_dict().items()}
    model.load_state_dict(average.tensors)
    model.eval()
    try:
        with torch.no_grad(), fabric.autocast():
            return validation.measure(model, fabric)
    finally:
        model.load_state_dict(trained)
        model.train()


class _LossWindow:
    """Losses since the last look, kept on the device."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.losses: list[dict[str, Tensor]] = []
        self.origins: list[tuple[int, tuple[str, ...]]] = []
        self.unreadable: set[str] = set()

    def add(self, step: int, losses: dict[str, Tensor], batch: Batch) -> None:
        self.losses.append({key: value.detach() for key, value in losses.items()})
        self.origins.append((step, batch.names))
        self.unreadable.update(batch.unreadable)

    def take(self, folder: Path) -> dict[str, float]:
        """Means over the window and all processes; FloatingPointError names a bad batch."""
        table = torch.stack([torch.stack(list(losses.values())) for losses in self.losses])
        bad = (~torch.isfinite(table).all(dim=1)).nonzero().flatten().tolist()
        means = self.fabric.all_reduce(table.mean(dim=0), reduce_op="mean")
        values = dict(zip(self.losses[0], torch.as_tensor(means).tolist(), strict=True))
        if bad:
            step, names = self.origins[bad[0]]
            raise FloatingPointError(
                f"loss is not finite at step {step}, recordings: {', '.join(names)}; "
                f"last checkpoint: {folder}"
            )
        if not all(value == value and abs(value) != float("inf") for value in values.values()):
            raise FloatingPointError("loss is not finite in another process, which names its batch")
        self.losses, self.origins = [], []
        return values


class _Parts(Dataset[Batch | Exception]):
    """Batches by (step, part), for DataLoader's worker processes.

    An error is handed over whole: DataLoader would wrap it in the worker's traceback.
    """

    def __init__(self, batches: Batches, parts: int) -> None:
        self.batches, self.parts = batches, parts

    def __getitem__(self, key: tuple[int, int]) -> Batch | Exception:
        try:
            return self.batches.batch(*key, self.parts)
        except (ValueError, OSError) as error:
            return error


def _stream(
    batches: Batches, fabric: Fabric, step: int, total: int, accumulate: int, workers: int
) -> Iterator[Batch]:
    """This process's parts of the steps from `step` on."""
    first = fabric.global_rank * accumulate
    keys = [(s, first + number) for s in range(step, total) for number in range(accumulate)]
    # Forked workers share memory-mapped recordings; spawned ones would copy them.
    context = "fork" if workers and sys.platform == "linux" else None
    loader: Any = DataLoader(
        _Parts(batches, fabric.world_size * accumulate),
        batch_size=None,
        sampler=keys,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        multiprocessing_context=multiprocessing.get_context(context) if context else None,
        pin_memory=fabric.device.type == "cuda",
    )
    # Opened at once: it draws a seed, which inside the first step would change its dropout.
    return map(_raised, iter(loader))


def _raised(made: Batch | Exception) -> Batch:
    if isinstance(made, Exception):
        raise made
    return made
