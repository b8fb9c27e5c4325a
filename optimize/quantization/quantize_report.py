"""What quantisation cost and gained, as an object, as JSON and as Markdown."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optimize.comparison.latency import Latency
from optimize.quantization.cpu_choice import CpuFacts, FormResult
from optimize.quantization.judge import Difference, Judgement

__all__ = ["QuantizeReport", "TensorrtReport", "finite"]


@dataclass(frozen=True)
class TensorrtReport:
    """The graph with symmetric Q/DQ; its accuracy, as ONNX Runtime computes it, not its speed."""

    rest: str  # precision of what is not INT8
    excluded: list[str]
    judgement: Judgement
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class QuantizeReport:
    """Forms, observers and layers beside the float graph."""

    model: str
    calibrated: int  # windows
    judged: int  # other windows
    seed: int
    cpu: CpuFacts
    observer: str
    observers: Mapping[str, Difference]
    logit_budget: float | None
    points_budget: float | None
    weight_bits: int
    forms: Sequence[FormResult]  # every layer in INT8
    form: str  # that was chosen
    reason: str
    latency: Latency  # of the chosen form with its excluded layers in float
    judgement: Judgement  # likewise
    excluded: list[str]
    sensitivity: Mapping[str, Difference]  # one layer alone in INT8
    float_bytes: int
    int8_bytes: int
    is_faster: bool  # than float32, on this CPU
    tensorrt: TensorrtReport

    def to_json(self) -> dict[str, Any]:
        """Nested dictionaries; null for what is not finite."""
        found: dict[str, Any] = finite(dataclasses.asdict(self))
        return found

    def markdown(self) -> str:
        """For people."""
        found = self.judgement.difference
        points = ""
        if self.judgement.lost is not None and self.judgement.score is not None:
            lost = self.judgement.lost
            points = (
                f" {self.judgement.metric} {self.judgement.score.value:.2f} %, lost "
                f"{lost.value:.2f} points (95 %: {lost.interval.low:.2f} to "
                f"{lost.interval.high:.2f})."
            )
        instructions = ", ".join(self.cpu.int8_instructions) or "no INT8 instructions"
        lines = [
            f"# {self.model} in INT8",
            "",
            f"Form {self.form} ({self.reason}), weights of {self.weight_bits} bits, observer "
            f"{self.observer}, on {self.cpu.name} ({instructions}), ONNX Runtime "
            f"{self.cpu.onnxruntime}: {self.latency.ratio:.2f} of the CPU time of float32 "
            f"(middle half of the rounds {self.latency.ratio_low:.2f} to "
            f"{self.latency.ratio_high:.2f}).",
            "",
            f"{self.calibrated} windows calibrated and {self.judged} others judged (seed "
            f"{self.seed}): a logit changes by {found.mean:.4f} on average and "
            f"{found.largest:.3f} at most, cosine {found.cosine:.6f}, the same highest logit in "
            f"{100 * found.agreement:.1f} %.{points} {self.float_bytes / 1e6:.2f} MB become "
            f"{self.int8_bytes / 1e6:.2f} MB. Left in float: {_listed(self.excluded)}.",
            "",
            f"For TensorRT (symmetric Q/DQ, the rest {self.tensorrt.rest}): a logit changes by "
            f"{self.tensorrt.judgement.difference.mean:.4f} on average, "
            f"{self.tensorrt.size_bytes / 1e6:.2f} MB. Left in float: "
            f"{_listed(self.tensorrt.excluded)}.",
            "",
            "| form, every layer in INT8 | CPU time of float32's | nodes | mean change of a logit "
            "| largest |",
            "|---|---:|---:|---:|---:|",
            *(
                f"| {f.name} | {f.latency.ratio:.2f} | {f.nodes} | {f.difference.mean:.4f} | "
                f"{f.difference.largest:.3f} |"
                for f in self.forms
            ),
            "",
        ]
        for title, rows in (("observer", self.observers), ("layer alone", self.sensitivity)):
            lines += [
                f"| {title} | mean change of a logit | largest | cosine |",
                "|---|---:|---:|---:|",
                *(
                    f"| {name} | {d.mean:.5f} | {d.largest:.4f} | {d.cosine:.7f} |"
                    for name, d in rows.items()
                ),
                "",
            ]
        return "\n".join(lines)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "no layer"


def finite(value: Any) -> Any:
    """The same nested tables with None for numbers that JSON cannot hold."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
