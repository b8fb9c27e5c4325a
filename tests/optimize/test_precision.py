"""Graphs for TensorRT: types, counts, opsets and batches, parsed and built by a real TensorRT."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

for _module in ("torch", "onnx"):
    pytest.importorskip(_module, reason=f"{_module} is not installed (extra: optimize)")

import torch  # noqa: E402

from optimize.quantization.calibration import calibrate, run_graph  # noqa: E402
from optimize.quantization.exported import NotOurGraph  # noqa: E402
from optimize.quantization.judge import run_windows  # noqa: E402
from optimize.quantization.precision import (  # noqa: E402
    OPSETS,
    at_opset,
    half_graph,
    tensorrt_int8,
    with_any_batch,
)
from tests.optimize.test_cpu_graph import SHAPES, WINDOWS, classifier  # noqa: E402
from train.onnx_graph import build_graph, strip_functions  # noqa: E402

HALF, FLOAT, INT8 = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT, onnx.TensorProto.INT8
Graphs = dict[str, onnx.ModelProto]
PARSE = Path(__file__).parents[1] / "native" / "rtx_parse.py"


def built_layers(graph: onnx.ModelProto, folder: Path) -> dict[str, int]:
    """How many layers of each kind TensorRT's parser finds; its builder has made a plan of them."""
    path, links = folder.with_suffix(".onnx"), folder
    links.mkdir()
    onnx.save(graph, path)
    result = subprocess.run(
        [sys.executable, PARSE, path, links],
        env={**os.environ, "LD_LIBRARY_PATH": str(links)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["parsed"], found
    assert found["plan"] == "vtrt"
    layers: dict[str, int] = found["layers"]
    return layers


@pytest.fixture(scope="module")
def float_graph() -> onnx.ModelProto:
    return build_graph(classifier(**SHAPES["columns apart"]))


@pytest.fixture(scope="module")
def graphs(float_graph: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> Graphs:
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    onnx.save(float_graph, path)
    thresholds = calibrate(path, WINDOWS).thresholds("min-max")
    int8 = {rest: tensorrt_int8(float_graph, thresholds, rest=rest) for rest in ("fp16", "fp32")}
    return {
        "fp16": half_graph(float_graph),
        "int8-fp16": int8["fp16"],
        "int8-fp32": int8["fp32"],
        "int8-excluded": tensorrt_int8(float_graph, thresholds, ["blocks.0.mlp.fc1"]),
    }


def kinds(graph: onnx.ModelProto) -> dict[str, int]:
    return {w.name: w.data_type for w in graph.graph.initializer}


def test_float_graph_equals_pytorch(float_graph: onnx.ModelProto) -> None:
    with torch.no_grad():
        wanted = classifier(**SHAPES["columns apart"])(torch.from_numpy(WINDOWS)).numpy()
    for opset in OPSETS:
        made = at_opset(float_graph, opset)
        assert {o.version for o in made.opset_import if not o.domain} == {opset}
        assert np.abs(run_windows(made, WINDOWS) - wanted).max() < 1e-4
    with pytest.raises(ValueError, match="opset must be one of"):
        at_opset(float_graph, 21)


def test_half_precision_keeps_sums_input_and_output_in_float(
    graphs: Graphs, float_graph: onnx.ModelProto
) -> None:
    made = graphs["fp16"]
    ports = [*made.graph.input, *made.graph.output]
    assert [p.type.tensor_type.elem_type for p in ports] == [FLOAT, FLOAT, FLOAT]
    found = kinds(made)
    embed = next(n for n in made.graph.node if n.op_type == "FusedPatchEmbed")
    assert [found[name] for name in embed.input[1:]] == [HALF, HALF]
    for node in made.graph.node:
        if node.op_type == "LayerNormalization":
            assert {found[name] for name in node.input[1:]} == {FLOAT}
        if node.op_type == "MatMul" and node.name != "head" and node.input[1] in found:
            assert found[node.input[1]] == HALF
    makers = {name: node for node in made.graph.node for name in node.output}
    for node in made.graph.node:
        if node.op_type == "Softmax":
            cast = makers[node.input[0]]
            assert (cast.op_type, cast.attribute[0].i) == ("Cast", FLOAT)
    for output in ("logits", "embedding"):
        (wanted,) = next(run_graph(float_graph, WINDOWS[:1], [output]))
        (halved,) = next(run_graph(made, WINDOWS[:1], [output]))
        apart = np.abs(halved - wanted).max()
        assert apart < 5e-3 * np.abs(wanted).max(), "eleven bits, and sums of them"


def test_only_linear_layers_of_the_blocks_are_int8(
    graphs: Graphs, float_graph: onnx.ModelProto
) -> None:
    wanted = run_windows(float_graph, WINDOWS)
    layers = 8
    for name, scale in (("int8-fp16", HALF), ("int8-fp32", FLOAT)):
        made, found = graphs[name], kinds(graphs[name])
        counts = Counter(node.op_type for node in made.graph.node)
        assert (counts["QuantizeLinear"], counts["DequantizeLinear"]) == (layers, 2 * layers)
        for node in made.graph.node:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                assert (found[node.input[1]], found[node.input[2]]) == (scale, INT8)
        zeros = [w for w in made.graph.initializer if w.name.endswith("zero")]
        assert not any(onnx.numpy_helper.to_array(zero).any() for zero in zeros)
        assert found["head.weight"] == FLOAT
        apart = np.abs(run_windows(made, WINDOWS) - wanted).mean()
        assert 0 < apart < 0.2 * wanted.std(axis=0).mean()
    fewer = Counter(node.op_type for node in graphs["int8-excluded"].graph.node)
    assert fewer["QuantizeLinear"] == layers - 1


def test_any_batch(graphs: Graphs, float_graph: onnx.ModelProto) -> None:
    from optimize.quantization.calibration import open_session

    for graph in (float_graph, graphs["fp16"], graphs["int8-fp16"]):
        session = open_session(with_any_batch(graph))
        together = session.run(None, {"fbank": WINDOWS})[0]
        assert np.abs(together - run_windows(graph, WINDOWS)).max() < 2e-2


def test_another_graph_is_refused(float_graph: onnx.ModelProto) -> None:
    with pytest.raises(NotOurGraph, match="no FusedPatchEmbed"):
        half_graph(strip_functions(float_graph))


@pytest.mark.tensorrt
def test_a_real_tensorrt_builds_every_flavour(
    graphs: Graphs, float_graph: onnx.ModelProto, tmp_path: Path
) -> None:
    reason = "TensorRT for RTX is not installed (see docs: extra tensorrt-rtx)"
    pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx", reason=reason)
    pytest.importorskip("tensorrt_rtx_bindings", reason=reason)
    wanted = {
        "fp16": (half_graph(at_opset(float_graph, 17)), 0),
        "int8-fp16": (with_any_batch(graphs["int8-fp16"]), 8),
        "int8-fp32": (at_opset(graphs["int8-fp32"], 20), 8),
    }
    for name, (graph, quantised) in wanted.items():
        layers = built_layers(graph, tmp_path / name)
        assert layers.get("QUANTIZE", 0) == quantised
        assert layers.get("DEQUANTIZE", 0) == 2 * quantised
