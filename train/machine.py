"""Where training runs: processes, devices and precision (Lightning Fabric)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.utilities.exceptions import MisconfigurationException

from train.recipe import Recipe, RecipeError

__all__ = ["Machine", "choose_precision", "open_machine"]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a run happens; never part of a recipe. Defaults: whatever is there."""

    accelerator: str = "auto"
    devices: int = 0  # 0: what torchrun started, otherwise one
    nodes: int = 1
    workers: int = 1  # processes that make batches, for each training process
    threads: int = 0  # of the CPU; 0: torch's own choice


def open_machine(machine: Machine, recipe: Recipe) -> Fabric:
    """Processes, devices and precision. Under torchrun its processes are used."""
    if machine.threads:
        torch.set_num_threads(machine.threads)
    devices: int | str = machine.devices or "auto"
    if not machine.devices and (machine.accelerator == "cpu" or not torch.cuda.is_available()):
        devices = _torchrun_processes()
    try:
        fabric = Fabric(
            accelerator=machine.accelerator,
            devices=devices,
            num_nodes=machine.nodes,
            strategy=_strategy(devices, machine.nodes),
            precision=choose_precision(recipe.engine.precision, machine.accelerator),  # type: ignore[arg-type]
        )
        fabric.launch()
    except (RuntimeError, MisconfigurationException) as error:
        raise ValueError(
            f"--accelerator {machine.accelerator} --devices {devices} cannot be had here: "
            f"{str(error).splitlines()[0]}"
        ) from error
    settings = recipe.optimizer
    parts = fabric.world_size * settings.accumulate
    if settings.batch_size % parts:
        raise RecipeError(
            f"optimizer.batch_size {settings.batch_size} does not divide into {parts} parts "
            f"({fabric.world_size} processes, accumulate {settings.accumulate})"
        )
    return fabric


def _strategy(devices: int | str, nodes: int) -> Any:
    """Fabric's choice; several processes wait longer than its half hour while one decodes."""
    count = torch.cuda.device_count() if devices == "auto" else int(devices)
    if count * nodes <= 1:
        return "auto"
    return DDPStrategy(timeout=timedelta(hours=24))


def choose_precision(precision: str, accelerator: str) -> str:
    """What `auto` means here: without instructions for it, bfloat16 is emulated and crawls."""
    if precision != "auto":
        return precision
    if accelerator in ("auto", "cuda") and torch.cuda.is_available():
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if has_bf16 else "32-true"


def _torchrun_processes() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
