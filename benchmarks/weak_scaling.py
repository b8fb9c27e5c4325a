"""Weak scaling: two processes with twice the batch, against one; a core each, over gloo.

    python -m benchmarks.weak_scaling

Runs the real training loop (train/engine.py) under torchrun on noise, in interleaved rounds, and
reads its seconds per step. Efficiency 1 means that two processes do twice the work in the time.
"""

from __future__ import annotations

import csv
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from benchmarks.output import write_json
from train.errors import one_line_errors

RECIPE = Path(__file__).parents[1] / "train" / "recipes" / "pretrain_packs_frame.toml"


@click.command()
@click.option("--batch", default=24, show_default=True, help="Clips of each process.")
@click.option("--steps", default=8, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--worker", type=click.Path(path_type=Path), hidden=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the figures here.")
def main(batch: int, steps: int, rounds: int, worker: Path | None, out: Path | None) -> None:
    """Seconds per step of one and of two processes."""
    with one_line_errors():
        if worker is not None:
            train(worker, batch * int(os.environ["WORLD_SIZE"]), steps)
            return
        seconds: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(rounds):
            for processes in seconds:
                seconds[processes].append(_run(processes, batch, steps))
        efficiency = statistics.median(a / b for a, b in zip(*seconds.values(), strict=True))
        write_json(
            {
                "batch_per_process": batch,
                "seconds_per_step": {n: statistics.median(s) for n, s in seconds.items()},
                "efficiency": efficiency,
            },
            out,
        )


def train(folder: Path, batch: int, steps: int) -> None:
    """One training process, as torchrun starts it."""
    import torch

    from train.checkpoint import build_model
    from train.data.clips import Batch
    from train.engine import TrainingData, fit
    from train.machine import Machine, open_machine
    from train.pretext import MaskedSpectrogramPretext
    from train.pretrain import PretextObjective
    from train.recipe import PretrainRecipe, load_recipe

    overrides = (
        f"optimizer.batch_size={batch}", f"optimizer.steps={steps}",
        "engine.log_every_steps=1", "engine.precision='32-true'",
    )  # fmt: skip
    recipe = load_recipe(RECIPE, overrides)
    assert isinstance(recipe, PretrainRecipe)
    fabric = open_machine(Machine(accelerator="cpu", threads=1), recipe)
    model = build_model(recipe, (), 0.0, 0.5)
    assert isinstance(model, MaskedSpectrogramPretext)

    frames, draw_masks = recipe.clips.num_frames, model.draw_masks

    class Noise:
        def batch(self, step: int, part: int, parts: int) -> Batch:
            generator = torch.Generator().manual_seed(step)
            size = batch // parts
            fbank = torch.randn(size, frames, 128, generator=generator)
            return Batch(fbank, draw_masks(size, generator), ("noise",) * size)

    fit(
        recipe, PretextObjective(model, 0.0, 0.5), Noise(), fabric=fabric, out=folder,
        steps_per_epoch=1000.0, data=TrainingData((), (0.0, 0.5), ()), resume=None, workers=0,
    )  # fmt: skip


def _run(processes: int, batch: int, steps: int) -> float:
    """Median seconds of the steps after the first two."""
    with tempfile.TemporaryDirectory() as temporary:
        run = Path(temporary) / "run"
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone",
            "--nproc-per-node", str(processes), "-m", "benchmarks.weak_scaling",
            "--worker", str(run), "--batch", str(batch), "--steps", str(steps),
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        if done.returncode:
            raise OSError(f"{processes} processes failed: {done.stderr.splitlines()[-1]}")
        with (run / "log.csv").open(newline="") as file:
            elapsed = [
                int(row["step"]) * float(row["seconds_per_step"]) for row in csv.DictReader(file)
            ]
    steps_alone = [later - earlier for earlier, later in zip(elapsed, elapsed[1:], strict=False)]
    return statistics.median(steps_alone[1:])


if __name__ == "__main__":
    main()
