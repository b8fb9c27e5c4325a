"""A bundle's float graph as a file of its own, for a given runtime: opset, batch, precision."""

from __future__ import annotations

from pathlib import Path

import onnx

from optimize.quantization.precision import at_opset, half_graph, with_any_batch
from optimize.quantization.quantize import float_model
from ssast_edge.bundle import Bundle
from train.onnx_graph import strip_functions

__all__ = ["write_graph"]


def write_graph(
    bundle: Bundle,
    target: Path,
    *,
    opset: int,
    precision: str = "fp32",
    any_batch: bool = False,
    functions: bool = True,
) -> None:
    """Write `target`, whole or not at all; NotOurGraph for a model that we did not export.

    functions: with the body of our node, which every runtime without our plugin needs.
    """
    graph = onnx.load(float_model(bundle))
    if precision == "fp16":
        graph = half_graph(graph)
    graph = at_opset(graph, opset)
    if any_batch:
        graph = with_any_batch(graph)
    if not functions:
        graph = strip_functions(graph)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.tmp")
    onnx.save(graph, partial)
    partial.replace(target)
