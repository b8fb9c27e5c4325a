"""The training loop: one for every task, on one CPU core or many GPUs (Lightning Fabric).

    torchrun --nproc-per-node 4 -m train pretrain RECIPE

Knows an objective (a module that turns a batch into losses), batches by step, and a validation.
Writes OUT/last and OUT/best (checkpoints), OUT/log.csv, OUT/validation.csv, OUT/training.png and
OUT/tensorboard. The same command goes on after the last checkpoint: batches, masks and dropout
depend on the step alone.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
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
from train.config import OptimizerConfig
from train.data.clips import Batch
from train.optim import Plateau, WeightAverage, learning_rate, make_optimizer, parameter_names
from train.plots import plot_training
from train.recipe import Recipe, RecipeError
from train.run_log import RunLog

__all__ = [
    "Batches",
    "Machine",
    "Objective",
    "Validation",
    "fit",
    "choose_precision",
    "open_machine",
    "resume_point",
]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a run happens; never part of a recipe. Defaults: whatever is there."""

    accelerator: str = "auto"
    devices: int = 0  # 0: what torchrun started, otherwise one
    nodes: int = 1
    workers: int = 1  # processes that make batches, for each training process
    threads: int = 0  # of the CPU; 0: torch's own choice


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


def open_machine(machine: Machine, precision: str) -> Fabric:
    """Processes, devices and precision. Under torchrun its processes are used."""
    if machine.threads:
        torch.set_num_threads(machine.threads)
    devices: int | str = machine.devices or "auto"
    if not machine.devices and (machine.accelerator == "cpu" or not torch.cuda.is_available()):
        devices = _torchrun_processes()
    fabric = Fabric(
        accelerator=machine.accelerator,
        devices=devices,
        num_nodes=machine.nodes,
        precision=choose_precision(precision, machine.accelerator),  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric


def choose_precision(precision: str, accelerator: str) -> str:
    """What `auto` means here: without instructions for it, bfloat16 is emulated and crawls."""
    if precision != "auto":
        return precision
    if accelerator in ("auto", "cuda") and torch.cuda.is_available():
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if has_bf16 else "32-true"


def resume_point(recipe: Recipe, out: Path) -> Checkpoint | None:
    """The last checkpoint of this recipe in `out`; RecipeError when another recipe's lies there."""
    folder = out / "last"
    if not has_checkpoint(folder):
        return None
    checkpoint = load_checkpoint(folder)
    if checkpoint.recipe != recipe:
        raise RecipeError(
            f"{folder} was trained by another recipe; choose another --out or remove it"
        )
    return checkpoint


def fit(
    recipe: Recipe,
    objective: Objective,
    batches: Batches,
    *,
    fabric: Fabric,
    out: Path,
    steps_per_epoch: float,
    classes: tuple[str, ...],
    statistics: tuple[float, float],
    sources: tuple[str, ...],
    resume: Checkpoint | None,
    validation: Validation | None = None,
    workers: int = 1,
) -> Path:
    """Train to the recipe's last step; returns the folder of the last checkpoint.

    sources: the corpora that the weights come from, kept for the licences of what is exported.
    """
    settings, engine = recipe.optimizer, recipe.engine
    total = settings.steps or max(1, round(settings.epochs * steps_per_epoch))
    parts = fabric.world_size * settings.accumulate
    if settings.batch_size % parts:
        raise RecipeError(
            f"optimizer.batch_size {settings.batch_size} does not divide into {parts} parts "
            f"({fabric.world_size} processes, accumulate {settings.accumulate})"
        )
    model = objective.model
    average = WeightAverage(model, settings)
    plateau = Plateau(settings, higher_is_better=validation is None or validation.higher_is_better)
    step = 0
    if resume is not None:
        load_weights(model, resume.model, out / "last")
        average.tensors = resume.average
        step = resume.step
        plateau.restore(resume.progress["plateau"])
        if step >= total:
            return out / "last"
    model.encoder.checkpoint_activations = engine.checkpoint_activations
    if engine.compile:
        model.encoder.encode = torch.compile(model.encoder.encode)  # type: ignore[method-assign]
    optimizer = make_optimizer(model, settings)
    names = parameter_names(model, optimizer)
    wrapped, wrapped_optimizer = fabric.setup(objective, optimizer)
    average.tensors = {key: value.to(fabric.device) for key, value in average.tensors.items()}
    if resume is not None:
        restore_optimizer(optimizer, names, resume.optimizer)
        fabric.strategy.precision.load_state_dict(resume.progress["precision"])

    def save(name: str) -> None:
        fabric.barrier()
        if fabric.is_global_zero:
            progress = {
                "sources": list(sources),
                "plateau": plateau.state(),
                "precision": fabric.strategy.precision.state_dict(),
            }
            mean, std = statistics
            tensors = optimizer_tensors(optimizer, names)
            save_checkpoint(
                out / name,
                Checkpoint(
                    recipe, classes, mean, std, step,
                    model.state_dict(), average.tensors, tensors, progress,
                ),
            )  # fmt: skip
        fabric.barrier()

    every = engine.validate_every_steps or max(1, round(steps_per_epoch))
    model.train()
    window = _LossWindow(fabric)
    start_time, start_step = time.perf_counter(), step
    stream = _stream(batches, fabric, step, total, settings.accumulate, workers)
    with ExitStack() as open_until_the_end:
        log: RunLog | None = None
        if fabric.is_global_zero:
            log = open_until_the_end.enter_context(RunLog(out, step))
        progress_bar = open_until_the_end.enter_context(
            tqdm(total=total, initial=step, unit="step", mininterval=2, disable=log is None)
        )
        while step < total:
            torch.manual_seed((recipe.seed * 1_000_003 + step) * 4096 + fabric.global_rank)
            rate = plateau.factor * learning_rate(step, total, steps_per_epoch, settings)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"]
            _train_step(step, stream, wrapped, wrapped_optimizer, fabric, settings, window)
            step += 1
            average.update(model, step, steps_per_epoch)
            progress_bar.update()
            is_end = step == total
            does_save = is_end or step % engine.save_every_steps == 0
            does_validate = validation is not None and (is_end or step % every == 0)
            # Losses are looked at before anything is kept: each step's own would make GPUs wait.
            if is_end or does_save or does_validate or step % engine.log_every_steps == 0:
                values = window.take(out / "last")
                if log is not None:
                    seconds = (time.perf_counter() - start_time) / (step - start_step)
                    log.training(step, step / steps_per_epoch, values, rate, seconds)
                    progress_bar.set_postfix(loss=f"{values['loss']:.4f}", lr=f"{rate:.1e}")
            if validation is not None and does_validate:
                measured = _validate(validation, model, average, fabric)
                is_best = plateau.update(measured[validation.metric])
                if log is not None:
                    log.validation(step, step / steps_per_epoch, measured)
                    plot_training(out)
                if is_best:
                    save("best")
            if does_save:
                save("last")
    if fabric.is_global_zero:
        plot_training(out)
    _list_unreadable(window.unreadable, out, fabric)
    return out / "last"


def _train_step(
    step: int,
    stream: Iterator[Batch],
    objective: Any,
    optimizer: Any,
    fabric: Fabric,
    settings: OptimizerConfig,
    window: _LossWindow,
) -> None:
    """Gradients of the step's parts one after another, then the optimiser's step."""
    for number in range(settings.accumulate):
        batch = next(stream).to(fabric.device)
        is_last = number == settings.accumulate - 1
        with fabric.no_backward_sync(objective, enabled=not is_last and fabric.world_size > 1):
            losses = objective(batch.fbank, batch.target)
            fabric.backward(losses["loss"] / settings.accumulate)
        window.add(step, losses, batch)
    if settings.clip_norm:
        fabric.clip_gradients(
            objective, optimizer, max_norm=settings.clip_norm, error_if_nonfinite=False
        )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _list_unreadable(lines: set[str], out: Path, fabric: Fabric) -> None:
    """Add to OUT/unreadable.txt what this process could not read, and say so."""
    if not lines:
        return
    path = out / "unreadable.txt" if fabric.is_global_zero else (
        out / f"unreadable-{fabric.global_rank}.txt"
    )  # fmt: skip
    known = set(path.read_text().splitlines()) if path.is_file() else set()
    path.write_text("\n".join(sorted(known | lines)) + "\n")
    tqdm.write(f"{len(lines)} recordings could not be read, others took their place: {path}")


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


class _Parts(Dataset[Batch]):
    """Batches by (step, part), for DataLoader's worker processes."""

    def __init__(self, batches: Batches, parts: int) -> None:
        self.batches, self.parts = batches, parts

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        return self.batches.batch(*key, self.parts)


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
    return iter(loader)


def _torchrun_processes() -> int:
    import os

    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
