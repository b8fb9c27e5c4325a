"""What a run writes down while it goes: CSV files that anything can read, and TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["RunLog"]


class RunLog:
    """log.csv (training), validation.csv and tensorboard/ of a run, continued after `step`."""

    def __init__(self, out: Path, step: int) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out = out
        for name in ("log.csv", "validation.csv"):
            _cut(out / name, step)
        self._board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return  # the CSV files hold the same
        self._board = SummaryWriter(out / "tensorboard", purge_step=step + 1)

    def training(
        self, step: int, epoch: float, values: Mapping[str, float], rate: float, seconds: float
    ) -> None:
        """Mean losses since the last line, learning rate, seconds per step since the start."""
        row = {**values, "learning_rate": rate, "seconds_per_step": seconds}
        self._write("log.csv", "train", step, epoch, row)

    def validation(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Metrics of the averaged weights."""
        self._write("validation.csv", "validation", step, epoch, values)

    def close(self) -> None:
        """Flush TensorBoard's file."""
        if self._board is not None:
            self._board.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _write(
        self, name: str, group: str, step: int, epoch: float, values: Mapping[str, float]
    ) -> None:
        path = self.out / name
        is_new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(["step", "epoch", *values])
            writer.writerow([step, f"{epoch:.3f}", *(f"{value:.6g}" for value in values.values())])
        if self._board is not None:
            for key, value in values.items():
                self._board.add_scalar(f"{group}/{key}", value, step)


def _cut(path: Path, step: int) -> None:
    """Drop the lines after `step`: the steps that a kill lost are logged again."""
    if not path.exists():
        return
    with path.open(newline="") as file:
        header, *lines = file.readlines() or [""]
    whole = [line for line in lines if line.endswith("\n")]  # the kill may have cut the last
    kept = [line for line in whole if int(line.split(",")[0]) <= step]
    if not kept:
        path.unlink()  # the next line writes the header
    elif len(kept) < len(lines):
        with path.open("w", newline="") as file:
            file.writelines([header, *kept])
