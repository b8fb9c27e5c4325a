"""What a check is, what it is told and what it says."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

STATUSES = ("ok", "warning", "problem", "skipped")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which microphone and model are meant, in the words of `listen`."""

    bundle: str = "wake-words"
    backend: str = "auto"
    precision: str = "auto"
    device: str | None = None  # index or part of the name, None for the default
    channel: int | None = None  # index from 0, None for the mean of all
    has_microphone: bool = True  # False: audio comes from a file or a pipe


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    status: str  # of STATUSES; "problem" only for what keeps `listen` from working
    text: str
    fix: str = ""  # what to type or do


@dataclass(frozen=True)
class Check:
    """Something to look at. run may raise Skipped; SsastEdgeError: what it says is the finding.

    run is a function of a module, by whose name another process finds it.
    limit_s: it may take that long before it counts as hanging. decides: a problem in it keeps
    `listen` from working. needs: a check of the same area without which it makes no sense.
    """

    name: str
    run: Callable[[Options], Iterable[Finding]]
    limit_s: float = 20.0
    decides: bool = False
    needs: str = ""


class Skipped(Exception):
    """The check does not apply here; the message says why."""


def ok(text: str) -> Finding:
    """As it should be."""
    return Finding("ok", text)


def warning(text: str, fix: str) -> Finding:
    """`listen` works, but not as it could."""
    return Finding("warning", text, fix)
