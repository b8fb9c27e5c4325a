"""Every flavour of a bundle becomes an engine, with our plugin and without, by a real TensorRT."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

for _module in ("torch", "onnx"):
    pytest.importorskip(_module, reason=f"{_module} is not installed (extra: train)")
if not all(
    importlib.util.find_spec(name)
    for name in ("tensorrt_rtx_bindings", "onnxruntime_ep_nv_tensorrt_rtx")
):
    pytest.skip(
        "TensorRT for RTX is not installed (tools/tensorrt-rtx installs it)",
        allow_module_level=True,
    )

import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnxruntime  # noqa: E402
import torch  # noqa: E402

from optimize.quantization.calibration import calibrate  # noqa: E402
from optimize.quantization.precision import half_graph, tensorrt_int8, with_any_batch  # noqa: E402
from ssast_edge.backends.engines import find_engine, open_engine  # noqa: E402
from ssast_edge.bundle import Bundle, write_bundle  # noqa: E402
from ssast_edge.engines.build import BuildOptions, build_engine  # noqa: E402
from ssast_edge.engines.cache import choose_model  # noqa: E402
from ssast_edge.engines.manifest import EngineError, read_manifest  # noqa: E402
from ssast_edge.engines.plugins import find_plugin  # noqa: E402
from ssast_edge.fbank import FbankConfig  # noqa: E402
from tests.ssast_edge.cuda_driver.library import has_gpu  # noqa: E402
from train.encoder import SIZES, Encoder, EncoderConfig  # noqa: E402
from train.model import Classifier  # noqa: E402
from train.onnx_graph import (  # noqa: E402
    SEGMENTS,
    build_graph,
    embedding_width,
    strip_functions,
)

pytestmark = pytest.mark.tensorrt

PATCH = {"patch_bins": 16, "patch_frames": 16, "stride_bins": 16, "stride_frames": 16}
FRAME = {"patch_bins": 128, "patch_frames": 2, "stride_bins": 128, "stride_frames": 2}
SHAPES = {
    "tiny patch": (PATCH, "tiny", 1),
    "tiny frame, any batch": (FRAME, "tiny", None),
    "small patch": (PATCH, "small", 1),
}
LABELS = ("a", "b", "c")


@pytest.fixture(scope="module", params=SHAPES)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """One model in every flavour, all with the function inside."""
    layout, size, batch = SHAPES[request.param]
    folder = tmp_path_factory.mktemp("bundle")
    torch.manual_seed(0)
    sizes: dict[str, Any] = {**SIZES[size], "depth": 2, **layout}
    config = EncoderConfig(num_frames=64, num_mel_bins=128, **sizes)
    graph = build_graph(Classifier(Encoder(config), len(LABELS), mean=-4.0, std=4.0))
    onnx.save(graph, folder / "fp32.onnx")
    windows = np.random.default_rng(0).normal(-4, 4, (4, 64, 128)).astype(np.float32)
    thresholds = calibrate(folder / "fp32.onnx", windows).thresholds("mse")
    made = {
        "fp32": graph,
        "fp16": half_graph(graph),
        "int8": tensorrt_int8(graph, thresholds),
    }
    for precision, flavour in made.items():
        onnx.save(
            with_any_batch(flavour) if batch is None else flavour, folder / f"{precision}.onnx"
        )
    manifest = {
        "name": "x", "version": "1", "task": "audio-tagging", "labels": list(LABELS),
        "fbank": FbankConfig(), "normalization": {"mean": -4.0, "std": 4.0}, "window_frames": 64,
        "hop_ms": 40, "activation": "sigmoid", "triggers": {}, "provenance": {}, "data": [],
        "licence": "none",
        "embedding": {"segments": SEGMENTS, "width": embedding_width(config)},
        "models": [
            {"backend": "tensorrt", "precision": name, "file": f"{name}.onnx"} for name in made
        ],
    }  # fmt: skip
    return write_bundle(
        folder / "bundle",
        manifest,
        {f"{name}.onnx": folder / f"{name}.onnx" for name in made},
        golden_fbank=windows[0],
        golden_logits=np.zeros(len(LABELS), np.float32),
    )


@pytest.fixture
def layers(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, int]]:
    """Builds one flavour for SM86; how many layers of each kind it had."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(precision: str, plugin: Path | None) -> dict[str, int]:
        options = BuildOptions(
            out=tmp_path / "x.engine",
            plugin=plugin,
            use_plugin=plugin is not None,
            compute_capability="8.6",
            batch=(1, 2, 4),
        )
        path = build_engine(bundle, choose_model(bundle, precision), options)
        assert path.read_bytes()[:4] == b"vtrt"
        assert plugin is None or b"FusedPatchEmbed" in path.read_bytes()
        manifest = read_manifest(path)
        assert manifest.precision == precision
        assert manifest.patch_embed == ("function" if plugin is None else "plugin")
        found = find_plugin(plugin) if plugin else None
        assert manifest.plugin_sha256 == (found.sha256 if found else "")
        any_batch = "batch" in str(onnx.load(bundle.path / f"{precision}.onnx").graph.input)
        assert manifest.batch == ((1, 2, 4) if any_batch else (1, 1, 1))
        return manifest.layers

    return run


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_plugin_runs_in_every_flavour(
    precision: str, layers: Callable[..., dict[str, int]], build: Path
) -> None:
    found = layers(precision, build / "libssast_edge_plugin.so")
    assert found["PLUGIN_V3"] == 1
    assert "CONVOLUTION" not in found
    # Two blocks of four linear layers; the head stays in float.
    assert (found.get("QUANTIZE", 0), found.get("DEQUANTIZE", 0)) == (
        (8, 16) if precision == "int8" else (0, 0)
    )


@pytest.mark.parametrize("bundle", ["tiny patch"], indirect=True)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_without_the_plugin_its_function_runs(
    precision: str, layers: Callable[..., dict[str, int]]
) -> None:
    found = layers(precision, None)
    assert found["CONVOLUTION"] == 1
    assert "PLUGIN_V3" not in found


@pytest.mark.parametrize("bundle", ["tiny patch"], indirect=True)
def test_a_graph_without_function_and_plugin_says_what_is_missing(
    bundle: Bundle, tmp_path: Path
) -> None:
    model = choose_model(bundle, "fp32")
    stripped = strip_functions(onnx.load(bundle.path / model.file))
    onnx.save(stripped, tmp_path / "bare.onnx")
    manifest = {
        "name": "x", "version": "1", "task": "audio-tagging", "labels": list(LABELS),
        "fbank": bundle.fbank, "normalization": bundle.normalization, "window_frames": 64,
        "hop_ms": 40, "activation": "sigmoid", "triggers": {}, "provenance": {}, "data": [],
        "licence": "none",
        "models": [{"backend": "tensorrt", "precision": "fp32", "file": "bare.onnx"}],
    }  # fmt: skip
    bare = write_bundle(
        tmp_path / "bare",
        manifest,
        {"bare.onnx": tmp_path / "bare.onnx"},
        golden_fbank=bundle.golden.fbank,
        golden_logits=bundle.golden.logits,
    )
    options = BuildOptions(
        out=tmp_path / "x.engine", use_plugin=False, compute_capability="8.6"
    )  # fmt: skip
    with pytest.raises(EngineError, match="needs the plugin library, and there is none: give it"):
        build_engine(bare, choose_model(bare), options)
    assert not (tmp_path / "x.engine").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not has_gpu(), reason="no NVIDIA driver on this machine")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine_with_our_plugin_gives_what_onnx_runtime_gives(
    precision: str,
    bundle: Bundle,
    build: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = choose_model(bundle, precision)
    build_engine(bundle, model, BuildOptions(plugin=build / "libssast_edge_plugin.so"))
    backend = open_engine(bundle, find_engine(bundle, precision=precision))
    reference = onnxruntime.InferenceSession(
        (bundle.path / model.file).read_bytes(), providers=["CPUExecutionProvider"]
    )
    rng = np.random.default_rng(1)
    frames = rng.normal(-4, 4, (64 + 40, 128)).astype(np.float32)
    for start in range(0, 40, 4):
        window = np.ascontiguousarray(frames[start : start + 64])
        (wanted,) = reference.run(["logits"], {"fbank": window[np.newaxis]})
        logits = backend.infer(window, new_frames=4 if start else None)
        # Random weights give logits of about 1; half precision and INT8 round.
        allowed = {"fp32": 1e-3, "fp16": 0.02, "int8": 0.05}[precision]
        np.testing.assert_allclose(logits, wanted[0], atol=allowed)
    backend.close()
