"""What the inputs of a model's linear layers look like on real audio, kept as JSON.

A cache belongs to one model and one set of windows, by their hashes; another model's is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from tqdm import tqdm

from optimize.observers import BINS, METHODS, AbsHistogram

__all__ = ["Calibration", "CalibrationError", "calibrate", "linear_layers", "run_graph"]

FORMAT = 1
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

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        table = {
            "format": FORMAT,
            "model": self.model,
            "data": self.data,
            "windows": self.windows,
            "tensors": {
                name: {"top": seen.top, "counts": seen.counts.tolist()}
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
                f"{cache} was calibrated for another model; remove it or give another --cache"
            )
        if found.data == data_hash:
            return found
    tensors = sorted({layer.input[0] for layer in linear_layers(onnx.load(model))})
    tops = dict.fromkeys(tensors, 0.0)
    for values in tqdm(run_graph(model, windows, tensors), total=len(windows), desc="ranges"):
        for name, value in zip(tensors, values, strict=True):
            tops[name] = max(tops[name], float(np.abs(value).max()))
    counts = {name: np.zeros(BINS, dtype=np.int64) for name in tensors}
    for values in tqdm(run_graph(model, windows, tensors), total=len(windows), desc="histograms"):
        for name, value in zip(tensors, values, strict=True):
            counts[name] += np.histogram(np.abs(value), BINS, (0, max(tops[name], 1e-9)))[0]
    made = Calibration(
        model_hash,
        data_hash,
        len(windows),
        {name: AbsHistogram(counts[name], max(tops[name], 1e-9)) for name in tensors},
    )
    if cache is not None:
        made.save(cache)
    return made


def linear_layers(graph: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes that multiply by constant weights, in order; attention's own products are none."""
    constant = {weight.name for weight in graph.graph.initializer}
    return [n for n in graph.graph.node if n.op_type in _LINEAR and n.input[1] in constant]


def run_graph(model: Path | onnx.ModelProto, windows: Windows, outputs: Sequence[str]) -> Any:
    """Yield the named tensors of the graph for each of (N, T, F) windows."""
    graph = onnx.load(model) if isinstance(model, Path) else model
    probe = onnx.ModelProto()
    probe.CopyFrom(graph)
    known = {output.name for output in probe.graph.output}
    for name in outputs:
        if name not in known:
            probe.graph.output.append(onnx.ValueInfoProto(name=name))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options)
    for window in windows:
        yield session.run(list(outputs), {"fbank": window[None]})


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
                name: AbsHistogram(np.array(seen["counts"], dtype=np.int64), seen["top"])
                for name, seen in table["tensors"].items()
            },
        )
    except (OSError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise CalibrationError(f"{path}: damaged calibration cache: {error}") from error
