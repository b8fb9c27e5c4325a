"""A section of a report, written once: HTML and Markdown of the same words and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

__all__ = ["Section", "SectionWriter"]


@dataclass(frozen=True)
class Section:
    """A part of a report: html without its heading, markdown with it, json for a key of its own."""

    key: str
    title: str
    html: str
    markdown: str
    json: Any


class SectionWriter:
    """HTML and Markdown of the same words and tables."""

    def __init__(self) -> None:
        self._html: list[str] = []
        self._markdown: list[str] = []

    def say(self, text: str, kind: str = "note") -> None:
        """A paragraph; kind: a CSS class of the page, "note" or "warn"."""
        self._html.append(f'<p class="{kind}">{escape(text)}</p>')
        self._markdown.append(text)

    def head(self, text: str) -> None:
        """A heading within the section."""
        self._html.append(f"<h3>{escape(text)}</h3>")
        self._markdown.append(f"### {_cell(text)}")

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Cells of text; the first column is of names."""
        cells = "".join(f"<th>{escape(name)}</th>" for name in head)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(value)}</td>" for value in row) + "</tr>" for row in rows
        )
        self._html.append(
            f'<div class="scroll"><table><thead><tr>{cells}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )
        lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
        self._markdown.append(
            "\n".join(f"| {' | '.join(_cell(value) for value in line)} |" for line in lines)
        )

    def legend(self, colours: Sequence[tuple[str, str]]) -> None:
        """Names and their CSS colours in the pictures; Markdown goes without, as of them."""
        items = "".join(
            f'<li><i style="background:{fill}"></i>{escape(name)}</li>' for name, fill in colours
        )
        self._html.append(f'<ul class="legend">{items}</ul>')

    def sounds(
        self, head: Sequence[str], rows: Sequence[Sequence[str]], paths: Sequence[str]
    ) -> None:
        """A table with a sound in each row, by its path from the page; "" for none."""
        cells = "".join(f"<th>{escape(name)}</th>" for name in ("", *head))
        body = []
        for row, path in zip(rows, paths, strict=True):
            player = f'<audio controls preload="none" src="{escape(path)}"></audio>' if path else ""
            values = "".join(f"<td>{escape(value)}</td>" for value in row)
            body.append(f"<tr><td>{player}</td>{values}</tr>")
        self._html.append(
            f'<div class="scroll"><table class="sounds"><thead><tr>{cells}</tr></thead>'
            f"<tbody>{''.join(body)}</tbody></table></div>"
        )
        lines = [
            [*head, "sound"],
            ["---"] * (len(head) + 1),
            *(
                [*row, f"[hear]({path})" if path else ""]
                for row, path in zip(rows, paths, strict=True)
            ),
        ]
        self._markdown.append(
            "\n".join(f"| {' | '.join(_cell(value) for value in line)} |" for line in lines)
        )

    def picture(self, svg: str, caption: str) -> None:
        """An SVG picture; Markdown goes without."""
        self.pictures([(svg, caption)])

    def pictures(self, pictures: Sequence[tuple[str, str]]) -> None:
        """SVG pictures and their captions, side by side where there is room."""
        figures = [
            f"<figure><figcaption>{escape(caption)}</figcaption>{svg}</figure>"
            for svg, caption in pictures
        ]
        pair = f'<div class="pair">{"".join(figures)}</div>'
        self._html.append(figures[0] if len(figures) == 1 else pair)

    def section(self, key: str, title: str, found: Any) -> Section:
        """What was written; found: the same for programs."""
        markdown = f"## {title}\n\n" + "\n\n".join(self._markdown) + "\n"
        return Section(key, title, "\n".join(self._html), markdown, found)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
