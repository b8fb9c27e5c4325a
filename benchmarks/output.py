"""Where the figures of a benchmark go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


def write_json(result: dict[str, Any], out: Path | None) -> None:
    """Print the result, and keep it in `out` when there is one."""
    text = json.dumps(result, indent=2)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n")
    click.echo(text)
