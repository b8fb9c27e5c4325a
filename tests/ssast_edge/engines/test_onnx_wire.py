"""ONNX files are read and changed on the device as the onnx package would."""

import onnx
import pytest
from onnx import helper

from ssast_edge.bundle import load_bundle
from ssast_edge.engines.onnx_wire import NotOnnx, has_functions, node_types, strip_functions


def function_model() -> onnx.ModelProto:
    """A model with two functions of its own."""
    function = helper.make_function(
        "ssast_edge", "Twice", ["x"], ["y"],
        [helper.make_node("Add", ["x", "x"], ["y"])], [helper.make_opsetid("", 17)],
    )  # fmt: skip
    other = onnx.FunctionProto()
    other.CopyFrom(function)
    other.name = "Thrice"
    graph = helper.make_graph(
        [
            helper.make_node("Twice", ["fbank"], ["a"], domain="ssast_edge"),
            helper.make_node("Identity", ["a"], ["logits"]),
        ],
        "g",
        [helper.make_tensor_value_info("fbank", 1, [1, 2])],
        [helper.make_tensor_value_info("logits", 1, [1, 2])],
    )
    model = helper.make_model(
        graph,
        functions=[function, other],
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ssast_edge", 1)],
    )
    helper.set_model_props(model, {"key": "value"})
    return model


def test_functions_are_stripped_as_onnx_does() -> None:
    model = function_model()
    stripped = onnx.ModelProto()
    stripped.CopyFrom(model)
    stripped.ClearField("functions")
    raw = model.SerializeToString()
    assert has_functions(raw)
    assert onnx.load_from_string(strip_functions(raw)) == stripped
    assert strip_functions(raw) == stripped.SerializeToString()
    assert not has_functions(strip_functions(raw))


def test_nodes_are_told_by_domain_and_name() -> None:
    assert node_types(function_model().SerializeToString()) == {
        ("ssast_edge", "Twice"),
        ("", "Identity"),
    }


def test_the_shipped_graphs_nodes_are_those_that_onnx_sees() -> None:
    path = load_bundle("wake-words").path / "model.onnx"
    wanted = {(node.domain, node.op_type) for node in onnx.load(path).graph.node}
    assert node_types(path.read_bytes()) == wanted


@pytest.mark.parametrize("cut", [1, 17, 100])
def test_a_part_of_a_model_is_refused(cut: int) -> None:
    raw = function_model().SerializeToString()
    with pytest.raises(NotOnnx, match="or a part of one"):
        strip_functions(raw[:-cut])


def test_another_file_is_refused() -> None:
    with pytest.raises(NotOnnx, match="not an ONNX file"):
        node_types(b"PK\x03\x04 and so on")
