"""A bundle with other triggers, and the record of how they were found, written whole or not at all.

The model files are copied as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from ssast_edge.bundle import MANIFEST, Bundle, bundle_parts, load_bundle, rewrite_bundle
from ssast_edge.calibration.expected import Expected
from ssast_edge.calibration.solve import Outcome, Solution, hours_for
from ssast_edge.calibration.state import Progress, as_json
from ssast_edge.errors import BundleError, SsastEdgeError
from ssast_edge.manifest import ManifestError, from_json
from ssast_edge.trigger import TriggerConfig

RECORD = "calibration"  # key in the provenance


def check_target(bundle: Bundle, out: Path) -> None:
    """Raise SsastEdgeError where no bundle can, or should, be written."""
    installed = Path(__file__).resolve().parents[1] / "bundles"
    target = out.resolve()
    if target == installed or installed in target.parents:
        raise SsastEdgeError(
            f"{out}: is the bundle that was installed, which stays as it is: give another folder "
            "with --out, then listen --bundle FOLDER"
        )
    is_bundle = (target / MANIFEST).is_file()
    if target.exists() and not is_bundle and not (target.is_dir() and not any(target.iterdir())):
        raise SsastEdgeError(f"{out}: is there and is no bundle: give another folder with --out")
    if is_bundle and target != bundle.path.resolve() and load_bundle(out).labels != bundle.labels:
        raise SsastEdgeError(f"{out}: holds another bundle: give another folder with --out")


def triggers_before(bundle: Bundle, heard: Sequence[Progress]) -> dict[str, TriggerConfig]:
    """The triggers that this audio did not set: those of the bundle, or those it had before.

    A trigger that was set by this very audio would else pass for one that was known before.
    """
    triggers = {k: bundle.triggers[k] for k in bundle.labels if k in bundle.triggers}
    record = bundle.provenance.get(RECORD)
    if not isinstance(record, dict):
        return triggers
    try:
        streams = {str(stream["identity"]) for stream in record["heard"]}
        before = from_json(
            record["before"], dict[str, TriggerConfig], f"provenance.{RECORD}.before"
        )
    except (KeyError, TypeError, ManifestError) as error:
        raise BundleError(f"bundle {bundle.path}: its record of a calibration: {error}") from error
    if streams & {stream.identity for stream in heard}:
        triggers |= {label: trigger for label, trigger in before.items() if label in triggers}
    return triggers


def record_of(
    solution: Solution, heard: Sequence[Progress], before: Mapping[str, TriggerConfig]
) -> dict[str, Any]:
    """What was heard, wanted and found, ready for JSON."""
    goal = solution.goal
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "hours": round(solution.hours, 5),
        "target_per_hour": goal.target,
        "target_is_for": "each keyword" if goal.is_per_keyword else "all keywords together",
        "must_meet_it": "the upper bound" if goal.is_strict else "the expected rate",
        "confidence": goal.confidence,
        "false_accepts": solution.count,
        "expected_per_hour": round(solution.expected_per_hour, 4),
        "upper_per_hour": round(solution.upper_per_hour, 4),
        "hours_for_strict": round(hours_for(goal.target, goal.confidence), 2),
        "heard": [as_json(stream) for stream in heard],
        "before": {label: asdict(trigger) for label, trigger in before.items()},
        "keywords": [keyword_fields(outcome, goal.confidence) for outcome in solution.outcomes],
    }


def keyword_fields(outcome: Outcome, confidence: float) -> dict[str, Any]:
    """One keyword for machines."""
    return {
        "keyword": outcome.label,
        "before": asdict(outcome.before),
        "after": asdict(outcome.after),
        "is_changed": outcome.is_changed,
        "false_accepts_before": outcome.before_count,
        "false_accepts": len(outcome.firings),
        "upper_per_hour": round(outcome.upper_per_hour, 4),
        "expected_missed_before": [_expected(e, confidence) for e in outcome.before_expected],
        "expected_missed": [_expected(e, confidence) for e in outcome.expected],
    }


def write_calibrated(
    bundle: Bundle, out: Path, triggers: Mapping[str, TriggerConfig], record: Mapping[str, Any]
) -> Bundle:
    """Write the bundle with these triggers in place of its own to `out`, which may be its folder.

    Raises BundleError; `out` is then as it was.
    """
    manifest, files = bundle_parts(bundle)
    manifest["triggers"] |= {label: asdict(trigger) for label, trigger in triggers.items()}
    manifest["provenance"][RECORD] = record
    return rewrite_bundle(bundle, out, manifest, files)


def _expected(expected: Expected, confidence: float) -> dict[str, Any]:
    return {
        "condition": expected.condition,
        "missed": expected.missed,
        "words": expected.words,
        "interval": [round(x, 4) for x in expected.interval(confidence)],
    }
