"""A user's mistakes as one line, for the commands of train/ and benchmarks/."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from ssast_edge.errors import SsastEdgeError

__all__ = ["one_line_errors"]


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Wrong input, a missing file or a full disk: one line and status 1, no traceback.

    Anything else is our mistake and keeps its traceback.
    """
    try:
        yield
    except (ValueError, FloatingPointError, OSError, SsastEdgeError) as error:
        raise click.ClickException(" ".join(str(error).split())) from error
