"""On a machine with a GPU: engines built there run, and give what ONNX Runtime gives."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ssast_edge.backends import open_backend
from ssast_edge.bundle import Bundle, load_bundle
from ssast_edge.engines.cache import tensorrt_models
from ssast_edge.engines.tensorrt_library import is_installed
from ssast_edge.spotter import Spotter
from tests.ssast_edge.cuda_driver.library import has_gpu

FloatArray = NDArray[np.float32]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.tensorrt,
    pytest.mark.skipif(not has_gpu(), reason="no NVIDIA driver on this machine"),
    pytest.mark.skipif(not is_installed(), reason="TensorRT is not installed"),
]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The shipped bundle."""
    return load_bundle("wake-words")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One cache folder for all: an engine is built once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def precisions() -> list[str]:
    """What engines of the shipped bundle can be built."""
    return [model.precision for model in tensorrt_models(load_bundle("wake-words"))]


@pytest.mark.parametrize("precision", precisions())
def test_a_stream_gives_the_scores_of_onnx_runtime(
    precision: str, bundle: Bundle, tone_audio: Callable[..., FloatArray]
) -> None:
    samples = tone_audio(6.0, (1.0, 2.0, 440.0), (3.0, 3.5, 1500.0))
    scores: dict[str, list[FloatArray]] = {"onnx": [], "tensorrt": []}
    for kind, rows in scores.items():
        spotter = Spotter(
            bundle,
            kind=kind,
            precision=precision if kind == "tensorrt" else "fp32",
            rebuild=kind == "tensorrt",
            on_scores=lambda time_s, row, rows=rows: rows.append(row),  # type: ignore[misc]
        )
        spotter.push(samples[:30_000])
        spotter.skip(0.5)
        spotter.push(samples[30_000:])
        spotter.backend.close()
    # Of a score from 0 to 1; half precision and INT8 round, single differs in the order of sums.
    allowed = {"fp32": 1e-3, "fp16": 0.02, "int8": 0.1}[precision]
    np.testing.assert_allclose(scores["tensorrt"], scores["onnx"], atol=allowed)


def test_a_hop_is_one_graph_and_uploads_only_new_frames(bundle: Bundle) -> None:
    backend: Any = open_backend(bundle, kind="tensorrt", precision="fp32", rebuild=True)
    whole: Any = open_backend(bundle, kind="onnx", precision="fp32")
    rng = np.random.default_rng(0)
    frames = rng.normal(-5, 3, (bundle.window_frames + 400, bundle.fbank.num_mel_bins))
    frames = frames.astype(np.float32)
    hop = bundle.hop_ms // 10
    told: int | None = None
    for start in range(0, 400, hop):
        window = np.ascontiguousarray(frames[start : start + bundle.window_frames])
        logits = backend.infer(window, new_frames=told)
        np.testing.assert_allclose(logits, whole.infer(window), atol=1e-2)
        told = hop
    uses_graphs = backend.uses_graphs
    backend.close()
    if not uses_graphs:
        pytest.skip("this CUDA package or this TensorRT records no graphs: it ran without")


def test_stages_are_measured(bundle: Bundle) -> None:
    backend: Any = open_backend(bundle, kind="tensorrt", precision="fp32", rebuild=True)
    backend.stages_ms()
    for _ in range(5):
        backend.infer(bundle.golden.fbank)
    stages = backend.stages_ms()
    assert list(stages) == ["upload", "inference", "download"]
    assert all(0 <= value < 100 for value in stages.values())
    assert stages["inference"] > 0
    backend.close()
