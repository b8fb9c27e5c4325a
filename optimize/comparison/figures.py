"""The pictures of an optimisation report, as PNG files.

Knows plain numbers only. Colours mean the same in every picture: grey the dense model, blue what
was pruned, orange INT8, green fp16, hollow markers the baselines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.plots import BLUE, GREY, ORANGE, save_figure

__all__ = ["Point", "plot_det", "plot_sensitivity", "plot_trade_off", "plot_widths"]

GREEN, DARK = "#2f855a", "#4a5568"
COLOURS = {"dense": DARK, "pruned": BLUE, "int8": ORANGE, "fp16": GREEN, "baseline": GREY}


@dataclass(frozen=True)
class Point:
    """A model in a trade-off; None where a figure is not known."""

    name: str
    kind: str  # of COLOURS
    accuracy: float  # percent
    low: float | None = None
    high: float | None = None
    macs: float | None = None  # of one window
    latency: float | None = None  # CPU time, as a share of the dense model's
    is_int8: bool = False


def plot_trade_off(path: Path, points: Sequence[Point], metric: str) -> Path:
    """Accuracy against MACs, and against latency."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    # INT8 takes the same multiply-accumulates as the float model that it was made from.
    _scatter(left, [(p.macs / 1e6, p) for p in points if p.macs is not None and not p.is_int8])
    left.set_xlabel("million MACs of one window")
    left.set_ylabel(f"{metric} (%)")
    _scatter(right, [(p.latency, p) for p in points if p.latency is not None])
    right.set_xlabel("CPU time of one window, share of the dense model's")
    return save_figure(figure, path)


def plot_sensitivity(path: Path, costs: Mapping[str, float], excluded: Sequence[str]) -> Path:
    """A bar a layer: what its quantisation alone changes a logit by, on average."""
    names = list(costs)
    figure = Figure(figsize=(8, 0.21 * len(names) + 1.1), layout="constrained")
    axis = figure.subplots()
    colours = [GREY if name in excluded else ORANGE for name in names]
    axis.barh(range(len(names)), [costs[name] for name in names], color=colours, height=0.7)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_xlabel("mean change of a logit when this layer alone is INT8", fontsize=8)
    _plain(axis)
    if excluded:
        axis.set_title("grey: left in float", fontsize=9, loc="left")
    return save_figure(figure, path)


def plot_det(
    path: Path, curves: Mapping[str, Sequence[tuple[float, float]]], kinds: Sequence[str]
) -> Path:
    """Missed words (%) against false accepts an hour, a line a model."""
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axis = figure.subplots()
    styles = ("-", "--", ":", "-.")
    seen: list[str] = []
    for (name, points), kind in zip(curves.items(), kinds, strict=True):
        x, y = zip(*points, strict=True)
        style = styles[seen.count(kind) % len(styles)]
        seen.append(kind)
        axis.plot(
            x, [100 * v for v in y], style, marker=".", color=COLOURS[kind], label=name, alpha=0.85
        )
    axis.set_xscale("symlog", linthresh=0.5)
    axis.set_xlim(left=0)
    axis.set_ylim(0, 25)  # above, too few words are left for a curve
    axis.set_xlabel("false accepts an hour (linear below 0.5)")
    axis.set_ylabel("missed words (%)")
    axis.legend(fontsize=8, frameon=False)
    _plain(axis)
    return save_figure(figure, path)


def plot_widths(
    path: Path, before: Mapping[str, Sequence[int]], after: Mapping[str, Sequence[int]]
) -> Path:
    """A panel a kind ("heads", "MLP units"): what each block had and what it kept."""
    figure = Figure(figsize=(11, 2.6), layout="constrained")
    panels = figure.subplots(1, len(before), squeeze=False).ravel()
    for axis, (kind, widths) in zip(panels, before.items(), strict=True):
        blocks = range(1, len(widths) + 1)
        axis.bar(blocks, widths, color="#e2e8f0", width=0.7, label="dense")
        axis.bar(blocks, after[kind], color=BLUE, width=0.7, label="kept")
        axis.set_xticks(blocks)
        axis.set_xlabel("block", fontsize=8)
        axis.set_title(kind, fontsize=9)
        _plain(axis)
    panels[-1].legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return save_figure(figure, path)


def _scatter(axis: Axes, placed: Sequence[tuple[float, Point]]) -> None:
    for x, point in placed:
        is_baseline = point.kind == "baseline"
        colour = COLOURS[point.kind]
        axis.plot(
            x, point.accuracy, "o", color=colour, markersize=7,
            markerfacecolor="white" if is_baseline else colour,
        )  # fmt: skip
        if point.low is not None and point.high is not None:
            axis.plot([x, x], [point.low, point.high], color=colour, linewidth=1, alpha=0.6)
    if placed:
        axis.set_xlim(0, 1.25 * max(x for x, _ in placed))
    _label(axis, placed)
    _plain(axis)


def _label(axis: Axes, placed: Sequence[tuple[float, Point]]) -> None:
    """Names beside the points; of two that would lie on each other the lower goes below."""
    taken: list[tuple[float, float]] = []
    low, high = axis.get_ylim()
    wide = axis.get_xlim()[1]
    for x, point in sorted(placed, key=lambda item: -item[1].accuracy):
        y = point.accuracy
        while any(abs(y - v) < 0.06 * (high - low) and abs(x - u) < 0.35 * wide for u, v in taken):
            y -= 0.02 * (high - low)
        taken.append((x, y))
        on_right = x < 0.6 * wide
        axis.annotate(
            point.name, (x, y), xytext=(7 if on_right else -7, 0), textcoords="offset points",
            fontsize=7.5, va="center", ha="left" if on_right else "right", color=DARK,
        )  # fmt: skip


def _plain(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.2)
