"""What pruning is to beat at the same cost: blocks dropped at random, and training from scratch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch

from optimize.pruning.prune import PruneConfig, first_step, prune
from optimize.pruning.recovery import DistillConfig, classifier_recipe, open_data, recover
from optimize.pruning.selection import Limits
from train.checkpoint import build_model, load_checkpoint
from train.machine import Machine, open_machine
from train.model import Classifier
from train.task import Places

__all__ = ["drop_depth_at_random", "train_from_scratch"]


def drop_depth_at_random(
    checkpoint: Path,
    out: Path,
    config: PruneConfig,
    macs: float,
    *,
    places: Places,
    machine: Machine,
    say: Callable[[str], object],
) -> Path:
    """As `prune`, but blocks drawn by the seed go, to `macs` of the dense model's (a share)."""
    naive = dataclasses.replace(
        config, macs=macs, latency=0.0, latency_ms=0.0, importance="random", sparse=False,
        limits=Limits(structure="depth"),
    )  # fmt: skip
    return prune(checkpoint, out, naive, places=places, machine=machine, say=say)


def train_from_scratch(
    dense: Path,
    pruned: Path,
    out: Path,
    config: PruneConfig,
    *,
    places: Places,
    machine: Machine,
) -> Path:
    """The pruned shape from random weights, without a teacher: as many steps, the dense rate."""
    state, original = load_checkpoint(pruned), load_checkpoint(dense)
    shape = classifier_recipe(state.recipe, pruned)
    steps = config.round_steps * (config.rounds - 1) + config.final_steps
    rate = classifier_recipe(original.recipe, dense).optimizer.learning_rate
    optimizer = dataclasses.replace(
        shape.optimizer, steps=steps, epochs=0.0, learning_rate=rate,
        warmup_steps=min(steps // 4, 200),
    )  # fmt: skip
    recipe = dataclasses.replace(shape, optimizer=optimizer)
    fabric = open_machine(machine, recipe)
    opened = open_data(recipe, places, fabric, machine, statistics=(state.mean, state.std))
    torch.manual_seed(recipe.seed + config.seed)
    model = build_model(recipe, state.classes, state.mean, state.std)
    assert isinstance(model, Classifier)
    return recover(
        recipe, model, opened, out=out, fabric=fabric, machine=machine, sources=(), teacher=None,
        distill=DistillConfig(teacher_share=0.0), first_step=first_step(config, 1),
    )  # fmt: skip
