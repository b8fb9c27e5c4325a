"""The report as plain JSON values: what `bench` measured, on what, with which command.

`schema()` is the published JSON Schema of it. The other forms of the report are made from this one.
"""

import hashlib
import importlib.resources
import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ssast_edge.bench.case_run import CaseRun
from ssast_edge.bench.durations import Durations
from ssast_edge.bench.machine import machine_facts, power_facts, versions
from ssast_edge.bench.measure import Measurement
from ssast_edge.bench.plan import Case
from ssast_edge.bench.ratios import Ratio, paired_ratio
from ssast_edge.bench.stages import STAGES
from ssast_edge.bundle import MANIFEST, Bundle
from ssast_edge.errors import SsastEdgeError
from ssast_edge.manifest import ManifestError, read_json

KIND = "ssast-edge bench"
SCHEMA_VERSION = 1
_DIGITS = 6  # significant ones


class ReportError(SsastEdgeError):
    """A file is no report of `ssast-edge bench`, or two of them cannot be compared."""


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) that every report fits."""
    file = importlib.resources.files("ssast_edge.bench") / "report.schema.json"
    loaded: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return loaded


def build_report(
    result: Measurement, *, command: Sequence[str], streaming: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Everything of a measurement, numbers rounded to six digits.

    streaming: what `streaming_part` gave, None when no stream was asked for.
    """
    first = result.runs[0]
    report = {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": list(command),
        "is_partial": result.is_partial or bool(streaming and streaming["is_partial"]),
        "duration_s": result.duration_s,
        "rounds": result.rounds,
        "machine": machine_facts(),
        "power": power_facts(),
        "versions": versions(),
        "energy": {
            "meters": [
                {
                    "name": c.meter.name,
                    "scope": c.meter.scope,
                    "idle_w": result.idle_w.get(c.meter.name),
                }
                for c in result.sampler.counters
            ],
            "absent": [{"name": m.name, "reason": m.reason} for m in result.absent_meters],
        },
        "bundles": _bundles(result),
        "cases": [_case(run, first, result) for run in result.runs if run.engine.count],
        "unavailable": [
            {**_identity(one.case), "reason": one.reason} for one in result.unavailable
        ],
        "streaming": None if streaming is None else dict(streaming),
        "timeline": {
            "machine": result.sampler.series.table(),
            "cases": [{"name": run.case.name, **run.rounds.table()} for run in result.runs],
        },
    }
    rounded = _rounded(report)
    assert isinstance(rounded, dict)
    return rounded


def distribution(durations: Durations) -> dict[str, Any]:
    """Percentiles, curve and histogram of some durations."""
    return {
        **durations.summary(),
        "is_exact": durations.is_exact,
        "curve": durations.curve(),
        "histogram": durations.histogram(),
    }


def load_report(path: Path) -> dict[str, Any]:
    """A report that was written before. Raises ReportError for anything else, in one line."""
    try:
        report = read_json(path)
    except ManifestError as error:
        raise ReportError(f"{path}: {error}") from error
    except OSError as error:
        raise ReportError(f"{path}: {error.strerror or error}") from error
    if not isinstance(report, dict) or report.get("kind") != KIND:
        raise ReportError(f"{path}: not a report of `ssast-edge bench` (report.json)")
    if report.get("schema_version") != SCHEMA_VERSION:
        raise ReportError(
            f"{path}: schema_version is {report.get('schema_version')!r}, this ssast-edge reads "
            f"{SCHEMA_VERSION}: measure again, or use the version that wrote it"
        )
    return report


def bundle_hash(bundle: Bundle) -> str:
    """SHA-256 of bundle.json, which holds the hash of every other file."""
    return hashlib.sha256((bundle.path / MANIFEST).read_bytes()).hexdigest()


def _bundles(result: Measurement) -> list[dict[str, Any]]:
    cases = [run.case for run in result.runs] + [one.case for one in result.unavailable]
    bundles = {case.label: case.bundle for case in cases}
    return [
        {
            "name": label,
            "version": bundle.version,
            "sha256": bundle_hash(bundle),
            "task": bundle.task,
            "labels": len(bundle.labels),
            "hop_ms": bundle.hop_ms,
            "window_frames": bundle.window_frames,
            "mel_bins": bundle.fbank.num_mel_bins,
        }
        for label, bundle in bundles.items()
    ]


def _identity(case: Case) -> dict[str, Any]:
    return {
        "name": case.name,
        "bundle": case.label,
        "backend": case.backend,
        "precision": case.precision,
        "threads": case.threads,
        "batch": case.batch,
    }


def _case(run: CaseRun, first: CaseRun, result: Measurement) -> dict[str, Any]:
    return {
        **_identity(run.case),
        "runs_as": run.backend_name,
        "warm_up": run.warm_up,
        "engine": _engine(run, first),
        "hop": _hop(run, first) if run.has_hops and run.clock.cost.count else None,
        "memory": {**run.memory, "gpu_mb": run.gpu_memory_mb},
        "energy": [
            _energy(run, meter, spent_j, result.idle_w.get(meter))
            for meter, spent_j in run.energy_j.items()
        ],
    }


def _engine(run: CaseRun, first: CaseRun) -> dict[str, Any]:
    cost, batch = run.engine_cost, run.case.batch
    per_window = [value / batch for value in _known(run, "engine_ms")]
    reference = [value / first.case.batch for value in _known(first, "engine_ms")]
    return {
        **distribution(run.engine),
        "windows_per_s": cost.inferences * batch / cost.wall_s,
        "cpu_ms": 1000 * cost.cpu_s / cost.inferences,
        "cpu_percent": 100 * cost.cpu_s / cost.wall_s,
        "rounds_ms": _known(run, "engine_ms"),
        "ratio": _ratio(paired_ratio(per_window, reference)),
    }


def _hop(run: CaseRun, first: CaseRun) -> dict[str, Any]:
    cost, rounds = run.hop_cost, _known(run, "hop_ms")
    is_comparable = first.has_hops and first.case.bundle.hop_ms == run.case.bundle.hop_ms
    ratio = paired_ratio(rounds, _known(first, "hop_ms")) if is_comparable else None
    return {
        **distribution(run.clock.cost),
        "latency": run.clock.latency.summary(),
        "deadline_ms": run.case.bundle.hop_ms,
        "missed_deadlines": run.missed_deadlines,
        "real_time_factor": run.clock.cost.total_ms / 1000 / cost.audio_s,
        "cpu_ms": 1000 * cost.cpu_s / cost.inferences,
        "cpu_percent": 100 * cost.cpu_s / cost.audio_s,
        "rounds_ms": rounds,
        "ratio": _ratio(ratio),
        **stages_part(run.clock.stages, run.case.backend),
    }


def stages_part(stages: Mapping[str, Durations], backend: str) -> dict[str, Any]:
    """Percentiles and share of each stage, and why one is absent.

    share: of the sum of the medians, from 0 to 1. backend: "onnx", "tensorrt".
    """
    summaries = {name: stages[name].summary() for name in STAGES if name in stages}
    whole = sum(summary["p50_ms"] for summary in summaries.values())
    absent = (
        "ONNX Runtime computes on the CPU, nothing is moved"
        if backend == "onnx"
        else "this backend does not tell it apart: it is part of inference"
    )
    return {
        "stages": {
            name: {**summary, "share": summary["p50_ms"] / whole if whole else 0.0}
            for name, summary in summaries.items()
        },
        "absent_stages": {name: absent for name in STAGES if name not in summaries},
    }


def _energy(
    run: CaseRun, meter: str, spent_j: Sequence[float], idle_w: float | None
) -> dict[str, Any]:
    """Joules an inference; and an hour of listening, as the hops measured here would make it."""
    engine, hop = run.engine_cost, run.hop_cost
    per_hop = spent_j[1] / hop.inferences if hop.inferences else None
    wh_per_hour = None
    if per_hop is not None and idle_w is not None:
        above_idle = max(0.0, per_hop - idle_w * hop.wall_s / hop.inferences)
        wh_per_hour = idle_w + above_idle / (run.case.bundle.hop_ms / 1000)
    return {
        "meter": meter,
        "j_per_inference": spent_j[0] / (engine.inferences * run.case.batch),
        "mean_w": spent_j[0] / engine.wall_s,
        "j_per_hop": per_hop,
        "wh_per_hour_of_listening": wh_per_hour,
    }


def _ratio(ratio: Ratio | None) -> dict[str, float] | None:
    return None if ratio is None else {"value": ratio.value, "low": ratio.low, "high": ratio.high}


def _known(run: CaseRun, column: str) -> list[float]:
    return [value for value in run.rounds.column(column) if value is not None]


def _rounded(value: Any) -> Any:
    """Numbers to six digits; what JSON cannot hold becomes null."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
