"""Trains any student recipe from a larger checkpoint of the same task, whose weights stay.

The recipe's own optimiser and length hold; see recovery.py for the losses.
"""

from __future__ import annotations

from pathlib import Path

import torch

from optimize.pruning.recovery import (
    ClassifierRecipe,
    DistillConfig,
    load_teacher,
    open_data,
    recover,
)
from train.checkpoint import build_model
from train.engine import resume_point
from train.initial import start_from
from train.machine import Machine, open_machine
from train.model import Classifier
from train.task import Places

__all__ = ["distill"]


def distill(
    recipe: ClassifierRecipe,
    teacher: Path,
    out: Path,
    config: DistillConfig,
    *,
    places: Places,
    machine: Machine,
    init: Path | None = None,
) -> Path:
    """Train to the recipe's last step; returns the checkpoint folder. The same call resumes.

    init: a pretrained encoder, or a checkpoint, that the student starts from. CheckpointError when
    the teacher lacks a class, has another front end, or excludes classes where the student does
    not.
    """
    fabric = open_machine(machine, recipe)
    resume = resume_point(recipe, out)
    statistics = (resume.mean, resume.std) if resume is not None else None
    opened = open_data(recipe, places, fabric, machine, statistics=statistics)
    record = opened.record
    taught_by = load_teacher(teacher, recipe, record.classes)
    torch.manual_seed(recipe.seed)
    model = build_model(recipe, record.classes, *record.statistics)
    assert isinstance(model, Classifier)
    start = start_from(init, model.encoder) if init is not None else None
    sources = (*(start.sources if start is not None else ()), *taught_by.sources)
    return recover(
        recipe,
        model,
        opened,
        out=out,
        fabric=fabric,
        machine=machine,
        sources=sources,
        teacher=taught_by,
        distill=config,
    )
