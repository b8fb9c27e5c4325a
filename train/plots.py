"""Pictures of a run and of what it learnt, as PNG files.

Knows arrays and CSV files only. Colours: blue is the first series everywhere, orange the second.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

__all__ = [
    "plot_average_precision",
    "plot_confusion",
    "plot_reconstruction",
    "plot_training",
    "save_figure",
]

BLUE, ORANGE, GREY = "#2b6cb0", "#dd6b20", "#a0aec0"
_NOT_LOSSES = ("step", "epoch", "learning_rate", "seconds_per_step")
_NUMBERS_UP_TO = 25  # classes; more, and the counts in the cells cannot be read


def save_figure(figure: Figure, path: Path) -> Path:
    """Write under a temporary name, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.tmp.png")
    figure.savefig(partial, dpi=110)
    return partial.replace(path)


def plot_training(run: Path) -> Path | None:
    """training.png from a run's log.csv and validation.csv; None before the first line of it."""
    log, validation = _columns(run / "log.csv"), _columns(run / "validation.csv")
    names = [name for name in log if name not in _NOT_LOSSES]
    names += [name for name in validation if name not in (*names, *_NOT_LOSSES)]
    if not names:
        return None
    columns = min(3, len(names) + 1)
    rows = -(-(len(names) + 1) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.1 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, name in zip(axes, names, strict=False):
        if name in log:
            axis.plot(log["step"], log[name], color=BLUE, label="training")
        if name in validation:
            axis.plot(
                validation["step"], validation[name], color=ORANGE, marker=".", label="validation"
            )
        axis.set_title(name, fontsize=10)
        axis.legend(fontsize=8, frameon=False)
    rate = axes[len(names)]
    rate.plot(log.get("step", []), log.get("learning_rate", []), color=GREY)
    rate.set_title("learning rate", fontsize=10)
    for axis in axes:
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(names) + 1 :]:
        axis.remove()
    figure.suptitle(run.name, fontsize=11)
    return save_figure(figure, run / "training.png")


def plot_reconstruction(
    path: Path,
    fbank: NDArray[np.float32],
    hidden: NDArray[np.bool_],
    rebuilt: NDArray[np.float32],
    names: Sequence[str],
) -> Path:
    """A row a clip: the spectrogram, what the model sees of it, and what it makes of the rest.

    fbank, hidden, rebuilt: (clips, T, F) normalised log-mel, whether masked, the model's output.
    """
    figure = Figure(figsize=(12.5, 1.9 * len(fbank) + 0.3), layout="constrained")
    axes = figure.subplots(len(fbank), 3, squeeze=False)
    for row, clip, mask, made, name in zip(axes, fbank, hidden, rebuilt, names, strict=True):
        low, high = np.percentile(clip, [1, 99.7])
        pictures = clip, np.ma.masked_where(mask, clip), made
        for axis, picture in zip(row, pictures, strict=True):
            axis.set_facecolor("#d9d9d9")
            axis.imshow(
                picture.T, origin="lower", aspect="auto", vmin=low, vmax=high, cmap="magma",
                interpolation="nearest",
            )  # fmt: skip
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_ylabel(name, fontsize=7)
    for axis, title in zip(axes[0], ("log-mel", "what is not masked", "rebuilt"), strict=True):
        axis.set_title(title, fontsize=10)
    return save_figure(figure, path)


def plot_confusion(path: Path, confusion: NDArray[Any], classes: Sequence[str]) -> Path:
    """Rows: the true class, columns: the class that is named; shade: share of the row."""
    count = len(classes)
    side = max(4.0, 0.17 * count + 2.5) if count > _NUMBERS_UP_TO else max(4.0, 0.45 * count + 1.8)
    figure = Figure(figsize=(side, side), layout="constrained")
    axis = figure.subplots()
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if count <= _NUMBERS_UP_TO:
        for row, column in zip(*confusion.nonzero(), strict=True):
            axis.text(
                column, row, str(confusion[row, column]), ha="center", va="center", fontsize=7,
                color="white" if share[row, column] > 0.5 else "black",
            )  # fmt: skip
    size = 8 if count <= _NUMBERS_UP_TO else 6
    axis.set_xticks(range(count), classes, rotation=90, fontsize=size)
    axis.set_yticks(range(count), classes, fontsize=size)
    axis.set_xlabel("named", fontsize=9)
    axis.set_ylabel("true", fontsize=9)
    return save_figure(figure, path)


def plot_average_precision(
    path: Path,
    classes: Sequence[str],
    values: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    *,
    most: int = 60,
) -> Path:
    """A bar a class, best first, with its interval; of very many the best and the worst ones."""
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(-values[known], kind="stable")]
    title = f"average precision of {len(order)} classes"
    if len(order) > most:
        order = np.concatenate([order[: most // 2], order[-most // 2 :]])
        title += f", the best and the worst {most // 2}"
    figure = Figure(figsize=(6.5, 0.19 * len(order) + 1.2), layout="constrained")
    axis = figure.subplots()
    place = np.arange(len(order))
    axis.barh(place, values[order], color=BLUE, height=0.7)
    for y, index in zip(place, order, strict=True):
        if not np.isnan(low[index]):
            axis.plot([low[index], high[index]], [y, y], color="black", linewidth=0.8)
    axis.set_yticks(place, [classes[i] for i in order], fontsize=7)
    axis.set_ylim(len(order) - 0.4, -0.6)
    axis.set_xlim(0, 1)
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(title, fontsize=10)
    return save_figure(figure, path)


def _columns(path: Path) -> dict[str, NDArray[np.float64]]:
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return {}
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
