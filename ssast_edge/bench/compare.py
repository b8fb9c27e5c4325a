"""Two reports side by side: what became slower, as far as the measurements tell.

A case is over the limit when its median rose by more than it and the 95 % interval of the ratio
leaves out 1: noise alone does not fail a build.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ssast_edge.bench.machine import machine_key
from ssast_edge.bench.ratios import Ratio, unpaired_ratio
from ssast_edge.bench.report_json import ReportError
from ssast_edge.errors import SsastEdgeError

# What must be equal for a case to be the same work.
_SAME_WORK = ("hop_ms", "window_frames", "mel_bins", "labels")


@dataclass(frozen=True)
class Row:
    """One case, by one measure."""

    name: str
    measure: str  # "inference", "hop"
    before_ms: float
    after_ms: float
    ratio: Ratio
    is_over: bool

    @property
    def verdict(self) -> str:
        """In words."""
        if not self.ratio.is_change():
            return "no change"
        if self.is_over:
            return "OVER THE LIMIT"
        return "slower" if self.ratio.value > 1 else "faster"


@dataclass(frozen=True)
class Comparison:
    """All cases that both reports have, and what a reader must know of the reports."""

    rows: list[Row]
    notes: list[str]

    @property
    def over(self) -> list[Row]:
        """The cases that became too slow."""
        return [row for row in self.rows if row.is_over]


def parse_limit(text: str) -> float:
    """A share of "10%" or "10". Raises SsastEdgeError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%?\s*", text)
    limit = float(match[1]) / 100 if match else -1.0
    if not 0 <= limit <= 10:
        raise SsastEdgeError(f"--fail-over {text!r} is not a percentage such as 10% (0 to 1000)")
    return limit


def compare(before: Mapping[str, Any], after: Mapping[str, Any], limit: float | None) -> Comparison:
    """Ratios of `after` to `before`.

    limit: share above which a case is over, None: none is. Raises ReportError when they have no
    case in common, or one of the same name that is other work.
    """
    try:
        rows = list(_rows(before, after, limit))
        notes = list(_notes(before, after))
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise ReportError(
            f"a report lacks what its schema promises ({type(error).__name__}: {error})"
        ) from error
    if not rows:
        names = " / ".join(_names(before) or ["none"]), " / ".join(_names(after) or ["none"])
        raise ReportError(f"the reports have no case in common: {names[0]} against {names[1]}")
    return Comparison(rows, notes)


def _rows(
    before: Mapping[str, Any], after: Mapping[str, Any], limit: float | None
) -> Iterator[Row]:
    old_cases = {case["name"]: case for case in before["cases"]}
    for case in after["cases"]:
        old = old_cases.get(case["name"])
        if old is None:
            continue
        _check_same_work(before, after, case)
        for measure, part in (("inference", "engine"), ("hop", "hop")):
            if not case[part] or not old[part]:
                continue
            ratio = unpaired_ratio(case[part]["rounds_ms"], old[part]["rounds_ms"])
            if ratio is None:
                continue
            is_over = limit is not None and ratio.value > 1 + limit and ratio.low > 1
            yield Row(
                case["name"], measure, old[part]["p50_ms"], case[part]["p50_ms"], ratio, is_over
            )


def _check_same_work(
    before: Mapping[str, Any], after: Mapping[str, Any], case: Mapping[str, Any]
) -> None:
    old, new = (_bundle(report, case["bundle"]) for report in (before, after))
    for key in _SAME_WORK:
        if old[key] != new[key]:
            raise ReportError(
                f"{case['name']} cannot be compared: {key} was {old[key]} and is {new[key]}"
            )


def _notes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    if machine_key(before["machine"]) != machine_key(after["machine"]):
        shown = [
            f"{m['model'] or m['processor'] or m['architecture']} ({m['cores']} cores)"
            for m in (before["machine"], after["machine"])
        ]
        yield f"different machines: {shown[0]} and {shown[1]}: these ratios are between machines"
    for name in ("power", "versions"):
        for key in sorted({*before[name], *after[name]}):
            old, new = before[name].get(key), after[name].get(key)
            if old != new:
                yield f"{name}: {key} was {old or 'unknown'} and is {new or 'unknown'}"
    for bundle in after["bundles"]:
        known = [old for old in before["bundles"] if old["name"] == bundle["name"]]
        if known and known[0]["sha256"] != bundle["sha256"]:
            yield f"bundle {bundle['name']}: not the same files"
    for name, report in (("first", before), ("second", after)):
        if report["is_partial"]:
            yield f"the {name} report is partial: it was ended before its time"
    old_names, new_names = _names(before), _names(after)
    for names, others, which in ((old_names, new_names, "first"), (new_names, old_names, "second")):
        missing = [name for name in names if name not in others]
        if missing:
            yield f"only in the {which}: {', '.join(missing)}"


def _bundle(report: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    for bundle in report["bundles"]:
        if bundle["name"] == name:
            found: Mapping[str, Any] = bundle
            return found
    raise ReportError(f"a report describes no bundle {name!r}")


def _names(report: Mapping[str, Any]) -> list[str]:
    return [case["name"] for case in report["cases"]]
