"""The plugin compiles, and a real TensorRT takes the exported graph with it and without."""

import ctypes
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

for _module in ("torch", "onnx"):
    pytest.importorskip(_module, reason=f"{_module} is not installed (extra: train)")

import numpy as np  # noqa: E402
import onnx  # noqa: E402
import torch  # noqa: E402

from optimize.quantization.calibration import calibrate  # noqa: E402
from optimize.quantization.precision import half_graph, tensorrt_int8  # noqa: E402
from train.encoder import SIZES, Encoder, EncoderConfig  # noqa: E402
from train.model import Classifier  # noqa: E402
from train.onnx_graph import FUSED_PATCH_EMBED, build_graph, strip_functions  # noqa: E402

PATCH: dict[str, Any] = {
    "patch_bins": 16,
    "patch_frames": 16,
    "stride_bins": 16,
    "stride_frames": 16,
}
FRAME: dict[str, Any] = {
    "patch_bins": 128,
    "patch_frames": 2,
    "stride_bins": 128,
    "stride_frames": 2,
}

needs_rtx = pytest.mark.skipif(
    not all(
        importlib.util.find_spec(name)
        for name in ("tensorrt_rtx_bindings", "onnxruntime_ep_nv_tensorrt_rtx")
    ),
    reason="TensorRT for RTX is not installed (tools/tensorrt-rtx installs it)",
)


def export(
    path: Path,
    layout: dict[str, Any],
    size: str,
    *,
    batch: int | None,
    stripped: bool,
    precision: str = "fp32",
) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {**SIZES[size], "depth": 2, **layout}
    config = EncoderConfig(
        num_frames=64, num_mel_bins=128, **sizes
    )  # fmt: skip
    graph = build_graph(Classifier(Encoder(config), 5, mean=-4.0, std=4.0), batch=batch)
    if precision == "fp16":
        graph = half_graph(graph)
    if precision == "int8":
        onnx.save(graph, path)
        windows = np.random.default_rng(0).normal(-4, 4, (4, 64, 128)).astype(np.float32)
        graph = tensorrt_int8(graph, calibrate(path, windows).thresholds("mse"))
    onnx.save(strip_functions(graph) if stripped else graph, path)


def parse(model: Path, tmp_path: Path, plugin: Path | None = None) -> dict[str, Any]:
    links = tmp_path / "links"
    links.mkdir()
    command = [sys.executable, str(Path(__file__).with_name("rtx_parse.py")), model, links]
    done = subprocess.run(
        [*map(str, command), *([str(plugin)] if plugin else [])],
        capture_output=True, text=True, env={**os.environ, "LD_LIBRARY_PATH": str(links)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    # The plugin complains to TensorRT's logger, or on stderr where versions differ.
    found["log"] += done.stderr.splitlines()
    return found


def test_the_library_exports_what_tensorrt_asks_for_and_nothing_else(build: Path) -> None:
    library = ctypes.CDLL(str(build / "libssast_edge_plugin.so"))
    assert library.getCreators
    assert library.setLoggerFinder
    symbols = subprocess.run(
        ["nm", "-D", "--defined-only", build / "libssast_edge_plugin.so"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    named = {line.split()[-1] for line in symbols.splitlines() if " T " in line}
    assert named == {"getCreators", "setLoggerFinder"}


def test_the_kernels_program_runs_or_says_that_there_is_no_gpu(build: Path) -> None:
    done = subprocess.run([build / "fused_patch_embed_test"], capture_output=True, text=True)
    if done.returncode == 77:
        assert "no CUDA device" in done.stderr
        pytest.skip("no CUDA device")
    assert done.returncode == 0, done.stdout + done.stderr


@needs_rtx
@pytest.mark.tensorrt
@pytest.mark.parametrize(
    ("layout", "size", "batch"),
    [(PATCH, "tiny", 1), (FRAME, "tiny", None), (PATCH, "small", 1)],
    ids=["tiny patch", "tiny frame, any batch", "small patch"],
)
def test_tensorrt_builds_the_graph_from_its_function(
    layout: dict[str, Any], size: str, batch: int | None, tmp_path: Path
) -> None:
    export(tmp_path / "m.onnx", layout, size, batch=batch, stripped=False)
    found = parse(tmp_path / "m.onnx", tmp_path)
    assert found["parsed"], found["errors"]
    assert found["layers"]["CONVOLUTION"] == 1
    assert "PLUGIN_V3" not in found["layers"]
    assert found["plan"] == "vtrt"


@needs_rtx
@pytest.mark.tensorrt
@pytest.mark.parametrize(
    ("layout", "size", "batch", "precision", "stripped"),
    [
        (PATCH, "tiny", 1, "fp32", False),
        (FRAME, "tiny", None, "fp32", True),
        (FRAME, "small", None, "fp32", False),
        (PATCH, "tiny", None, "fp16", True),
        (FRAME, "tiny", 1, "fp16", False),
        (PATCH, "small", 1, "fp16", True),
        (FRAME, "tiny", None, "int8", True),
        (PATCH, "tiny", 1, "int8", False),
    ],
    ids=[
        *("fp32 tiny patch", "fp32 tiny frame, any batch, stripped", "fp32 small frame, any batch"),
        *("fp16 tiny patch, any batch, stripped", "fp16 tiny frame", "fp16 small patch, stripped"),
        *("int8 tiny frame, any batch, stripped", "int8 tiny patch"),
    ],
)
def test_tensorrt_takes_our_plugin(
    layout: dict[str, Any],
    size: str,
    batch: int | None,
    precision: str,
    stripped: bool,
    build: Path,
    tmp_path: Path,
) -> None:
    export(tmp_path / "m.onnx", layout, size, batch=batch, stripped=stripped, precision=precision)
    found = parse(tmp_path / "m.onnx", tmp_path, build / "libssast_edge_plugin.so")
    assert found["parsed"], found["errors"]
    assert found["layers"]["PLUGIN_V3"] == 1
    assert "CONVOLUTION" not in found["layers"]
    half = "FLOAT" if precision == "fp32" else "HALF"
    assert found["plugin"] == {"inputs": ["FLOAT", half, half], "outputs": [half]}
    # Two blocks of four linear layers; the head and the patch embedding stay as they are.
    assert found["layers"].get("QUANTIZE", 0) == (8 if precision == "int8" else 0)
    assert found["plan"] == "vtrt"
    assert found["named"]


@needs_rtx
@pytest.mark.tensorrt
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_tensorrt_builds_the_other_precisions_from_the_function(
    precision: str, tmp_path: Path
) -> None:
    export(tmp_path / "m.onnx", PATCH, "tiny", batch=1, stripped=False, precision=precision)
    found = parse(tmp_path / "m.onnx", tmp_path)
    assert found["parsed"], found["errors"]
    assert "PLUGIN_V3" not in found["layers"]
    assert found["layers"].get("DEQUANTIZE", 0) == (16 if precision == "int8" else 0)
    assert found["plan"] == "vtrt"


@needs_rtx
@pytest.mark.tensorrt
def test_without_function_and_plugin_the_error_names_the_node(tmp_path: Path) -> None:
    export(tmp_path / "m.onnx", PATCH, "tiny", batch=1, stripped=True)
    found = parse(tmp_path / "m.onnx", tmp_path)
    assert not found["parsed"]
    assert any(FUSED_PATCH_EMBED in error for error in found["errors"])


@needs_rtx
@pytest.mark.tensorrt
@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("stride_frames", 0, "strides must be at least 1"),
        ("stride_bins", 3, "the window has 152 patches of 192 channels, the addend is 34x192"),
        ("std", 0.0, "wanted finite ones, std above 0"),
    ],
)
def test_the_plugin_says_what_it_cannot_do(
    name: str, value: float, complaint: str, build: Path, tmp_path: Path
) -> None:
    export(tmp_path / "m.onnx", PATCH, "tiny", batch=1, stripped=True)
    graph = onnx.load(tmp_path / "m.onnx")
    for attribute in graph.graph.node[0].attribute:
        if attribute.name == name:
            attribute.CopyFrom(onnx.helper.make_attribute(name, value))
    onnx.save(graph, tmp_path / "bad.onnx")
    found = parse(tmp_path / "bad.onnx", tmp_path, build / "libssast_edge_plugin.so")
    assert found.get("plan") is None
    assert any(complaint in line for line in found["log"]), found
