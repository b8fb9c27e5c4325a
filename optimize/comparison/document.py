"""A report as sections, written as Markdown for a diff and as one HTML file for people.

Knows text, tables and pictures; nothing of models. The HTML holds its pictures and asks for no
other file.
"""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Section", "Table", "write_document"]

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.55 system-ui, sans-serif; color: #1a202c; max-width: 72em; margin: 2em auto;
  padding: 0 1.2em; }
h1 { font-size: 1.7em; margin-bottom: .2em; }
h2 { font-size: 1.2em; margin: 2em 0 .5em; border-bottom: 2px solid #e2e8f0; padding-bottom: .2em; }
p { max-width: 48em; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .8em 0; font-size: 13.5px; }
th { color: #4a5568; font-weight: 600; vertical-align: bottom; border-bottom: 2px solid #cbd5e0; }
td, th { padding: .3em .7em; text-align: right; white-space: nowrap; }
th { white-space: normal; }
td { border-bottom: 1px solid #edf2f7; font-variant-numeric: tabular-nums; }
td:first-child, th:first-child { text-align: left; padding-left: .2em; white-space: normal;
  min-width: 9.5em; }
tr.strong td { font-weight: 600; background: #f0f7ff; }
td.good { color: #276749; font-weight: 600; } td.bad { color: #c53030; font-weight: 600; }
img { max-width: 100%; height: auto; margin: .5em 0; }
figcaption { color: #4a5568; font-size: 13px; } figure { margin: 1em 0; }
"""
_MARKS = {"yes": "good", "no": "bad"}  # cells that are coloured


@dataclass(frozen=True)
class Table:
    """Rows of text; the first column is left-aligned. strong: row that stands out, -1: none."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: int = -1


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs, tables and (caption, picture) pairs, in this order."""

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[tuple[str, Path]] = field(default_factory=tuple)


def write_document(path: Path, title: str, sections: Sequence[Section]) -> Path:
    """`path`.html and .md, each whole or not at all; returns the HTML."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path.with_suffix(".md"), _markdown(title, sections, path.parent))
    return _write(path.with_suffix(".html"), _html(title, sections))


def markdown_tables(tables: Sequence[Table]) -> str:
    """The tables as Markdown."""
    lines = []
    for table in tables:
        cells = [table.head, ["---", *["---:"] * (len(table.head) - 1)], *table.rows]
        lines += [f"| {' | '.join(c.replace('|', '/') for c in row)} |" for row in cells] + [""]
    return "\n".join(lines)


def _markdown(title: str, sections: Sequence[Section], folder: Path) -> str:
    parts = [f"# {title}", ""]
    for section in sections:
        if section.title:
            parts += [f"## {section.title}", ""]
        for paragraph in section.text:
            parts += [paragraph, ""]
        parts += [markdown_tables(section.tables)] if section.tables else []
        for caption, picture in section.pictures:
            parts += [f"![{caption}]({os.path.relpath(picture, folder)})", ""]
    return "\n".join(parts)


def _html(title: str, sections: Sequence[Section]) -> str:
    body = [f"<h1>{html.escape(title)}</h1>"]
    for section in sections:
        if section.title:
            body.append(f"<h2>{html.escape(section.title)}</h2>")
        body += [f"<p>{html.escape(paragraph)}</p>" for paragraph in section.text]
        body += [_table(table) for table in section.tables]
        for caption, picture in section.pictures:
            data = base64.b64encode(picture.read_bytes()).decode()
            body.append(
                f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
                f"<figcaption>{html.escape(caption)}</figcaption></figure>"
            )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _table(table: Table) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        made = []
        for cell in cells:
            mark = _MARKS.get(cell)
            made.append(f"<{tag}{f' class={mark}' if mark else ''}>{html.escape(cell)}</{tag}>")
        return "".join(made)

    rows = [
        f"<tr{' class=strong' if number == table.strong else ''}>{row(cells, 'td')}</tr>"
        for number, cells in enumerate(table.rows)
    ]
    head = f"<thead><tr>{row(table.head, 'th')}</tr></thead>"
    inside = "\n".join(rows)
    return f'<div class="wide"><table>{head}<tbody>\n{inside}\n</tbody></table></div>'


def _write(path: Path, text: str) -> Path:
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_text(text, encoding="utf-8")
    return partial.replace(path)
