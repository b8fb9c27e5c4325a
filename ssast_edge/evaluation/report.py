"""Writes the report of an evaluation: report.json, report.md and report.html, each whole.

The page is one file without scripts; only the sounds in it lie beside it.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ssast_edge.bench.files import write_whole
from ssast_edge.bench.page_style import STYLE
from ssast_edge.evaluation.section import Section

__all__ = ["to_html", "to_markdown", "with_sections", "write_report"]

_STYLE = """
h3{font-size:15px;margin:18px 0 4px}
svg .bar{stroke-width:1.6;opacity:.7}
.sounds td,.sounds th{text-align:left}
.sounds td{white-space:normal}
.sounds td:first-child{padding-left:0}
audio{height:30px;width:190px;display:block}
"""


def with_sections(report: Mapping[str, Any], sections: Sequence[Section]) -> dict[str, Any]:
    """The report with what its sections hold for programs; empty ones are left out."""
    found = {section.key: section.json for section in sections if section.json is not None}
    return {**report, "sections": {**report["sections"], **found}}


def write_report(folder: Path, report: Mapping[str, Any], sections: Sequence[Section]) -> Path:
    """Write all three; the path of the page."""
    whole = with_sections(report, sections)
    text = json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_whole(folder / "report.json", text)
    write_whole(folder / "report.md", to_markdown(whole, sections))
    page = folder / "report.html"
    write_whole(page, to_html(whole, sections))
    return page


def to_markdown(report: Mapping[str, Any], sections: Sequence[Section]) -> str:
    """The report for a terminal or a repository."""
    lines = [f"# {_title(report)}", "", f"`{report['command']}`", ""]
    lines += [f"- {warning}" for warning in report["warnings"]]
    return "\n".join(lines).rstrip() + "\n\n" + "\n".join(part.markdown for part in sections)


def to_html(report: Mapping[str, Any], sections: Sequence[Section]) -> str:
    """The page."""
    warnings = "".join(f'<p class="warn">{escape(text)}</p>' for text in report["warnings"])
    facts = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in _facts(report)
    )
    parts = "\n".join(
        f'<section id="{escape(part.key)}"><h2>{escape(part.title)}</h2>\n{part.html}</section>'
        for part in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(_title(report))}</title>\n<style>{STYLE}{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n<header><h1>Evaluation <span>{escape(_names(report))}</span></h1>\n"
        f"<p><code>{escape(report['command'])}</code></p><dl>{facts}</dl>{warnings}</header>\n"
        f"{parts}\n</main>\n</body>\n</html>\n"
    )


def _facts(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [("made", report["created"])]
    for detector in report["detectors"]:
        if detector["kind"] == "bundle":
            says = f"{detector['version']}, {detector['backend']}, hop {detector['hop_ms']} ms"
        else:
            says = detector["command"]
        facts.append((detector["name"], says))
    return facts


def _names(report: Mapping[str, Any]) -> str:
    return ", ".join(detector["name"] for detector in report["detectors"])


def _title(report: Mapping[str, Any]) -> str:
    return f"Evaluation of {_names(report)}"
