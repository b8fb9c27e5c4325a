"""The steps of a chain that train: pruning, distillation, baselines, tuning under rounding."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from optimize.chain.context import Context
from optimize.chain.keeper import Done, digest_file
from optimize.pruning.baselines import drop_depth_at_random, train_from_scratch
from optimize.pruning.prune import prune
from optimize.pruning.students import teach
from optimize.quantization.qat import quantization_aware
from train.checkpoint import load_checkpoint

__all__ = ["baselines", "checkpoint_of", "distilled", "pruned", "tuned"]


def pruned(run: Context) -> Path:
    """The checkpoint to export: the pruned one, or the dense one."""
    config = run.recipe.prune
    if config is None:
        return run.checkpoint
    teacher = Path(run.recipe.teacher) if run.recipe.teacher else None
    inputs = {"source": run.source, "config": asdict(config), "audio": run.audio}
    if teacher is not None:
        load_checkpoint(teacher)  # a wrong path is one line here
        inputs["teacher"] = digest_file(teacher / "average.safetensors")

    def work(folder: Path) -> dict[str, Any]:
        last = prune(
            run.checkpoint, folder, config, places=run.places, machine=run.machine,
            teacher=teacher, say=run.indented,
        )  # fmt: skip
        return {
            "checkpoint": last.name,
            "pruning": json.loads((folder / "pruning.json").read_text()),
        }

    return checkpoint_of(run.chain.do("prune", inputs, work))


def distilled(run: Context, small: Path) -> Path:
    """The checkpoint that a teacher has taught further, or instead of pruning."""
    config = run.recipe.distill
    if config is None:
        return small
    teacher = Path(config.teacher) if config.teacher else run.checkpoint
    load_checkpoint(teacher)
    inputs = {
        "start": None if config.recipe else digest_file(small / "average.safetensors"),
        "student": digest_file(Path(config.recipe)) if config.recipe else None,
        "teacher": digest_file(teacher / "average.safetensors"),
        "config": asdict(config),
        "audio": run.audio,
    }

    def work(folder: Path) -> dict[str, Any]:
        last = teach(small, run.checkpoint, folder, config, places=run.places, machine=run.machine)
        return {"checkpoint": last.name}

    return checkpoint_of(run.chain.do("distill", inputs, work))


def baselines(run: Context, small: Path) -> dict[str, Done]:
    """The steps that trained what pruning is to beat, by title."""
    wanted, config = run.recipe.baselines, run.recipe.prune
    if wanted is None or config is None:
        return {}
    pruning = run.chain.done["prune"]
    rounds = pruning.result["pruning"]["rounds"]
    share = float(rounds[-1]["macs_share"])
    inputs = {"pruned": pruning.key, "share": share}
    found = {}
    if wanted.random_depth:

        def drop(folder: Path) -> dict[str, Any]:
            last = drop_depth_at_random(
                run.checkpoint, folder, config, share, places=run.places,
                machine=run.machine, say=run.indented,
            )  # fmt: skip
            return {"checkpoint": last.name}

        found["random depth"] = run.chain.do("random-depth", inputs, drop)
    if wanted.scratch:

        def train(folder: Path) -> dict[str, Any]:
            last = train_from_scratch(
                run.checkpoint, small, folder, config, places=run.places,
                machine=run.machine,
            )  # fmt: skip
            return {"checkpoint": last.name}

        found["from scratch"] = run.chain.do("scratch", inputs, train)
    return found


def tuned(run: Context, small: Path) -> Path:
    """The checkpoint after fine-tuning under INT8's rounding."""
    config, quantize = run.recipe.qat, run.recipe.quantize
    assert config is not None
    assert quantize is not None
    inputs = {
        "weights": digest_file(small / "average.safetensors"),
        "config": asdict(config),
        "quantize": asdict(quantize),
        "audio": run.audio,
    }
    if run.recipe.calibration.manifest:
        inputs["calibration"] = run.calibrated_on

    def work(folder: Path) -> dict[str, Any]:
        manifest, _ = run.calibration(folder)
        last = quantization_aware(
            small, manifest, folder, places=run.places, machine=run.machine, config=config,
            quantize=quantize,
        )  # fmt: skip
        return {"checkpoint": last.name}

    return checkpoint_of(run.chain.do("qat", inputs, work))


def checkpoint_of(done: Done) -> Path:
    """The checkpoint that a step trained."""
    return done.folder / str(done.result["checkpoint"])
