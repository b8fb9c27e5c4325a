"""The tables of reports, from the results of comparisons and of pruning; "-" is not known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optimize.comparison.document import Table

__all__ = [
    "change",
    "accuracy_table",
    "cost_table",
    "figure",
    "points",
    "rounds_table",
    "track_table",
]

Found = Mapping[str, Any]


def figure(value: float | None, digits: int) -> str:
    """A number, or "-"."""
    return "-" if value is None else f"{value:.{digits}f}"


def points(estimate: Mapping[str, Any] | None) -> str:
    """A share and its interval, in per cent."""
    if estimate is None or estimate.get("value") is None:
        return "-"
    text = f"{100 * estimate['value']:.2f}"
    if estimate.get("low") is not None:
        text += f" ({100 * estimate['low']:.2f} to {100 * estimate['high']:.2f})"
    return text


def change(lost: Mapping[str, Any]) -> str:
    """In words: how many points of accuracy are lost, or gained, with their interval."""
    if lost["value"] >= 0:
        return f"loses {points(lost)} points of accuracy"
    gained = {"value": -lost["value"]}
    if lost.get("low") is not None:
        gained |= {"low": 0.0 - lost["high"], "high": 0.0 - lost["low"]}  # no -0.00
    return f"gains {points(gained)} points of accuracy"


def accuracy_table(found: Found) -> Table | None:
    """Accuracy on clips or windows, and the logits beside the first model's; None: not measured."""
    rows = [row for row in found["models"] if row.get("logits")]
    if not rows:
        return None
    of_clips = any(row.get("clips") for row in rows)
    metric = rows[0].get("metric", "accuracy")
    head = ["model", f"{metric} (%)" if of_clips else "windows named rightly (%)"]
    head += ["points lost"] if of_clips else []
    head += ["cosine", "max logit difference", "mean", "same decision (%)"]
    cells = []
    for row in rows:
        logits = row["logits"]
        cells.append(
            [
                row["name"],
                points(row.get(metric) if of_clips else row.get("window_accuracy")),
                *([points(row.get("lost"))] if of_clips else []),
                figure(logits["cosine"], 6),
                figure(logits["max_difference"], 3),
                figure(logits["mean_difference"], 4),
                figure(100 * logits["top1_agreement"], 1),
            ]
        )
    return Table(head, cells)


def track_table(found: Found) -> list[Table]:
    """A table a condition of the streaming track; none where there was no track."""
    conditions = dict.fromkeys(c for row in found["models"] for c in row.get("track") or {})
    tables = []
    for condition in conditions:
        head = [
            condition, "clips right (%)", "points lost", "missed", "miss rate (%)",
            "false accepts / h", "missed at equal false accepts (%)", "points lost at equal",
        ]  # fmt: skip
        cells = []
        for row in found["models"]:
            entry = (row.get("track") or {}).get(condition)
            if entry is None:
                continue
            low, high = entry["miss_rate_95"]
            few, many = entry["false_accepts_per_hour_95"]
            equal = entry["miss_rate_at_equal"]
            cells.append(
                [
                    row["name"],
                    points(entry["accuracy"]),
                    points(entry["lost"]),
                    f"{entry['missed']} of {entry['words']}",
                    f"{100 * entry['miss_rate']:.1f} ({100 * low:.1f} to {100 * high:.1f})",
                    f"{entry['false_accepts_per_hour']:.2f} ({few:.2f} to {many:.2f})",
                    figure(None if equal is None else 100 * equal, 2),
                    points(entry["lost_at_equal"]),
                ]
            )
        tables.append(Table(head, cells))
    return tables


def cost_table(found: Found) -> Table:
    """MACs, parameters, size and time."""
    head = [
        "model", "M MACs", "M parameters", "MB", "median ms", "p95 ms", "CPU time, share of the "
        "first", "times as fast",
    ]  # fmt: skip
    cells = []
    for row in found["models"]:
        time = row.get("latency")
        taken = ["-"] * 4
        if time:
            taken = [
                figure(time["median_ms"], 2),
                figure(time["p95_ms"], 2),
                f"{time['ratio']:.3f} ({time['ratio_low']:.3f} to {time['ratio_high']:.3f})",
                figure(1 / time["ratio"], 1),
            ]
        sizes = [
            figure(None if row.get(key) is None else row[key] / 1e6, digits)
            for key, digits in (("macs", 1), ("parameters", 2), ("bytes", 2))
        ]
        cells.append([row["name"], *sizes, *taken])
    return Table(head, cells)


def gains_table(found: Found, minutes: Mapping[str, float]) -> Table:
    """The dense model, what pruning and distilling made of it, and what INT8 made of that.

    Shares are of the dense model's; minutes: of each step, by its name.
    """
    models = {row["name"]: row for row in found["models"]}
    dense = found["models"][0]
    making = [minutes[name] for name in ("prune", "distill", "qat") if name in minutes]
    stages = {
        "dense": (dense, None),
        "pruned and recovered" if "prune" in minutes else "float": (
            models.get("small onnx fp32"), sum(making)
        ),
        "INT8": (models.get("small onnx int8"), minutes.get("flavours")),
    }  # fmt: skip
    head = ["", "minutes", "points of accuracy lost", "points of miss rate lost, equal false "
            "accepts", "MACs", "parameters", "size", "CPU time"]  # fmt: skip
    cells = []
    for name, (row, spent) in stages.items():
        if row is None:
            continue
        entry = next(iter((row.get("track") or {"": row}).values()))
        shares = [
            figure(None if not row.get(key) or not dense.get(key) else row[key] / dense[key], 3)
            for key in ("macs", "parameters", "bytes")
        ]
        cells.append(
            [
                name,
                figure(spent, 1),
                points(entry.get("lost")),
                points(entry.get("lost_at_equal")),
                *shares,
                figure(row["latency"]["ratio"] if row.get("latency") else None, 3),
            ]
        )
    if all(row[3] == "-" for row in cells):  # clips have no false accepts
        cells = [[*row[:3], *row[4:]] for row in cells]
        head = [*head[:3], *head[4:]]
    return Table(head, cells)


def rounds_table(pruning: Mapping[str, Any]) -> Table:
    """The dense model and each round of pruning."""
    measures = list(pruning["dense"]["validation"])
    head = ["", "steps", "M MACs", "share", "M parameters", "CPU time, share"]
    for measure in measures:
        head += [f"{measure} before recovery", f"{measure} after"]
    cells = []
    for entry in [pruning["dense"], *pruning["rounds"]]:
        before = entry.get("before_recovery", {})
        row = [
            f"round {entry['round']}" if "round" in entry else "dense",
            str(entry.get("steps", "-")),
            figure(entry["macs"] / 1e6, 1),
            figure(entry["macs_share"], 3),
            figure(entry["parameters"] / 1e6, 2),
            figure(entry["latency_share"], 3),
        ]
        for measure in measures:
            row += [figure(before.get(measure), 4), figure(entry["validation"].get(measure), 4)]
        cells.append(row)
    return Table(head, cells, len(cells) - 1)
