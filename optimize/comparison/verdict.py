"""What a comparison says: whether the targets are met, and which precision won.

Knows the tables of compare.py; nothing is chosen by test recordings here. What ships first
was decided on validation recordings before; this says how that turned out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optimize.comparison.compare import EAGER
from optimize.recipe import CompareConfig

__all__ = ["Target", "arbitrate", "find", "shipped", "targets"]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """One thing that was asked for; is_met None: it could not be measured."""

    name: str
    wanted: str
    found: str
    is_met: bool | None


def find(models: Sequence[Row], name: str) -> Row | None:
    """The row of a name."""
    return next((row for row in models if row["name"] == name), None)


def shipped(models: Sequence[Row]) -> Row | None:
    """The small model that a CPU runs first."""
    small = [row for row in models if row["name"].startswith("small onnx")]
    return small[0] if small else None


def targets(models: Sequence[Row], limits: CompareConfig) -> list[Target]:
    """Time, accuracy and misses of what ships on CPUs, against the dense model's."""
    small, eager = shipped(models), find(models, EAGER)
    if small is None:
        return []
    found = [
        _at_most(
            "CPU time of the dense fp32 model in ONNX Runtime", limits.cpu_share,
            small["latency"]["ratio"], "{:.3f}",
        )
    ]  # fmt: skip
    if eager is not None:
        share = small["latency"]["ratio"] / eager["latency"]["ratio"]
        name = "CPU time of the dense model in eager PyTorch (train/model.py, 1 thread)"
        found.append(_at_most(name, limits.eager_share, share, "{:.3f}"))
    for where, entry in _measured(small):
        lost = entry.get("lost")
        if lost is not None:
            name = f"points of accuracy lost{where}"
            found.append(_at_most(name, limits.accuracy_points, *_points(lost)))
        if "lost_at_equal" in entry:
            name = f"points of miss rate lost at equal false accepts{where}"
            equal = entry["lost_at_equal"]
            if equal is None:
                found.append(Target(name, f"at most {limits.miss_points:g}", "-", None))
            else:
                found.append(_at_most(name, limits.miss_points, *_points(equal)))
    alone = find(models, "dense onnx int8")
    for where, entry in _measured(alone) if alone is not None else ():
        lost = entry.get("lost")
        if lost is not None:
            name = f"points of accuracy that INT8 alone costs the dense model{where}"
            found.append(_at_most(name, limits.accuracy_points, *_points(lost)))
    return found


def arbitrate(
    models: Sequence[Row],
    int8: Mapping[str, Any] | None,
    arbitration: Mapping[str, Any] | None = None,
) -> list[str]:
    """Sentences: which precision ships first on CPUs and on TensorRT, and why.

    int8, arbitration: the reports of quantisation, judged on recordings that are not tested on.
    """
    small = shipped(models)
    if small is None:
        return []
    if int8 is None or arbitration is None:
        return ["Only float was made: the recipe has no [quantize]."]
    on_cpu = {row["precision"]: row for row in models if row["name"].startswith("small onnx")}
    ratio = on_cpu["int8"]["latency"]["ratio"] / on_cpu["fp32"]["latency"]["ratio"]
    lines = [
        f"On CPUs {small['precision']} ships first: {arbitration['reason']}, judged on recordings "
        f"that are not tested on. In this run INT8 takes {ratio:.2f} of the CPU time of the small "
        f"fp32 model and {on_cpu['int8']['bytes'] / on_cpu['fp32']['bytes']:.2f} of its size."
    ]
    native = [r for r in models if r["name"].startswith("small tensorrt") and r["is_native"]]
    if native:
        fastest = min(native, key=lambda row: row["latency"]["ratio"])
        lines.append(f"With TensorRT {fastest['precision']} is the fastest in this run.")
        return lines
    judged = [row for row in arbitration["rows"] if row["backend"] == "tensorrt"]
    if judged:
        shown = " and ".join(
            f"{row['precision']} changes a logit of the small fp32 model by "
            f"{row['judgement']['difference']['mean']:.4f} on average"
            for row in judged
        )
        lines.append(
            f"With TensorRT {judged[0]['precision']} is tried first; whether INT8 is faster there "
            f"only a GPU can tell, and none was here. As ONNX Runtime computes the graphs, {shown}."
        )
    return lines


def _measured(row: Row) -> list[tuple[str, Mapping[str, Any]]]:
    """(", condition" or nothing, figures) of each measurement of accuracy."""
    if row.get("track"):
        return [(f", {condition}", entry) for condition, entry in row["track"].items()]
    return [("", row)]


def _points(estimate: Mapping[str, Any]) -> tuple[float, str]:
    """The value in points, and a format that shows its interval."""
    interval = ""
    if estimate["low"] is not None:
        interval = f" (95 %: {100 * estimate['low']:.2f} to {100 * estimate['high']:.2f})"
    return 100 * float(estimate["value"]), "{:.2f}" + interval


def _at_most(name: str, limit: float, value: float, shown: str) -> Target:
    return Target(name, f"at most {limit:.3g}", shown.format(value), value <= limit + 1e-9)
