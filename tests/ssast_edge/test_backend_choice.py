"""Which backend is taken: TensorRT only with an engine that fits, and nothing else unasked."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import soundfile
from numpy.typing import NDArray
from onnx import helper

from ssast_edge.backends import Choice, open_backend
from ssast_edge.bundle import Bundle, ModelFile, write_bundle
from ssast_edge.engines.cache import engine_path, onnx_sha256
from ssast_edge.engines.manifest import EngineManifest, manifest_path, write_engine
from ssast_edge.errors import BackendMissing, SsastEdgeError
from ssast_edge.fbank import FbankConfig
from ssast_edge.integrity import record_file
from tests.ssast_edge.cuda_driver.library import compiled_driver, has, has_gpu

FloatArray = NDArray[np.float32]

FRAMES, BINS = 10, 8
COMMAND = Path(__file__).with_name("cuda_driver") / "command.py"
without_gpu = pytest.mark.skipif(has_gpu(), reason="this machine has a GPU")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder of its own for each test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def echo(tmp_path: Path, tone_manifest: dict[str, Any]) -> Bundle:
    """A bundle whose logits are the window itself, as the stand-in's engines give them."""
    names = [f"{frame}/{number}" for frame in range(FRAMES) for number in range(BINS)]
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["fbank"], ["logits"])],
        "echo",
        [helper.make_tensor_value_info("fbank", 1, [1, FRAMES, BINS])],
        [helper.make_tensor_value_info("logits", 1, [1, FRAMES * BINS])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "echo.onnx")
    golden = np.random.default_rng(0).normal(-5, 3, (FRAMES, BINS)).astype(np.float32)
    manifest = {
        **tone_manifest, "task": "audio-tagging", "labels": names, "triggers": {},
        "fbank": FbankConfig(num_mel_bins=BINS), "window_frames": FRAMES,
    }  # fmt: skip
    return write_bundle(
        tmp_path / "echo",
        manifest,
        {"model.onnx": tmp_path / "echo.onnx"},
        golden_fbank=golden,
        golden_logits=golden.ravel(),
    )


@pytest.fixture
def with_engine(tmp_path: Path) -> Callable[..., Path]:
    """Puts an engine of the stand-in into the cache."""

    def put(bundle: Bundle, fails: str = "", **changes: Any) -> Path:
        model = replace(bundle.models[0], backend="tensorrt")
        sha256 = onnx_sha256(bundle, model)
        target, made = engine_path(sha256, model.precision), tmp_path / "made"
        size = {"frames": bundle.window_frames, "bins": bundle.fbank.num_mel_bins}
        plan = {**size, "labels": len(bundle.labels), "batch": 1, "fails": fails}
        made.write_text(json.dumps(plan))
        facts: dict[str, Any] = {
            "engine": record_file(made), "onnx_sha256": sha256, "precision": "fp32",
            "batch": (1, 1, 1), "tensorrt_version": "10.3.0", "flavour": "tensorrt",
            "cuda_version": "12.6", "driver_version": "", "gpu": "Stand-in GPU",
            "compute_capability": "8.6", "plugin": "", "plugin_sha256": "",
            "patch_embed": "layers", "layers": {}, "ssast_edge_version": "0.1.0",
            "built": "", "build_s": 1.0,
        }  # fmt: skip
        target.parent.mkdir(parents=True, exist_ok=True)
        write_engine(target, made, EngineManifest(**{**facts, **changes}))
        return target

    return put


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in driver."""
    return compiled_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def run(driver: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `ssast-edge tag` on a file of noise, over the stand-ins."""
    if not has("cuda.bindings"):
        pytest.skip("cuda-bindings is not installed")
    noise = 0.1 * np.random.default_rng(1).standard_normal(24_000)
    soundfile.write(tmp_path / "noise.wav", noise, 16_000)

    def tag(bundle: Bundle, *options: str) -> subprocess.CompletedProcess[str]:
        files = [str(tmp_path / "noise.wav"), "--bundle", str(bundle.path)]
        return subprocess.run(
            [sys.executable, str(COMMAND), "tag", *files, "--csv", *options],
            capture_output=True,
            text=True,
            env={**os.environ, "LD_PRELOAD": str(driver)},
            timeout=60,
        )

    return tag


def chosen(bundle: Bundle, **options: Any) -> tuple[str, Choice]:
    """Name of the backend and what was told of it."""
    told: list[Choice] = []
    backend = open_backend(bundle, on_choice=told.append, **options)
    backend.close()
    (choice,) = told
    return backend.name, choice


def test_without_an_engine_onnx_is_taken_and_nothing_is_notable(tone_bundle: Bundle) -> None:
    name, choice = chosen(tone_bundle)
    assert name == choice.name == "onnx (fp32)"
    assert choice.reason == (
        f"no engine was built for TensorRT: ssast-edge build {tone_bundle.path}"
    )
    assert not choice.is_notable or has_gpu()


def test_asked_for_onnx_no_engine_matters(
    tone_bundle: Bundle, with_engine: Callable[..., Path]
) -> None:
    with_engine(tone_bundle)
    assert str(chosen(tone_bundle, kind="onnx")[1]) == "backend onnx (fp32): asked for"


@without_gpu
def test_an_engine_that_cannot_be_used_is_told(
    tone_bundle: Bundle, with_engine: Callable[..., Path]
) -> None:
    with_engine(tone_bundle)
    name, choice = chosen(tone_bundle)
    assert name == "onnx (fp32)"
    assert choice.is_notable


@without_gpu
@pytest.mark.parametrize("options", [{"kind": "tensorrt"}, {"rebuild": True}])
def test_asked_for_tensorrt_nothing_else_is_taken(
    options: dict[str, Any], tone_bundle: Bundle
) -> None:
    with pytest.raises(SsastEdgeError, match=r"(CUDA|TensorRT)") as caught:
        open_backend(tone_bundle, **options)
    assert "\n" not in str(caught.value)


def test_a_precision_that_the_bundle_lacks_is_told(tone_bundle: Bundle) -> None:
    with pytest.raises(BackendMissing, match=r"onnx in int8.*no model in int8 for TensorRT"):
        open_backend(tone_bundle, precision="int8")


def test_a_model_for_tensorrt_alone_says_what_is_missing(tone_bundle: Bundle) -> None:
    half = ModelFile(backend="tensorrt", precision="fp16", file="model.onnx")
    alone = replace(tone_bundle, models=(half,))
    with pytest.raises(BackendMissing, match=r"holds: tensorrt fp16; no engine was built"):
        open_backend(alone)


def test_an_engine_that_fits_is_taken_and_gives_what_onnx_gives(
    echo: Bundle,
    with_engine: Callable[..., Path],
    run: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    path = with_engine(echo)
    ours, onnx_runtime = run(echo), run(echo, "--backend", "onnx")
    assert ours.returncode == onnx_runtime.returncode == 0, ours.stderr
    assert ours.stderr == f"backend tensorrt (fp32): {path.name} fits\n"
    assert onnx_runtime.stderr == "backend onnx (fp32): asked for\n"
    assert len(ours.stdout.splitlines()) > 30
    assert ours.stdout == onnx_runtime.stdout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tensorrt_version": "10.7.0"}, "built for TensorRT 10.7.0, here 10.3.0"),
        ({"flavour": "rtx"}, "built for library TensorRT for RTX, here TensorRT"),
        ({"gpu": "Another GPU"}, "built for GPU Another GPU, here Stand-in GPU"),
        ({"compute_capability": "8.7"}, "built for compute capability 8.7, here 8.6"),
        ({"onnx_sha256": "c" * 64}, "built for ONNX file cccccccccccc..., here "),
        ({"plugin_sha256": "d" * 64}, "built for plugin dddddddddddd..., here "),
    ],
)
def test_an_engine_that_does_not_fit_says_what_differs_and_what_to_do(
    changes: dict[str, Any],
    message: str,
    echo: Bundle,
    with_engine: Callable[..., Path],
    run: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    with_engine(echo, **changes)
    asked = run(echo, "--backend", "tensorrt")
    assert asked.returncode == 1
    assert asked.stderr.startswith(f"Error: the fp32 engine does not fit: {message}")
    command = f"build it: ssast-edge build {echo.path} --precision fp32, or add --rebuild\n"
    assert asked.stderr.endswith(command)
    assert len(asked.stderr.splitlines()) == 1
    assert asked.stdout == ""


def test_auto_says_why_it_does_not_take_the_engine(
    echo: Bundle,
    with_engine: Callable[..., Path],
    run: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    with_engine(echo, tensorrt_version="10.7.0")
    ran = run(echo)
    assert ran.returncode == 0
    assert ran.stderr.startswith("backend onnx (fp32): the fp32 engine does not fit: built for")


def test_a_rebuild_that_fails_leaves_the_old_engine(
    echo: Bundle,
    with_engine: Callable[..., Path],
    run: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "tensorrt.py").write_text("__version__ = '8.6.2'")  # what the build will find
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    path = with_engine(echo, tensorrt_version="10.7.0")
    before = path.read_bytes(), manifest_path(path).read_bytes()
    ran = run(echo, "--rebuild")
    assert ran.returncode == 1
    told, error = ran.stderr.splitlines()
    assert told.startswith("building the fp32 engine of tones: the fp32 engine does not fit:")
    assert error.startswith("Error: fp32 engine not built: TensorRT 8.6.2 is too old")
    assert error.endswith("; the engine that was there is kept")
    assert (path.read_bytes(), manifest_path(path).read_bytes()) == before


def test_an_engine_that_was_cut_off_is_refused(
    echo: Bundle,
    with_engine: Callable[..., Path],
    run: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    path = with_engine(echo)
    path.write_bytes(path.read_bytes()[:-1])
    ran = run(echo, "--backend", "tensorrt")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "is not the file that was built: altered, or cut off" in ran.stderr


@pytest.mark.parametrize(
    ("fails", "message"),
    [
        ("run", "Error: TensorRT cannot run the engine: enqueueV3: Error Code 1: Cuda Runtime"),
        ("memory", "Error: TensorRT 10.3.0 has no room for the engine on the GPU"),
    ],
)
def test_an_engine_that_fails_is_one_line(
    fails: str,
    message: str,
    echo: Bundle,
    with_engine: Callable[..., Path],
    run: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    with_engine(echo, fails=fails)
    ran = run(echo, "--backend", "tensorrt")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(message)
    assert len(ran.stderr.splitlines()) == 1


def test_an_engine_that_computes_something_else_is_refused(
    tone_bundle: Bundle,
    tmp_path: Path,
    tone_manifest: dict[str, Any],
    echo: Bundle,
    with_engine: Callable[..., Path],
    run: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    manifest = {
        **tone_manifest, "task": "audio-tagging", "labels": list(echo.labels), "triggers": {},
        "fbank": echo.fbank, "window_frames": FRAMES,
    }  # fmt: skip
    other = write_bundle(
        tmp_path / "other",
        manifest,
        {"model.onnx": echo.path / "model.onnx"},
        golden_fbank=echo.golden.fbank,
        golden_logits=echo.golden.logits + 1,
    )
    with_engine(other)
    ran = run(other)  # not even with auto: something is wrong with this machine
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "does not give its golden output" in ran.stderr
