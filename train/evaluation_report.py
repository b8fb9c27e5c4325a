"""Writes what an evaluation found: JSON for programs, Markdown for a diff, HTML for people."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssast_edge.evaluation.bootstrap import Estimate
from ssast_edge.evaluation.class_scores import Evaluation
from train.plots import plot_average_precision, plot_confusion

__all__ = ["write_report"]

_SHARES = ("accuracy", "top_5", "mean_recall")  # shown in per cent
_STYLE = """body { font: 15px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; } td, th { padding: .2em .8em; text-align: right;
border-bottom: 1px solid #ddd; } td:first-child, th:first-child { text-align: left; }
img { max-width: 100%; }"""


@dataclass(frozen=True)
class _Table:
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def write_report(
    folder: Path,
    title: str,
    evaluations: Mapping[str, Evaluation],
    provenance: Mapping[str, Any],
) -> None:
    """evaluation.json, .md and .html in `folder`, with a picture of each class's precision.

    evaluations: by the name of the condition; classes and confusions are those of the first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first = next(iter(evaluations.values()))
    pictures = _draw(folder, first)
    tables = [_overview(evaluations), _classes(first)]
    table = {
        "provenance": dict(provenance),
        "evaluations": {name: found.to_json() for name, found in evaluations.items()},
    }
    _write(folder / "evaluation.json", json.dumps(table, indent=1) + "\n")
    notes = _notes(first, provenance)
    _write(folder / "evaluation.md", _markdown(title, notes, tables, pictures))
    _write(folder / "evaluation.html", _html(title, notes, tables, pictures))


def _draw(folder: Path, found: Evaluation) -> dict[str, Path]:
    ap = [result.average_precision for result in found.per_class]
    low, high = (
        np.array([getattr(estimate.interval, end) for estimate in ap]) for end in ("low", "high")
    )
    values = np.array([estimate.value for estimate in ap])
    pictures = {
        "Average precision": plot_average_precision(
            folder / "average_precision.png", found.classes, values, low, high
        )
    }
    if found.confusion is not None:
        pictures["Confusions"] = plot_confusion(
            folder / "confusion.png", found.confusion, found.classes
        )
    return pictures


def _overview(evaluations: Mapping[str, Evaluation]) -> _Table:
    first = next(iter(evaluations.values()))
    rows = [
        [name, *(_estimate(found.metrics[metric], metric) for metric in first.metrics)]
        for name, found in evaluations.items()
    ]
    return _Table("All classes", ["", *first.metrics], rows)


def _classes(found: Evaluation) -> _Table:
    head = ["class", "clips", "average precision", "AUC", "d-prime"]
    rows = []
    for result in found.per_class:
        row = [
            result.name,
            str(result.positives),
            _estimate(result.average_precision),
            _estimate(result.auc),
            _number(result.d_prime.value),
        ]
        if not found.multilabel:
            row[2:2] = [_estimate(result.recall, "accuracy"), _percent(result.precision)]
        rows.append(row)
    if not found.multilabel:
        head[2:2] = ["recall", "precision"]
    return _Table("Each class", head, rows)


def _notes(found: Evaluation, provenance: Mapping[str, Any]) -> list[str]:
    units = "clips" if found.num_units == found.num_clips else "speakers"
    samples = sorted({found.samples, found.ranking_samples})
    notes = [
        ", ".join(f"{key}: {value}" for key, value in provenance.items()) + ".",
        f"{found.num_clips} clips. In brackets {100 * found.level:g} % intervals: a bootstrap over "
        f"{found.num_units} {units}, {' or '.join(map(str, samples))} times.",
    ]
    if found.classes_without_positive:
        names = ", ".join(found.classes_without_positive)
        notes.append(f"In no mean, for no clip has them: {names}.")
    return notes


def _markdown(
    title: str, notes: Sequence[str], tables: Sequence[_Table], pictures: Mapping[str, Path]
) -> str:
    lines = [f"# {title}", ""]
    for note in notes:
        lines += [note, ""]
    for table in tables:
        cells = [table.head, ["---", *["---:"] * (len(table.head) - 1)], *table.rows]
        lines += [f"## {table.title}", ""]
        lines += [f"| {' | '.join(c.replace('|', '/') for c in row)} |" for row in cells] + [""]
    lines += [f"![{name}]({path.name})\n" for name, path in pictures.items()]
    return "\n".join(lines)


def _html(
    title: str, notes: Sequence[str], tables: Sequence[_Table], pictures: Mapping[str, Path]
) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

    overview, *others = (
        f"<h2>{html.escape(table.title)}</h2>\n<table>\n{row(table.head, 'th')}\n"
        + "\n".join(row(cells, "td") for cells in table.rows)
        + "\n</table>"
        for table in tables
    )
    images = (
        f'<h2>{name}</h2>\n<img alt="{name}" src="data:image/png;base64,'
        f'{base64.b64encode(path.read_bytes()).decode()}">'
        for name, path in pictures.items()
    )
    body = [f"<p>{html.escape(note)}</p>" for note in notes] + [overview, *images, *others]
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n"
        f"<h1>{html.escape(title)}</h1>\n" + "\n".join(body) + "\n</html>\n"
    )


def _estimate(found: Estimate, metric: str = "") -> str:
    show = _percent if metric in _SHARES else _number
    low, high = found.interval.low, found.interval.high
    if math.isnan(found.value) or math.isnan(low):
        return show(found.value)
    return f"{show(found.value)} ({show(low)} to {show(high)})"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f} %"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
