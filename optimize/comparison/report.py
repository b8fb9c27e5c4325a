"""What optimising cost and gained, as one HTML file, as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from optimize.chain.keeper import ChainError
from optimize.comparison.document import Section, Table, markdown_tables, write_document
from optimize.comparison.figures import (
    Point,
    plot_det,
    plot_sensitivity,
    plot_trade_off,
    plot_widths,
)
from optimize.comparison.tables import (
    accuracy_table,
    change,
    cost_table,
    figure,
    gains_table,
    rounds_table,
    track_table,
)
from optimize.comparison.verdict import arbitrate, find, shipped, targets
from optimize.quantization.quantize_report import finite
from optimize.recipe import OptimizeRecipe

__all__ = ["comparison_text", "write_comparison", "write_report"]

Results = Mapping[str, Mapping[str, Any]]
Row = Mapping[str, Any]


def write_report(out: Path, recipe: OptimizeRecipe, results: Results) -> Path:
    """report.html, .md and .json in `out`; returns the HTML.

    results: of each step that was done, by its name; "compare" at least.
    """
    if "compare" not in results:
        raise ChainError("nothing was compared: there is nothing to report")
    models = results["compare"]["models"]
    judged = targets(models, recipe.compare)
    sections = [
        Section("", _summary(models, results)),
        Section(
            "What was asked for",
            tables=[
                Table(
                    ["", "wanted", "found", "met"],
                    [[t.name, t.wanted, t.found, _met(t.is_met)] for t in judged],
                )
            ],
        ),
        *_compared(out, results["compare"]),
        *_steps(out, results),
        *_int8(out, results),
        _provenance(recipe, results),
    ]
    table = {
        "recipe": asdict(recipe),
        "targets": [asdict(target) for target in judged],
        "verdict": _verdict(models, results),
        "steps": results,
    }
    _write_json(out / "report.json", table)
    return write_document(out / "report", f"{recipe.name}: what it cost and gained", sections)


def write_comparison(out: Path, found: Mapping[str, Any]) -> Path:
    """comparison.html, .md and .json in `out`; returns the HTML."""
    _write_json(out / "comparison.json", found)
    return write_document(out / "comparison", "Comparison", _compared(out, found))


def comparison_text(found: Mapping[str, Any]) -> str:
    """The tables of a comparison, for a terminal."""
    tables = (accuracy_table(found), *track_table(found), cost_table(found))
    return markdown_tables([table for table in tables if table is not None])


def _summary(models: Sequence[Row], results: Results) -> list[str]:
    small, dense = shipped(models), models[0]
    if small is None:
        return []
    share = small["latency"]["ratio"]
    text = (
        f"What ships takes {100 * share:.0f} % of the dense model's CPU time ({1 / share:.1f} "
        f"times as fast), {small['bytes'] / 1e6:.2f} MB instead of {dense['bytes'] / 1e6:.2f} MB"
    )
    if small.get("macs") and dense.get("macs"):
        text += f" and {100 * small['macs'] / dense['macs']:.0f} % of its multiply-accumulates"
    lost = [entry["lost"] for _, entry in _places(small) if entry.get("lost")]
    text += f"; it {change(lost[0])}." if lost else "."
    return [text, *_verdict(models, results)]


def _verdict(models: Sequence[Row], results: Results) -> list[str]:
    flavours = results.get("flavours", {})
    return arbitrate(models, flavours.get("quantization"), flavours.get("arbitration"))


def _compared(out: Path, found: Mapping[str, Any]) -> list[Section]:
    models = found["models"]
    notes = [
        f"Everything is relative to {found['reference']}. In brackets 95 % intervals. Latencies: "
        f"{found['rounds']} interleaved rounds, {found['machine']}; ratios are of CPU time, with "
        "the middle half of the rounds in brackets."
    ]
    if any(row.get("is_native") is False for row in models):
        notes.append(
            "Models for TensorRT were run by ONNX Runtime on the CPU: that tells their accuracy, "
            "not their speed."
        )
    tables = [accuracy_table(found), *track_table(found), cost_table(found)]
    pictures = []
    scattered = trade_off_points(models)
    if scattered:
        path = plot_trade_off(out / "figures" / "trade_off.png", scattered, "accuracy")
        pictures.append(("Accuracy against multiply-accumulates and against CPU time", path))
    curves = _curves(models)
    if curves:
        names = [name for name, _ in curves]
        path = plot_det(out / "figures" / "det.png", dict(curves), [_kind(name) for name in names])
        pictures.append(("Missed words while all thresholds of a model move together", path))
    return [Section("The models", notes, [t for t in tables if t is not None], pictures)]


def trade_off_points(models: Sequence[Row]) -> list[Point]:
    """Models with a known accuracy and a cost."""
    found = []
    for row in models:
        if not row.get("is_native"):
            continue
        _, entry = _places(row)[0]
        accuracy = entry.get("accuracy") or entry.get("mAP")
        if accuracy is None:
            continue
        low, high = (
            None if accuracy[end] is None else 100 * accuracy[end] for end in ("low", "high")
        )
        latency = row["latency"]["ratio"] if row.get("latency") else None
        name = row["name"].replace(" onnx", "")
        found.append(
            Point(
                name, _kind(row["name"]), 100 * accuracy["value"], low, high,
                macs=row.get("macs"), latency=latency,
                is_int8=row["precision"] == "int8",
            )
        )  # fmt: skip
    return found


def _kind(name: str) -> str:
    if name.endswith("int8") and not name.startswith("dense"):
        return "int8"
    if name.startswith("dense"):
        return "dense"
    return "pruned" if name.startswith("small") else "baseline"


def _curves(models: Sequence[Row]) -> list[tuple[str, list[tuple[float, float]]]]:
    curves = []
    for row in models:
        for condition, entry in (row.get("track") or {}).items():
            name = f"{row['name'].replace(' onnx', '')}, {condition}"
            curves.append((name, [(x, y) for _, x, y in entry["curve"]]))
    return curves


def _steps(out: Path, results: Results) -> list[Section]:
    minutes = {name: entry["seconds"] / 60 for name, entry in results.items()}
    spent = ", ".join(f"{name} {value:.1f}" for name, value in minutes.items() if value)
    notes = [f"Minutes: {spent}; {sum(minutes.values()):.0f} in all."]
    table = gains_table(results["compare"], minutes)
    sections = [Section("What each step cost and gained", notes, [table])]
    pruning = results.get("prune", {}).get("pruning")
    if pruning is not None and pruning["rounds"]:
        last = pruning["rounds"][-1]
        path = plot_widths(
            out / "figures" / "widths.png",
            {"attention heads": _padded(pruning["dense"]["block_heads"]),
             "MLP units": _padded(pruning["dense"]["block_hidden"])},
            {"attention heads": _padded(last["block_heads"], len(pruning["dense"]["block_heads"])),
             "MLP units": _padded(last["block_hidden"], len(pruning["dense"]["block_hidden"]))},
        )  # fmt: skip
        settings = pruning["settings"]
        notes = [
            f"Importance: {settings['importance']}, over {settings['samples']} clips; recovery at "
            f"a teacher's share of {settings['distill']['teacher_share']:g}."
        ]
        caption = "What each block had and what it kept"
        if len(last["block_heads"]) < len(pruning["dense"]["block_heads"]):
            caption += " (whole blocks went: the kept ones are numbered anew)"
        sections.append(Section("Pruning", notes, [rounds_table(pruning)], [(caption, path)]))
    return sections


def _padded(widths: Sequence[int], length: int = 0) -> list[int]:
    return [*widths, *[0] * (length - len(widths))]


def _int8(out: Path, results: Results) -> list[Section]:
    found = _quantization(results)
    if found is None:
        return []
    excluded = found["excluded"]
    costs = {name: entry["mean"] for name, entry in found["sensitivity"].items()}
    path = plot_sensitivity(out / "figures" / "sensitivity.png", costs, excluded)
    notes = [
        f"Form {found['form']}: {found['reason']}. Observer {found['observer']}, weights of "
        f"{found['weight_bits']} bits, {found['calibrated']} windows calibrated and "
        f"{found['judged']} others judged ({results['flavours']['recordings']}), on "
        f"{found['cpu']['name']}. Left in float: {', '.join(excluded) or 'no layer'}; for "
        f"TensorRT: {', '.join(found['tensorrt']['excluded']) or 'no layer'}."
    ]
    forms = Table(
        ["form, every layer in INT8", "CPU time of fp32", "mean change of a logit", "largest",
         "cosine", "MB"],
        [
            [f["name"], figure(f["latency"]["ratio"], 2), figure(f["difference"]["mean"], 4),
             figure(f["difference"]["largest"], 3), figure(f["difference"]["cosine"], 6),
             figure(f["size_bytes"] / 1e6, 2)]
            for f in found["forms"]
        ],
        [f["name"] for f in found["forms"]].index(found["form"]),
    )  # fmt: skip
    observers = Table(
        ["observer", "mean change of a logit", "largest", "cosine"],
        [
            [name, figure(d["mean"], 4), figure(d["largest"], 3), figure(d["cosine"], 6)]
            for name, d in found["observers"].items()
        ],
        list(found["observers"]).index(found["observer"]),
    )
    return [
        Section("INT8", notes, [forms, observers], [("What each layer's INT8 alone costs", path)]),
        *_arbitration(results),
    ]


def _arbitration(results: Results) -> list[Section]:
    found = results["flavours"]["arbitration"]
    rows = []
    for row in found["rows"]:
        judged = row["judgement"]
        difference = judged["difference"]
        score, lost = judged.get("score"), judged.get("lost")
        rows.append(
            [
                f"{row['backend']} {row['precision']}",
                _interval(score), _interval(lost),
                figure(difference["cosine"], 6), figure(difference["largest"], 3),
                f"{100 * difference['agreement']:.1f} %", figure(row["size_bytes"] / 1e6, 2),
                figure(row["latency"]["ratio"], 2) if row["latency"] else "-",
            ]
        )  # fmt: skip
    winner = [row["file"] for row in found["rows"]].index(found["winner"])
    head = ["small model", "accuracy or mAP (%)", "points lost", "cosine", "max logit difference",
            "top-1 agreement", "MB", "CPU time of its fp32"]  # fmt: skip
    text = [
        f"Which precision ships first was decided here, on recordings that are not tested on: "
        f"{found['reason']}."
    ]
    return [Section("fp32, fp16 or INT8", text, [Table(head, rows, winner)])]


def _provenance(recipe: OptimizeRecipe, results: Results) -> Section:
    lines = [f"Recipe {recipe.name}, seed {recipe.seed}, from {recipe.checkpoint}."]
    for precision, entry in results.get("build", {}).get("engines", {}).items():
        what = entry.get("left_out") or f"{entry['engine']}, {entry['bytes'] / 1e6:.1f} MB"
        lines.append(f"TensorRT engine {precision}: {what}.")
    if find(results["compare"]["models"], "torch eager fp32") is not None:
        lines.append(
            "torch eager fp32 is the dense model in PyTorch as train/model.py has it, in float32 "
            "on one thread; the authors' own code is not what is timed here."
        )
    return Section("Provenance", lines)


def _quantization(results: Results) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = results.get("flavours", {}).get("quantization")
    return found


def _places(row: Row) -> list[tuple[str, Mapping[str, Any]]]:
    return list((row.get("track") or {"": row}).items())


def _interval(estimate: Mapping[str, Any] | None) -> str:
    """Of values in per cent already, with their interval as an object or not."""
    if estimate is None or estimate.get("value") is None:
        return "-"
    ends = estimate.get("interval") or {}
    if ends.get("low") is None:
        return figure(estimate["value"], 2)
    return f"{estimate['value']:.2f} ({ends['low']:.2f} to {ends['high']:.2f})"


def _met(is_met: bool | None) -> str:
    return "not measured" if is_met is None else "yes" if is_met else "no"


def _write_json(path: Path, table: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_text(json.dumps(finite(dict(table)), indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
