"""One float bundle becomes one with every flavour: fp32, INT8 for CPUs, fp16 and INT8 for TensorRT.

The order of the models is what a CPU should choose: the fastest that keeps the budget comes first.
What was measured goes into the bundle's provenance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from optimize.bundling.assemble import Flavour, assemble
from optimize.comparison.latency import Latency
from optimize.quantization.judge import Judge, Judgement, Recordings
from optimize.quantization.precision import half_graph
from optimize.quantization.quantize import (
    CalibrationError,
    QuantizeConfig,
    QuantizeResult,
    float_model,
    is_within,
    quantize_bundle,
)
from optimize.quantization.quantize_report import finite
from ssast_edge.bundle import Bundle

__all__ = ["Arbitration", "FlavourRow", "FlavoursResult", "arbitrate", "write_flavours"]


@dataclass(frozen=True, kw_only=True)
class FlavourRow:
    """One flavour beside the fp32 graph, computed by ONNX Runtime."""

    backend: str
    precision: str
    file: str
    size_bytes: int
    judgement: Judgement
    latency: Latency | None  # on this CPU, ratio to fp32; None: meant for TensorRT, not timed here


@dataclass(frozen=True, kw_only=True)
class Arbitration:
    """Which flavour a CPU should run, and why; of TensorRT's only the accuracy is known here."""

    rows: Sequence[FlavourRow]
    cpu: str  # name and INT8 instructions of the processor
    winner: str  # file
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Nested dictionaries; null for what is not finite."""
        found: dict[str, Any] = finite(dataclasses.asdict(self))
        return found


@dataclass(frozen=True, kw_only=True)
class FlavoursResult:
    """The bundle that was written and what it was judged by."""

    bundle: Bundle
    quantized: QuantizeResult
    arbitration: Arbitration


def write_flavours(
    bundle: Bundle,
    manifest: Path,
    target: Path,
    *,
    work: Path,
    config: QuantizeConfig | None = None,
    provenance: dict[str, Any] | None = None,
) -> FlavoursResult:
    """Write bundle `target` with all flavours of `bundle`; what it is made from goes to `work`.

    manifest: audio to calibrate and judge on, labelled where points are asked for. Licences,
    triggers, model card and provenance are kept. Raises CalibrationError, NotOurGraph or
    BundleError, in one line, and leaves `target` as it was.
    """
    config = config or QuantizeConfig()
    found = quantize_bundle(bundle, manifest, work, config)
    source = float_model(bundle)
    half = work / "model.fp16.onnx"
    partial = half.with_name(f".{half.name}.tmp")
    onnx.save(half_graph(onnx.load(source)), partial)
    partial.replace(half)
    int8 = Flavour("onnx", "int8", "model.int8.onnx", found.cpu)
    fp32 = Flavour("onnx", "fp32", source.relative_to(bundle.path).as_posix())
    engines = [
        Flavour("tensorrt", "fp16", half.name, half),
        Flavour("tensorrt", "int8", found.tensorrt.name, found.tensorrt),
    ]
    arbitration = arbitrate(bundle, manifest, [int8, *engines], found, config)
    first = [int8, fp32] if arbitration.winner == int8.file else [fp32, int8]
    made = assemble(
        bundle,
        target,
        [*first, *engines],
        provenance={
            **(provenance or {}),
            "quantization": found.report.to_json(),
            "arbitration": arbitration.to_json(),
        },
    )
    return FlavoursResult(bundle=made, quantized=found, arbitration=arbitration)


def arbitrate(
    bundle: Bundle,
    manifest: Path,
    flavours: Sequence[Flavour],
    found: QuantizeResult,
    config: QuantizeConfig,
) -> Arbitration:
    """Every flavour on the same judged windows and, where there are labels, on labelled clips."""
    report = found.report
    recordings = Recordings(bundle, manifest, seed=config.seed, split=config.split)
    windows = recordings.windows(config.windows, least=1)
    try:
        labelled = recordings.labelled(config.labelled_clips)
    except CalibrationError:  # unlabelled audio: logits alone arbitrate
        labelled = None
    source = float_model(bundle)
    graph = onnx.load(source)
    judge = Judge(bundle, graph, windows[3::4], labelled, seed=config.seed)
    file = source.relative_to(bundle.path).as_posix()
    rows = [
        FlavourRow(
            backend="onnx", precision="fp32", file=file, size_bytes=source.stat().st_size,
            judgement=judge.judge(graph), latency=None,
        )
    ]  # fmt: skip
    for flavour in flavours:
        assert flavour.path is not None
        rows.append(
            FlavourRow(
                backend=flavour.backend,
                precision=flavour.precision,
                file=flavour.file,
                size_bytes=flavour.path.stat().st_size,
                judgement=judge.judge(onnx.load(flavour.path)),
                latency=report.latency if flavour.backend == "onnx" else None,
            )
        )
    cpu = f"{report.cpu.name} ({', '.join(report.cpu.int8_instructions) or 'no INT8 instructions'})"
    int8 = rows[1]
    ratio = f"{report.latency.ratio:.2f} of the CPU time of fp32 on {cpu}"
    if not report.is_faster:
        winner, reason = file, f"INT8 takes {ratio}: no faster"
    elif not is_within(int8.judgement, config):
        winner, reason = file, f"INT8 takes {ratio}, but loses more than the budget"
    else:
        winner, reason = int8.file, f"INT8 takes {ratio} and keeps the budget"
    return Arbitration(rows=rows, cpu=cpu, winner=winner, reason=reason)
