"""A confusion matrix as inline SVG, in the colours of the page (see bench/page_style.py)."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssast_edge.bench.charts import WIDTH

__all__ = ["MOST_CLASSES", "confusion_chart"]

MOST_CLASSES = 50  # beyond, the cells are too small to read
_CELL = 46.0
_CHARACTER = 7.2  # width of one, px, of the widest usual fonts
_LONGEST_NAME = 24


def confusion_chart(counts: NDArray[Any], labels: Sequence[str], *, title: str = "") -> str:
    """Rows: what it was, columns: what it was called; the darker, the larger share of the row.

    counts: (C, C). Empty for more than MOST_CLASSES classes. Rows without a clip are left out, and
    columns of classes that have neither a clip nor a mention.
    """
    rows = np.flatnonzero(counts.sum(axis=1) > 0).tolist()
    columns = np.flatnonzero((counts.sum(axis=0) > 0) | (counts.sum(axis=1) > 0)).tolist()
    if not len(rows) or len(columns) > MOST_CLASSES:
        return ""
    names = [_short(label) for label in labels]
    margin = 26 + _CHARACTER * max(len(names[i]) for i in columns)
    cell = min(_CELL, (WIDTH - margin - 14) / len(columns))
    top = 24 + _CHARACTER * 0.72 * max(len(names[i]) for i in columns)
    parts = [_text(14, 14, "was", "axis"), _text(margin, 14, "was called", "axis")]
    for column, label in enumerate(columns):
        x = margin + (column + 0.5) * cell
        parts.append(
            f'<text class="name" transform="translate({x + 2:.1f} {top - 6:.1f}) rotate(-45)">'
            f"{escape(names[label])}</text>"
        )
    for row, truth in enumerate(rows):
        y = top + row * cell
        parts.append(_text(margin - 8, y + cell / 2 + 4, names[truth], "name end"))
        total = int(counts[truth].sum())
        for column, named in enumerate(columns):
            count = int(counts[truth, named])
            x = margin + column * cell
            share = count / total
            fill = "var(--c0)" if truth == named else "var(--c1)"
            shown = f"{labels[truth]} called {labels[named]}: {count} of {total}"
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{cell - 1.5:.1f}" '
                f'height="{cell - 1.5:.1f}" rx="2" style="fill:var(--grid);opacity:.45"/>'
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{cell - 1.5:.1f}" '
                f'height="{cell - 1.5:.1f}" rx="2" style="fill:{fill};opacity:{share**0.6:.3f}">'
                f"<title>{escape(shown)}</title></rect>"
            )
            if count and cell > 6 + _CHARACTER * 0.85 * len(str(count)):
                kind = "inside middle" if share > 0.45 else "name middle"
                parts.append(_text(x + cell / 2 - 0.75, y + cell / 2 + 3.5, str(count), kind))
    height = top + len(rows) * cell + 8
    named_so = f"<title>{escape(title)}</title>" if title else ""
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img">{named_so}{"".join(parts)}</svg>'


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST_NAME else label[: _LONGEST_NAME - 1] + "…"


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
