"""Flavours of an exported graph for TensorRT: half precision, explicit Q/DQ, opset, batch.

TensorRT takes the types in the graph as final (strongly typed), so what must not be computed in
half precision is float in the graph: the log-mel and its normalisation, the sums of
LayerNormalization and Softmax, pooling, head and logits. Takes the graphs of train/onnx_graph.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from optimize.quantization.exported import NotOurGraph
from optimize.quantization.qdq import quantize_graph

__all__ = ["OPSETS", "at_opset", "half_graph", "tensorrt_int8", "with_any_batch"]

OPSETS = (17, 18, 19, 20)
_HALF_QUANTISE_OPSET = 19  # the first whose QuantizeLinear takes half precision
_HEADS = ("head", "branch_head")
_FLOAT_NODES = tuple(
    f"{end}{node}"
    for end in ("", "branch_")
    for node in ("norm", "pool.slice", "pool", "head.norm", "head", "head.add")
) + ("heads",)
_EMBEDDING = "embedding"  # name of its node, and of the nodes before it with a number
_FLOAT_INSIDE = ("LayerNormalization", "Softmax")  # computed in float between two casts


def tensorrt_int8(
    graph: onnx.ModelProto,
    thresholds: Mapping[str, float],
    excluded: Collection[str] = (),
    *,
    rest: str = "fp16",
) -> onnx.ModelProto:
    """Symmetric Q/DQ on the linear layers but the head and those `excluded`; the rest as named.

    thresholds: the largest value kept of each layer's input, by tensor. rest: "fp16" or "fp32".
    """
    made = quantize_graph(graph, thresholds, {*excluded, *_HEADS})
    return half_graph(at_opset(made, _HALF_QUANTISE_OPSET)) if rest == "fp16" else made


def half_graph(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Weights and activations in half precision; "fbank", "logits" and "embedding" stay float.

    The fused patch embedding gets half weights, as the plugin takes them; its function normalises
    in float.
    """
    if "patch_embed" not in {node.name for node in graph.graph.node} or not graph.functions:
        raise NotOurGraph("not a graph of `train export`: it has no FusedPatchEmbed with function")
    out = onnx.ModelProto()
    out.CopyFrom(graph)
    nodes: list[onnx.NodeProto] = []
    floats: set[str] = set()  # constants that stay float

    def cast(name: str, source: str, target: str, kind: int) -> str:
        nodes.append(helper.make_node("Cast", [source], [target], name=name, to=kind))
        return target

    tails = [node.input[0] for node in out.graph.node if node.name in ("norm", "branch_norm")]
    for node in out.graph.node:
        if node.name in _FLOAT_NODES:
            if node.input[0] in tails:
                tail = node.input[0]
                node.input[0] = cast(f"{node.name}.float", tail, f"{tail}.float", TensorProto.FLOAT)
            floats.update(node.input)
            nodes.append(node)
        elif node.name == _EMBEDDING:
            nodes.append(node)
        elif node.name.startswith(f"{_EMBEDDING}."):  # sums of tokens, in float
            tokens = node.input[1]
            node.input[1] = cast(
                f"{node.name}.float", tokens, f"{node.name}.tokens", TensorProto.FLOAT
            )
            floats.update(node.input)
            nodes.append(node)
        elif node.op_type in _FLOAT_INSIDE:
            floats.update(node.input[1:])
            result, name = node.output[0], node.name
            node.input[0] = cast(f"{name}.float", node.input[0], f"{name}:float", TensorProto.FLOAT)
            node.output[0] = f"{name}:single"
            nodes.append(node)
            cast(f"{name}.half", node.output[0], result, TensorProto.FLOAT16)
        else:
            nodes.append(node)
    del out.graph.node[:]
    out.graph.node.extend(nodes)
    for weight in out.graph.initializer:
        if weight.data_type == TensorProto.FLOAT and weight.name not in floats:
            values = numpy_helper.to_array(weight).astype(np.float16)
            weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    for function in out.functions:
        _halve_function(function)
    onnx.checker.check_model(out)
    return out


def at_opset(graph: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The same graph written in another version of ONNX's operators, 17 to 20."""
    if opset not in OPSETS:
        raise ValueError(f"opset must be one of {OPSETS}, got {opset}")
    out = onnx.ModelProto()
    out.CopyFrom(graph)
    constants = {w.name: numpy_helper.to_array(w) for w in out.graph.initializer}
    for holder in (out, *out.functions):
        for entry in holder.opset_import:
            if entry.domain == "":
                was, entry.version = entry.version, opset
                if was < 18 <= opset:
                    raise ValueError(f"a graph of opset {was} cannot be raised to {opset}")
    if opset < 18:
        for node in out.graph.node:
            if node.op_type == "Split":  # into equal parts, by the number of its outputs
                kept = [a for a in node.attribute if a.name != "num_outputs"]
                del node.attribute[:]
                node.attribute.extend(kept)
            elif node.op_type == "ReduceMean" and len(node.input) > 1:
                axes = constants[node.input.pop()]
                node.attribute.append(helper.make_attribute("axes", axes.tolist()))
        used = {name for node in out.graph.node for name in node.input}
        kept_weights = [w for w in out.graph.initializer if w.name in used]
        del out.graph.initializer[:]
        out.graph.initializer.extend(kept_weights)
    onnx.checker.check_model(out)
    return out


def with_any_batch(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph for any number of windows at once."""
    out = onnx.ModelProto()
    out.CopyFrom(graph)
    for port in (*out.graph.input, *out.graph.output):
        port.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.checker.check_model(out)
    return out


def _halve_function(function: onnx.FunctionProto) -> None:
    """Half precision from the normalised log-mel on."""
    nodes = []
    for node in function.node:
        nodes.append(node)
        if "normalised" in node.output:
            node.output[0] = "normalised_float"
            nodes.append(
                helper.make_node(
                    "Cast", ["normalised_float"], ["normalised"], to=TensorProto.FLOAT16
                )
            )
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del function.node[:]
    function.node.extend(copies)
