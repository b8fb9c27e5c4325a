"""The plugin compiles, and a real TensorRT takes the exported graph with it and without."""

import ctypes
import importlib.util
import json
import os
import shutil
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

from optimize.calibration import calibrate  # noqa: E402
from optimize.qdq import quantize_graph  # noqa: E402
from train.model import SIZES, Classifier, Encoder, EncoderConfig  # noqa: E402
from train.onnx_graph import FUSED_PATCH_EMBED, build_graph, strip_functions  # noqa: E402

ROOT = Path(__file__).parents[2]
PATCH = {"patch_bins": 16, "patch_frames": 16, "stride_bins": 16, "stride_frames": 16}
FRAME = {"patch_bins": 128, "patch_frames": 2, "stride_bins": 128, "stride_frames": 2}

needs_rtx = pytest.mark.skipif(
    not all(
        importlib.util.find_spec(name)
        for name in ("tensorrt_rtx_bindings", "onnxruntime_ep_nv_tensorrt_rtx")
    ),
    reason="TensorRT for RTX is not installed (tools/tensorrt-rtx installs it)",
)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the compiled plugin and its GPU test."""
    if not shutil.which("nvcc") or not shutil.which("cmake"):
        pytest.skip("nvcc or cmake is not installed")
    if not (Path(os.environ.get("TENSORRT_ROOT", "/usr")) / "include" / "NvInfer.h").is_file():
        pytest.skip("TENSORRT_ROOT does not point at TensorRT's headers")
    folder = tmp_path_factory.mktemp("native")
    for command in (
        ["cmake", "-S", str(ROOT), "-B", str(folder), "-DCMAKE_BUILD_TYPE=Release"],
        ["cmake", "--build", str(folder), "--parallel", "2"],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "native" / "fused_patch_embed"


def export(
    path: Path, layout: dict[str, int], size: str, *, batch: int | None, stripped: bool
) -> None:
    torch.manual_seed(0)
    config = EncoderConfig(
        num_frames=64, num_mel_bins=128, **{**SIZES[size], "depth": 2}, **layout
    )  # fmt: skip
    graph = build_graph(Classifier(Encoder(config), 5, mean=-4.0, std=4.0), batch=batch)
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
    layout: dict[str, int], size: str, batch: int | None, tmp_path: Path
) -> None:
    export(tmp_path / "m.onnx", layout, size, batch=batch, stripped=False)
    found = parse(tmp_path / "m.onnx", tmp_path)
    assert found["parsed"], found["errors"]
    assert found["layers"]["CONVOLUTION"] == 1
    assert "PLUGIN_V3" not in found["layers"]
    assert found["plan"] == "vtrt"


@needs_rtx
@pytest.mark.tensorrt
@pytest.mark.parametrize("stripped", [False, True])
@pytest.mark.parametrize(
    ("layout", "size", "batch"),
    [(PATCH, "tiny", 1), (FRAME, "tiny", None), (FRAME, "small", None)],
    ids=["tiny patch", "tiny frame, any batch", "small frame, any batch"],
)
def test_tensorrt_takes_our_plugin(
    layout: dict[str, int],
    size: str,
    batch: int | None,
    stripped: bool,
    build: Path,
    tmp_path: Path,
) -> None:
    export(tmp_path / "m.onnx", layout, size, batch=batch, stripped=stripped)
    found = parse(tmp_path / "m.onnx", tmp_path, build / "libssast_edge_plugin.so")
    assert found["parsed"], found["errors"]
    assert found["layers"]["PLUGIN_V3"] == 1
    assert "CONVOLUTION" not in found["layers"]
    assert found["plan"] == "vtrt"
    assert found["named"]


@needs_rtx
@pytest.mark.tensorrt
def test_tensorrt_builds_the_int8_graph(tmp_path: Path) -> None:
    export(tmp_path / "m.onnx", PATCH, "tiny", batch=1, stripped=False)
    windows = np.random.default_rng(0).normal(-4, 4, (4, 64, 128)).astype(np.float32)
    thresholds = calibrate(tmp_path / "m.onnx", windows).thresholds("mse")
    onnx.save(quantize_graph(onnx.load(tmp_path / "m.onnx"), thresholds), tmp_path / "q.onnx")
    found = parse(tmp_path / "q.onnx", tmp_path)
    assert found["parsed"], found["errors"]
    assert found["layers"]["QUANTIZE"] == 9
    assert found["layers"]["DEQUANTIZE"] == 18
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
def test_the_plugin_says_what_it_cannot_do(build: Path, tmp_path: Path) -> None:
    export(tmp_path / "m.onnx", PATCH, "tiny", batch=1, stripped=True)
    graph = onnx.load(tmp_path / "m.onnx")
    for attribute in graph.graph.node[0].attribute:
        if attribute.name == "stride_frames":
            attribute.i = 0
    onnx.save(graph, tmp_path / "bad.onnx")
    found = parse(tmp_path / "bad.onnx", tmp_path, build / "libssast_edge_plugin.so")
    assert found.get("plan") is None
    assert any("strides must be at least 1" in line for line in found["log"])
