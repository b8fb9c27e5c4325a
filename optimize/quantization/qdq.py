"""Puts explicit quantisation into a graph: symmetric INT8 around linear layers, nothing else.

QuantizeLinear and DequantizeLinear pairs on the activations (one scale a tensor), int8 weights with
a scale for each output channel, zero points 0, biases in float: what TensorRT takes strongly typed
and ONNX Runtime fuses into integer kernels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from optimize.quantization.calibration import linear_layers

__all__ = ["quantize_graph", "quantize_weight"]

_LARGEST = 127


def quantize_graph(
    graph: onnx.ModelProto,
    thresholds: Mapping[str, float],
    excluded: Collection[str] = (),
    *,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    weight_bits: int = 8,
) -> onnx.ModelProto:
    """A copy whose linear layers, but those named in `excluded`, multiply INT8.

    thresholds: the largest value kept of each layer's input, by tensor. ranges: makes activations
    unsigned with a zero point, kept between these ends; for CPUs, TensorRT takes none of it.
    """
    out = onnx.ModelProto()
    out.CopyFrom(graph)
    weights = {weight.name: weight for weight in out.graph.initializer}
    chosen = {n.name for n in linear_layers(graph) if n.name not in excluded}
    nodes: list[onnx.NodeProto] = []
    done: dict[str, str] = {}  # float tensor -> its dequantised twin
    zero = numpy_helper.from_array(np.array(0, dtype=np.int8), "quantised.zero")
    added = [zero] if chosen else []
    for node in out.graph.node:
        if node.name not in chosen:
            nodes.append(node)
            continue
        source, weight_name = node.input[0], node.input[1]
        if source not in done:
            scale, own_zero = thresholds[source] / _LARGEST, zero.name
            if ranges is not None:
                low, high = min(ranges[source][0], 0.0), max(ranges[source][1], 0.0)
                scale, own_zero = max((high - low) / 255, 1e-9), f"{source}.zero"
                added.append(
                    numpy_helper.from_array(np.array(round(-low / scale), np.uint8), own_zero)
                )
            added.append(numpy_helper.from_array(np.array(scale, np.float32), f"{source}.scale"))
            ports = [f"{source}.scale", own_zero]
            done[source] = f"{source}.dequantised"
            nodes += [
                helper.make_node(
                    "QuantizeLinear", [source, *ports], [f"{source}.quantised"],
                    name=f"{source}.quantize",
                ),
                helper.make_node(
                    "DequantizeLinear", [f"{source}.quantised", *ports], [done[source]],
                    name=f"{source}.dequantize",
                ),
            ]  # fmt: skip
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        axis = 0 if transposed else 1
        values, scales = quantize_weight(
            numpy_helper.to_array(weights[weight_name]), axis, weight_bits
        )
        names = [f"{weight_name}.{part}" for part in ("int8", "scale", "zero")]
        arrays: tuple[NDArray[Any], ...] = values, scales, np.zeros(len(scales), np.int8)
        added += [
            numpy_helper.from_array(array, name) for array, name in zip(arrays, names, strict=True)
        ]
        nodes.append(
            helper.make_node(
                "DequantizeLinear", names, [f"{weight_name}.dequantised"],
                name=f"{weight_name}.dequantize", axis=axis,
            )
        )  # fmt: skip
        node.input[0], node.input[1] = done[source], f"{weight_name}.dequantised"
        nodes.append(node)
    del out.graph.node[:]
    out.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [weight for weight in out.graph.initializer if weight.name in used]
    del out.graph.initializer[:]
    out.graph.initializer.extend([*kept, *added])
    return out


def quantize_weight(
    weight: NDArray[np.float32], axis: int, bits: int = 8
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """INT8 values and (channels,) scales of a matrix whose output channels lie along `axis`.

    bits: 8 for values up to 127, 7 for values up to 64.
    """
    most = _LARGEST if bits == 8 else 2 ** (bits - 1)
    largest = np.abs(weight).max(axis=1 - axis)
    scales = np.maximum(largest, 1e-12).astype(np.float32) / np.float32(most)
    spread = scales[:, None] if axis == 0 else scales[None]
    values = np.clip(np.round(weight / spread), -most, most).astype(np.int8)
    return values, scales
