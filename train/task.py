"""A recipe's data and its loss, opened alike by everything that trains: `train` and `optimize`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from train.data.clips import Batch
from train.engine import Batches, Objective, TrainingData, Validation

__all__ = ["Places", "SampledBatches", "TaskData", "TaskObjective"]


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where recordings lie and what is made of them; never part of a recipe."""

    manifests: Path = Path("runs/manifests")  # of the manifests that clip recipes name
    cache: Path | None = Path("runs/pcm")  # recordings decoded once; None: decode each time
    data: Path = Path("../shared/data")  # the packs of keyword recipes
    synthetic: tuple[Path, ...] = (Path("runs/synthetic"),)  # speech of `train.synthesize`
    pool: Path = Path("runs/pool")  # rendered features of keyword recipes
    jobs: int = 2  # processes that render them
    mined: tuple[Path, ...] = ()  # windows that an earlier round got wrong


@dataclass(frozen=True)
class TaskData:
    """A recipe's data, ready to be read."""

    record: TrainingData  # what a checkpoint says of it
    batches: Batches
    steps_per_epoch: float
    validation: Validation | None  # none: nothing is held out


class Sampler(Protocol):
    """Draws whole batches of a task."""

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Raw log-mel (size, T, F) and its targets, by the step alone."""
        ...


class SampledBatches:
    """Parts of a sampler's batches."""

    def __init__(self, sampler: Sampler, batch_size: int) -> None:
        self.sampler, self.batch_size = sampler, batch_size

    def batch(self, step: int, part: int, parts: int) -> Batch:
        """Every `parts`-th example of the step's batch, from `part` on."""
        fbank, target = self.sampler.batch(step, self.batch_size)
        return Batch(fbank[part::parts], target[part::parts], ())


class TaskObjective(Objective):
    """An objective of the model's logits alone, which a teacher's can be mixed with."""

    def loss_of(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar, of logits (B, classes) and targets (B, classes) in [0, 1]."""
        raise NotImplementedError

    def forward(self, fbank: Tensor, target: Tensor) -> dict[str, Tensor]:
        """(B, T, F) raw log-mel, (B, classes) targets."""
        return {"loss": self.loss_of(self.model(fbank).float(), target)}
