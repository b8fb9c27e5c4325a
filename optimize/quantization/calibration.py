"""What the inputs of a model's linear layers look like on real audio, kept as JSON.

A cache belongs to one model and one set of windows, by their hashes; another model's is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from tqdm import tqdm

from optimize.quantization.observers import BINS, METHODS, AbsHistogram

__all__ = [
    "INPUT",
    "Calibration",
    "CalibrationError",
    "calibrate",
    "linear_layers",
    "open_session",
    "run_graph",
]

INPUT = "fbank"
DOMAIN = "ssast_edge"  # of the nodes that are our own

FORMAT = 2
_BATCH = 16  # windows run at once: 1.5 times as fast as one by one, and 30 MB
_LINEAR = ("MatMul", "Gemm")
Windows = NDArray[np.float32]


class CalibrationError(ValueError):
    """Audio or a cache that no scale can be had from; one line."""


@dataclass(frozen=True)
class Calibration:
    """Histograms of |x| by tensor."""

    model: str  # SHA-256 of the ONNX file
    data: str  # SHA-256 of the windows
    windows: int
    tensors: dict[str, AbsHistogram]

    def thresholds(self, method: str) -> dict[str, float]:
        """The largest value that is kept, by tensor."""
        if method not in METHODS:
            raise CalibrationError(f"unknown method {method!r}, known: {', '.join(METHODS)}")
        return {name: METHODS[method](seen) for name, seen in self.tensors.items()}

    def ranges(self, thresholds: Mapping[str, float]) -> dict[str, tuple[float, float]]:
        """Lowest and highest value kept by tensor, for unsigned INT8 with a zero point."""
        return {name: seen.range(thresholds[name]) for name, seen in self.tensors.items()}

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        table = {
            "format": FORMAT,
            "model": self.model,
            "data": self.data,
            "windows": self.windows,
            "tensors": {
                name: {
                    "top": seen.top,
                    "low": seen.low,
                    "high": seen.high,
                    "counts": seen.counts.tolist(),
                }
                for name, seen in self.tensors.items()
            },
        }
        partial = path.with_name(f".{path.name}.tmp")
        partial.write_text(json.dumps(table))
        partial.replace(path)


def calibrate(model: Path, windows: Windows, cache: Path | None = None) -> Calibration:
    """Run (N, T, F) raw log-mel windows through the model, or read `cache` where it is theirs.

    Raises CalibrationError for no windows, silent ones, and a cache of another model.
    """
    if not len(windows):
        raise CalibrationError("no calibration audio: wanted at least one window")
    if not np.isfinite(windows).all() or float(np.std(windows)) < 1e-3:
        raise CalibrationError("the calibration audio is silent or broken: every window is alike")
    model_hash = hashlib.sha256(model.read_bytes()).hexdigest()
    data_hash = hashlib.sha256(np.ascontiguousarray(windows).tobytes()).hexdigest()
    if cache is not None and cache.is_file():
        found = _load(cache)
        if found.model != model_hash:
            raise CalibrationError(
                f"{cache} was calibrated for another model; remove it or give another --out"
            )
        if found.data == data_hash:
            return found
    graph = onnx.load(model)
    tensors = sorted({layer.input[0] for layer in linear_layers(graph)})
    if not tensors:
        raise CalibrationError(f"{model}: no linear layer to calibrate: is it a model of ours?")
    made = Calibration(model_hash, data_hash, len(windows), _observe(graph, windows, tensors))
    if cache is not None:
        made.save(cache)
    return made


def linear_layers(graph: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes that multiply by constant weights, in order; attention's own products are none."""
    constant = {weight.name for weight in graph.graph.initializer}
    return [n for n in graph.graph.node if n.op_type in _LINEAR and n.input[1] in constant]


def run_graph(
    model: Path | onnx.ModelProto, windows: Windows, outputs: Sequence[str], batch: int = 1
) -> Iterator[list[NDArray[np.float32]]]:
    """Yield the named tensors of the graph for every `batch` of (N, T, F) windows."""
    graph = onnx.load(model) if isinstance(model, Path) else model
    probe = onnx.ModelProto()
    probe.CopyFrom(graph)
    if batch > 1:
        for port in (*probe.graph.input, *probe.graph.output):
            port.type.tensor_type.shape.dim[0].dim_param = "batch"
    known = {output.name for output in probe.graph.output}
    for name in outputs:
        if name not in known:
            probe.graph.output.append(onnx.ValueInfoProto(name=name))
    session = open_session(probe)
    for first in range(0, len(windows), batch):
        yield session.run(list(outputs), {INPUT: windows[first : first + batch]})


def open_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """The model in ONNX Runtime on one thread that does not spin, as the device runs it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _observe(
    graph: onnx.ModelProto, windows: Windows, tensors: Sequence[str]
) -> dict[str, AbsHistogram]:
    """Two passes: ranges, then counts; of the input too."""
    names = [INPUT, *tensors]
    # A graph whose first node is our own takes any batch; others were traced for one window.
    is_ours = any(node.domain == DOMAIN for node in graph.graph.node)
    size = min(len(windows), _BATCH) if is_ours else 1

    def passes(title: str) -> Iterator[tuple[str, NDArray[np.float32]]]:
        runs = run_graph(graph, windows, tensors, size)
        for number, values in enumerate(tqdm(runs, total=-(-len(windows) // size), desc=title)):
            first = number * size
            yield from zip(names, [windows[first : first + size], *values], strict=True)

    lows, highs = dict.fromkeys(names, np.inf), dict.fromkeys(names, -np.inf)
    for name, value in passes("ranges"):
        lows[name] = min(lows[name], float(value.min()))
        highs[name] = max(highs[name], float(value.max()))
    tops = {name: max(-lows[name], highs[name], 1e-9) for name in names}
    counts = {name: np.zeros(BINS, dtype=np.int64) for name in names}
    for name, value in passes("histograms"):
        places = np.abs(value.ravel()) * np.float32(BINS / tops[name])
        bins = np.minimum(places.astype(np.int32), BINS - 1)
        counts[name] += np.bincount(bins, minlength=BINS)
    return {name: AbsHistogram(counts[name], tops[name], lows[name], highs[name]) for name in names}


def _load(path: Path) -> Calibration:
    try:
        table = json.loads(path.read_text())
        if table.get("format") != FORMAT:
            raise CalibrationError(
                f"{path}: calibration format {table.get('format')}, this version reads {FORMAT}"
            )
        return Calibration(
            table["model"],
            table["data"],
            table["windows"],
            {
                name: AbsHistogram(
                    np.array(seen["counts"], dtype=np.int64),
                    seen["top"],
                    seen["low"],
                    seen["high"],
                )
                for name, seen in table["tensors"].items()
            },
        )
    except (OSError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise CalibrationError(f"{path}: damaged calibration cache: {error}") from error
