"""INT8 of a bundle's model: calibrate on real audio, race the forms, keep out what costs too much.

Writes model.int8.onnx (whichever form this CPU runs fastest), model.int8-trt.onnx (explicit
symmetric Q/DQ for TensorRT), calibration.json, and quantization.json and .md, which say what each
layer's quantisation costs. Judged on windows that did not calibrate.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from tqdm import tqdm

from optimize.quantization.calibration import (
    INPUT,
    Calibration,
    CalibrationError,
    calibrate,
    linear_layers,
)
from optimize.quantization.cpu_choice import NOISE, FormResult, choose_cpu_form, cpu_facts, race
from optimize.quantization.cpu_graph import FORMS, PATCH_EMBED, cpu_graph, layer_names
from optimize.quantization.exported import Ast, read_ast
from optimize.quantization.judge import Difference, Judge, Judgement, Recordings
from optimize.quantization.observers import METHODS
from optimize.quantization.precision import tensorrt_int8
from optimize.quantization.qdq import quantize_graph
from optimize.quantization.quantize_report import QuantizeReport, TensorrtReport
from optimize.quantization.stream_graph import stream_graph
from ssast_edge.bundle import Bundle
from train.export import LOG_MEL_FLOOR

__all__ = [
    "BudgetError",
    "CalibrationError",
    "Difference",
    "QuantizeConfig",
    "QuantizeResult",
    "float_model",
    "is_within",
    "layer_ranges",
    "quantize_bundle",
]

_JUDGED = 4  # one window in so many judges, the others calibrate
_QDQ_FORMS = ("qdq-unsigned", "qdq-signed")
_HOP_FORMS = ("static", "dynamic")  # those that a graph of one hop is written in
Build = Callable[[Collection[str]], onnx.ModelProto]


@dataclass(frozen=True, kw_only=True)
class QuantizeConfig:
    """How to quantise, and what it may cost; each budget that is set must be met."""

    windows: int = 128  # a fourth of them judges
    observer: str = "auto"  # or one of METHODS
    logit_budget: float | None = 0.1  # mean absolute change of a logit
    points_budget: float | None = None  # points of accuracy (or mAP) lost on labelled clips
    labelled_clips: int = 400  # most clips that points are measured on
    split: str = ""  # of the manifest; empty: all of it
    forms: tuple[str, ...] = ("static-attention", "static", "dynamic", *_QDQ_FORMS)
    weight_bits: int = 0  # 8, or 7 (exact without VNNI too); 0: 7 where that keeps the budget
    tensorrt_rest: str = "fp16"  # what is not INT8 in the graph for TensorRT: fp16 or fp32
    rounds: int = 16  # of the race
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        known = (*FORMS, *_QDQ_FORMS)
        wrong = [name for name in self.forms if name not in known or name == "float"]
        if wrong or not self.forms:
            raise CalibrationError(f"unknown INT8 forms {wrong}, known: {', '.join(known[1:])}")
        if self.observer not in ("auto", *METHODS):
            raise CalibrationError(
                f"unknown observer {self.observer!r}, known: auto, {', '.join(METHODS)}"
            )
        if self.windows < _JUDGED:
            raise CalibrationError(f"{self.windows} windows: wanted at least {_JUDGED}")
        for name, known_values in (("weight_bits", (0, 7, 8)), ("tensorrt_rest", ("fp16", "fp32"))):
            if getattr(self, name) not in known_values:
                raise CalibrationError(
                    f"{name} must be one of {known_values}, got {getattr(self, name)!r}"
                )
        for name in ("logit_budget", "points_budget"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise CalibrationError(f"{name} must be above 0, got {value}")


@dataclass(frozen=True, kw_only=True)
class QuantizeResult:
    """What was written below the output folder, and the report as an object."""

    cpu: Path
    tensorrt: Path
    report: QuantizeReport


class BudgetError(CalibrationError):
    """The budget cannot be met; the message says how near it came."""


def quantize_bundle(
    bundle: Bundle,
    manifest: Path,
    out: Path,
    config: QuantizeConfig | None = None,
    *,
    reference: Bundle | None = None,
) -> QuantizeResult:
    """Quantise the bundle's fp32 ONNX model below `out`, whole or not at all.

    reference: whose float model the budget is measured against, for one that was tuned since.
    Raises BudgetError when the budget cannot be met, CalibrationError when no audio can be had,
    NotOurGraph for a model that `train export` did not write.
    """
    config = config or QuantizeConfig()
    source = float_model(bundle)
    graph = onnx.load(source)
    ast = read_ast(graph)
    names = _forms(config, ast)
    recordings = Recordings(bundle, manifest, seed=config.seed, split=config.split)
    windows = recordings.windows(config.windows, least=_JUDGED)
    judged = [i % _JUDGED == _JUDGED - 1 for i in range(len(windows))]
    calibrating = windows[[not held for held in judged]]
    out.mkdir(parents=True, exist_ok=True)
    seen = calibrate(source, calibrating, out / "calibration.json")
    labelled = None
    if config.points_budget is not None:
        labelled = recordings.labelled(config.labelled_clips)
    wanted = graph if reference is None else onnx.load(float_model(reference))
    judge = Judge(bundle, wanted, windows[judged], labelled, seed=config.seed)

    def builder(form: str, thresholds: dict[str, float], bits: int) -> Build:
        ranges = seen.ranges(thresholds)
        if form in _QDQ_FORMS:
            unsigned = ranges if form == "qdq-unsigned" else None
            return lambda excluded: quantize_graph(
                graph, thresholds, excluded, ranges=unsigned, weight_bits=bits
            )
        by_layer = layer_ranges(bundle, ast, seen, thresholds)
        write = stream_graph if ast.hop_frames else cpu_graph
        return lambda excluded: write(
            ast, FORMS[form], by_layer, excluded=excluded, weight_bits=bits
        )

    chosen_observer, observers = _choose_observer(config, seen, judge, builder)
    thresholds = seen.thresholds(chosen_observer)
    bits, first = config.weight_bits or 7, names[0]
    if not config.weight_bits and not is_within(
        judge.judge(builder(first, thresholds, 7)(())), config
    ):
        bits = 8
    builds = {form: builder(form, thresholds, bits) for form in names}
    graphs = {form: build(()) for form, build in builds.items()}
    latencies = race(graph, graphs, windows[0], rounds=config.rounds)
    forms = [
        FormResult(
            form, judge.difference(made), latencies[form], len(made.graph.node), made.ByteSize()
        )
        for form, made in graphs.items()
    ]
    chosen, reason = choose_cpu_form(forms, config.logit_budget)
    layers = [n.name for n in linear_layers(graph)] if chosen in _QDQ_FORMS else layer_names(ast)
    sensitivity = _sensitivity(builds[chosen], layers, judge)
    excluded, judgement = _meet_budget(builds[chosen], sensitivity, judge, config)
    cpu_model = builds[chosen](excluded)
    latency = latencies[chosen]
    if excluded:
        latency = race(graph, {chosen: cpu_model}, windows[0], rounds=config.rounds)[chosen]

    def for_tensorrt(kept: Collection[str]) -> onnx.ModelProto:
        return tensorrt_int8(graph, thresholds, kept, rest="fp32")

    known = {layer.name for layer in linear_layers(graph)}
    proxy = {name: cost for name, cost in sensitivity.items() if name in known}
    kept, tensorrt_judgement = _meet_budget(for_tensorrt, proxy, judge, config)
    tensorrt_model = tensorrt_int8(graph, thresholds, kept, rest=config.tensorrt_rest)
    report = QuantizeReport(
        model=bundle.name,
        calibrated=len(calibrating),
        judged=sum(judged),
        seed=config.seed,
        cpu=cpu_facts(),
        observer=chosen_observer,
        observers=observers,
        logit_budget=config.logit_budget,
        points_budget=config.points_budget,
        weight_bits=bits,
        forms=forms,
        form=chosen,
        reason=reason,
        latency=latency,
        judgement=judgement,
        excluded=excluded,
        sensitivity=sensitivity,
        float_bytes=source.stat().st_size,
        int8_bytes=cpu_model.ByteSize(),
        is_faster=latency.ratio < 1 - NOISE,
        tensorrt=TensorrtReport(
            config.tensorrt_rest, kept, tensorrt_judgement, tensorrt_model.ByteSize()
        ),
    )
    paths = [out / name for name in ("model.int8.onnx", "model.int8-trt.onnx")]
    for path, model in zip(paths, (cpu_model, tensorrt_model), strict=True):
        onnx.checker.check_model(model)
        _write(path, model.SerializeToString())
    _write(out / "quantization.json", json.dumps(report.to_json(), indent=1).encode() + b"\n")
    _write(out / "quantization.md", report.markdown().encode())
    return QuantizeResult(cpu=paths[0], tensorrt=paths[1], report=report)


def float_model(bundle: Bundle) -> Path:
    """The bundle's fp32 ONNX file. Raises CalibrationError when it has none."""
    for model in bundle.models:
        if model.backend == "onnx" and model.precision == "fp32":
            return bundle.path / model.file
    raise CalibrationError(f"bundle {bundle.name} holds no fp32 ONNX model to quantise")


def _forms(config: QuantizeConfig, ast: Ast) -> list[str]:
    """The forms that are asked for and that the model can be written in."""
    names = [form for form in config.forms if not ast.hop_frames or form in _HOP_FORMS]
    if not names:
        raise CalibrationError(
            f"a streaming model is written as {' or '.join(_HOP_FORMS)}, got the forms "
            f"{', '.join(config.forms)}"
        )
    return names


def _choose_observer(
    config: QuantizeConfig,
    seen: Calibration,
    judge: Judge,
    builder: Callable[[str, dict[str, float], int], Build],
) -> tuple[str, dict[str, Difference]]:
    """The observer whose static graph is nearest to the float one."""
    names = list(METHODS) if config.observer == "auto" else [config.observer]
    bits = config.weight_bits or 7
    found = {
        name: judge.difference(builder("static", seen.thresholds(name), bits)(()))
        for name in tqdm(names, desc="observers")
    }
    return min(found, key=lambda name: found[name].mean), found


def _sensitivity(build: Build, layers: Sequence[str], judge: Judge) -> dict[str, Difference]:
    """What each layer costs when it alone is INT8."""
    return {
        layer: judge.difference(build([other for other in layers if other != layer]))
        for layer in tqdm(layers, desc="sensitivity")
    }


def is_within(found: Judgement, config: QuantizeConfig) -> bool:
    """Whether every budget that is set is met."""
    logits, points = config.logit_budget, config.points_budget
    if logits is not None and not found.difference.mean <= logits:
        return False
    return points is None or (found.lost is not None and found.lost.value <= points)


def _meet_budget(
    build: Build, sensitivity: dict[str, Difference], judge: Judge, config: QuantizeConfig
) -> tuple[list[str], Judgement]:
    """Leave the most sensitive layers float, one more at a time, until the budget is met."""
    order = sorted(sensitivity, key=lambda name: -sensitivity[name].mean)
    excluded: list[str] = []
    found = judge.judge(build(excluded))
    while not is_within(found, config):
        if len(excluded) + 1 >= len(order):
            lost = f" and {found.lost.value:.2g} points are lost" if found.lost else ""
            raise BudgetError(
                f"the budget cannot be met: with all layers but {order[-1]} float, logits still "
                f"change by {found.difference.mean:.3g} on average{lost}; give a larger budget, "
                "or tune under INT8's rounding (optimize.quantization.qat)"
            )
        excluded = order[: len(excluded) + 1]
        found = judge.judge(build(excluded))
    return excluded, found


def layer_ranges(
    bundle: Bundle, ast: Ast, seen: Calibration, thresholds: dict[str, float]
) -> dict[str, tuple[float, float]]:
    """Lowest and highest value kept of each layer's input, the patch embedding's among them.

    The raw log-mel's goes from digital silence to louder than what was heard by a tenth, and holds
    the golden input.
    """
    log_mel, golden = seen.tensors[INPUT], bundle.golden.fbank
    assert log_mel.low is not None
    assert log_mel.high is not None
    low = min(log_mel.low, LOG_MEL_FLOOR, float(golden.min()))
    louder = log_mel.high + 0.1 * (log_mel.high - log_mel.low)
    ranges = seen.ranges(thresholds)
    found = {layer.name: ranges[layer.source] for layer in ast.linears}
    found[PATCH_EMBED] = low, max(louder, float(golden.max()))
    return found


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_bytes(content)
    partial.replace(path)
