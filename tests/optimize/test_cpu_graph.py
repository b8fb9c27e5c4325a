"""The graph for ONNX Runtime's CPU provider: equal in float, near in INT8, of types that it has."""

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest

for _module in ("torch", "onnx"):
    pytest.importorskip(_module, reason=f"{_module} is not installed (extra: optimize)")

import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from optimize.quantization.calibration import INPUT, run_graph  # noqa: E402
from optimize.quantization.cpu_graph import FORMS, PATCH_EMBED, cpu_graph, layer_names  # noqa: E402
from optimize.quantization.exported import Ast, NotOurGraph, read_ast  # noqa: E402
from optimize.quantization.fake_quant import fake_quantise, quantisable, undo  # noqa: E402
from optimize.quantization.judge import run_windows  # noqa: E402
from train.cpu_linear import Linear  # noqa: E402
from train.encoder import Encoder, EncoderConfig  # noqa: E402
from train.model import Classifier  # noqa: E402
from train.onnx_graph import build_graph  # noqa: E402

Ranges = dict[str, tuple[float, float]]
COLUMNS = {"patch_bins": 32, "stride_bins": 32}  # patches as high as the window
SHAPES: dict[str, dict[str, Any]] = {
    "columns that overlap": {**COLUMNS, "patch_frames": 8, "stride_frames": 4},
    "columns apart": {**COLUMNS, "patch_frames": 5, "stride_frames": 5},
    "columns with gaps": {**COLUMNS, "patch_frames": 4, "stride_frames": 6},
    "squares apart": {
        "patch_bins": 8, "stride_bins": 8, "patch_frames": 8, "stride_frames": 8,
    },
    "squares that overlap": {
        "patch_bins": 16, "stride_bins": 10, "patch_frames": 16, "stride_frames": 10,
    },
    "pruned": {
        **COLUMNS, "patch_frames": 4, "stride_frames": 4, "head_dim": 8,
        "block_heads": (1, 0), "block_hidden": (0, 20),
    },
}  # fmt: skip


def classifier(pooling: str = "mean", **shape: Any) -> Classifier:
    torch.manual_seed(0)
    config = EncoderConfig(
        num_frames=42, num_mel_bins=32, dim=16, depth=2, num_heads=2, mlp_ratio=2.0, **shape
    )
    model = Classifier(Encoder(config), 3, mean=-7.0, std=4.0, pooling=pooling)  # type: ignore[arg-type]
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model.eval()


WINDOWS = np.random.default_rng(0).normal(-7, 4, (6, 42, 32)).astype(np.float32)


def ranges_of(graph: onnx.ModelProto, ast: Ast, windows: NDArray[np.float32] = WINDOWS) -> Ranges:
    sources = sorted({layer.source for layer in ast.linears})
    seen = [np.concatenate(v) for v in zip(*run_graph(graph, windows, sources), strict=True)]
    ends = {n: (float(v.min()), float(v.max())) for n, v in zip(sources, seen, strict=True)}
    ranges = {layer.name: ends[layer.source] for layer in ast.linears}
    return {**ranges, PATCH_EMBED: (float(windows.min()), float(windows.max()))}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_form_of_every_shape_gives_the_logits(shape: dict[str, Any]) -> None:
    graph = build_graph(classifier(**shape))
    ast = read_ast(graph)
    ranges = ranges_of(graph, ast)
    wanted = run_windows(graph, WINDOWS)
    spread = float(wanted.std(axis=0).mean())
    for name, form in FORMS.items():
        made = cpu_graph(ast, form, ranges, weight_bits=7)
        onnx.checker.check_model(made)
        apart = np.abs(run_windows(made, WINDOWS) - wanted)
        if name == "float":
            assert apart.max() < 1e-4, "sums in another order"
        else:
            assert 0 < apart.mean() < 0.2 * spread, name


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_form_of_every_shape_gives_the_embedding(shape: dict[str, Any]) -> None:
    graph = build_graph(classifier(**shape))
    ast = read_ast(graph)
    ranges = ranges_of(graph, ast)
    (wanted,) = next(run_graph(graph, WINDOWS[:1], ["embedding"]))
    for name, form in FORMS.items():
        made = cpu_graph(ast, form, ranges, weight_bits=7)
        (found,) = next(run_graph(made, WINDOWS[:1], ["embedding"]))
        assert found.shape == wanted.shape == (1, 12, 32)
        tolerance = 1e-4 if name == "float" else 0.5 * wanted.std()
        assert np.abs(found - wanted).max() < tolerance, name


def test_a_graph_without_embedding_gets_none() -> None:
    graph = build_graph(classifier(**SHAPES["squares apart"]), segments=0)
    made = cpu_graph(read_ast(graph), FORMS["float"])
    assert [port.name for port in made.graph.output] == ["logits"]


def test_pooling_of_the_prefix_tokens() -> None:
    graph = build_graph(classifier("cls", **SHAPES["squares apart"]))
    made = cpu_graph(read_ast(graph), FORMS["float"])
    assert np.abs(run_windows(made, WINDOWS) - run_windows(graph, WINDOWS)).max() < 1e-4


def test_types_and_counts_of_the_integer_graph() -> None:
    graph = build_graph(classifier(**SHAPES["columns that overlap"]))
    ast = read_ast(graph)
    ranges = ranges_of(graph, ast)
    assert len(layer_names(ast)) == 1 + 2 * 4

    def counts(form: str, *excluded: str) -> Counter[str]:
        made = cpu_graph(ast, FORMS[form], ranges, excluded=excluded)
        kinds = {w.name: w.data_type for w in made.graph.initializer}
        for node in made.graph.node:
            if node.op_type == "MatMulIntegerToFloat":
                assert kinds[node.input[1]] == kinds[node.input[5]] == onnx.TensorProto.INT8
                assert kinds[node.input[4]] == onnx.TensorProto.UINT8
        assert made.ir_version <= 9, "ONNX Runtime 1.17 reads no later"
        assert next(o.version for o in made.opset_import if not o.domain) == 18
        return Counter(node.op_type for node in made.graph.node)

    found = counts("static-attention")
    assert found["QAttention"] == 2
    assert found["MatMulIntegerToFloat"] == 2 * 3 + 1
    assert found["QuantizeLinear"] == 9
    assert found["Gemm"] == 1, "the head"
    assert counts("static")["MatMulIntegerToFloat"] == 9
    found = counts("dynamic")
    assert (found["DynamicQuantizeMatMul"], found["MatMulIntegerToFloat"]) == (8, 1)
    found = counts("static-attention", PATCH_EMBED, "blocks.0.attn.qkv", "blocks.1.mlp.fc2")
    assert (found["QAttention"], found["Gemm"], found["Softmax"]) == (1, 4, 1)


def test_weights_of_seven_bits_cannot_overflow_sixteen() -> None:
    ast = read_ast(build_graph(classifier(**SHAPES["columns apart"])))
    made = cpu_graph(ast, FORMS["dynamic"], {PATCH_EMBED: (-16.0, 8.0)}, weight_bits=7)
    arrays = [
        onnx.numpy_helper.to_array(w).astype(int)
        for w in made.graph.initializer
        if w.name.endswith(".int8")
    ]
    assert len(arrays) == 9
    assert max(np.abs(a).max() for a in arrays) == 64
    assert 2 * 255 * 64 < 2**15


def test_another_graph_is_refused_in_one_line() -> None:
    graph = build_graph(classifier(**SHAPES["columns apart"]))
    graph.graph.node[0].name = "other"
    with pytest.raises(NotOurGraph, match="not a float graph of `train export`"):
        read_ast(graph)
    with pytest.raises(NotOurGraph, match="not a float graph"):
        read_ast(onnx.ModelProto())


@pytest.mark.parametrize("bits", [7, 8])
def test_pytorch_rounds_as_the_graph_does(bits: int) -> None:
    model = classifier(**SHAPES["columns apart"])
    graph = build_graph(model)
    ast = read_ast(graph)
    ranges = ranges_of(graph, ast)
    before = run_windows(graph, WINDOWS)
    keys = list(model.state_dict())
    for layer in (PATCH_EMBED, "blocks.1.mlp.fc2", "blocks.0.attn.qkv"):
        others = [name for name in layer_names(ast) if name != layer]
        made = cpu_graph(ast, FORMS["static"], ranges, excluded=others, weight_bits=bits)
        wanted = run_windows(made, WINDOWS)
        fake_quantise(model, ranges, excluded=others, weight_bits=bits)
        with torch.no_grad():
            found = model(torch.from_numpy(WINDOWS)).numpy()
        undo(model)
        # A value at the edge of two levels may fall to either side in the two runtimes.
        assert np.abs(found - wanted).mean() < 0.1 * np.abs(wanted - before).mean(), layer
    assert list(model.state_dict()) == keys
    assert all(type(m) is Linear for n, m in quantisable(model) if n != PATCH_EMBED)


def test_the_input_is_named_alike() -> None:
    made = cpu_graph(read_ast(build_graph(classifier(**SHAPES["columns apart"]))), FORMS["float"])
    assert [port.name for port in made.graph.input] == [INPUT]
