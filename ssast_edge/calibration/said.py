"""Moments at which a keyword was said: what fires there is no false accept."""

import csv
import math
from pathlib import Path

from ssast_edge.calibration.room import Span
from ssast_edge.errors import SsastEdgeError
from ssast_edge.evaluation.matching import TOLERANCE_S


def read_said(path: Path) -> dict[str, tuple[Span, ...]]:
    """Spans by the name of a recording, "" for all of them, from a CSV with a header.

    Columns: start_s, end_s and, where there are several recordings, audio (the file's name). The
    time in which a word may still be heard is added at the end. Raises SsastEdgeError.
    """
    spans: dict[str, list[Span]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            missing = {"start_s", "end_s"} - set(rows.fieldnames or ())
            if missing:
                raise SsastEdgeError(
                    f"{path}: has no column {sorted(missing)[0]}, wanted start_s, end_s and, for "
                    "several recordings, audio"
                )
            for row in rows:
                try:
                    start, end = float(row["start_s"]), float(row["end_s"])
                except (TypeError, ValueError):
                    start, end = math.nan, math.nan
                if not 0 <= start <= end < math.inf:
                    raise SsastEdgeError(
                        f"{path}: line {rows.line_num}: wanted 0 <= start_s <= end_s in seconds, "
                        f"got {row['start_s']!r} and {row['end_s']!r}"
                    )
                name = Path(row.get("audio") or "").name
                spans.setdefault(name, []).append((start, end + TOLERANCE_S))
    except OSError as error:
        raise SsastEdgeError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise SsastEdgeError(f"{path}: is no CSV file in UTF-8: {error}") from error
    return {name: tuple(found) for name, found in spans.items()}
