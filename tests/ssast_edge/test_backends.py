"""Backends give what the model gives, and say in one line why they cannot."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ssast_edge.backends import open_backend
from ssast_edge.backends.onnx import OnnxBackend, open_onnx
from ssast_edge.bundle import Bundle, ModelFile
from ssast_edge.errors import BackendMissing, BundleError


def open_tones(path: Path, **changes: Any) -> OnnxBackend:
    """The tone model as a backend."""
    settings: dict[str, Any] = {"input_shape": (20, 128), "num_labels": 3, **changes}
    opened = open_onnx(path, **settings)
    assert isinstance(opened, OnnxBackend)
    return opened


@pytest.fixture
def model_path(tone_folder: Path) -> Path:
    """The tone model's file."""
    return tone_folder / "model.onnx"


def test_logits_equal_the_model_in_numpy(
    tone_bundle: Bundle, tone_logits: Callable[[Any], Any]
) -> None:
    fbank = np.random.default_rng(3).normal(-5, 3, (20, 128)).astype(np.float32)
    # 1e-5: sums of 20 and 128 float32 numbers in another order.
    np.testing.assert_allclose(
        open_backend(tone_bundle).infer(fbank), tone_logits(fbank), atol=1e-5
    )


def test_weights_in_a_file_beside_the_model_are_not_opened(
    model_path: Path, tmp_path: Path
) -> None:
    # Such a file may be missing from the bundle's list, and then nothing has checked it.
    path = tmp_path / "model.onnx"
    onnx.save(
        onnx.load(model_path),
        path,
        save_as_external_data=True,
        location="weights",
        size_threshold=0,
    )
    assert (tmp_path / "weights").stat().st_size > 0
    with pytest.raises(BundleError, match="cannot open the model"):
        open_tones(path)


def test_logits_have_one_row_of_labels(tone_bundle: Bundle) -> None:
    logits = open_backend(tone_bundle).infer(tone_bundle.golden.fbank)
    assert logits.shape == (3,)
    assert logits.dtype == np.float32


def test_logits_are_not_overwritten_by_the_next_call(tone_bundle: Bundle) -> None:
    backend = open_backend(tone_bundle)
    first = backend.infer(np.zeros((20, 128), np.float32))
    kept = first.copy()
    backend.infer(np.tile(np.arange(128, dtype=np.float32), (20, 1)))
    np.testing.assert_array_equal(first, kept)


def test_input_is_not_changed(tone_bundle: Bundle) -> None:
    fbank = tone_bundle.golden.fbank.copy()
    open_backend(tone_bundle).infer(fbank)
    np.testing.assert_array_equal(fbank, tone_bundle.golden.fbank)


def test_same_input_gives_the_same_bits_at_any_address(tone_bundle: Bundle) -> None:
    backend = open_backend(tone_bundle)
    buffer = np.empty((40, 128), np.float32)
    results = []
    for start in range(20):
        buffer[start : start + 20] = tone_bundle.golden.fbank
        results.append(backend.infer(buffer[start : start + 20]).tobytes())
    assert len(set(results)) == 1


def test_two_threads_give_the_same_logits(tone_bundle: Bundle) -> None:
    one, two = (open_backend(tone_bundle, threads=threads) for threads in (1, 2))
    fbank = tone_bundle.golden.fbank
    np.testing.assert_allclose(one.infer(fbank), two.infer(fbank), atol=1e-5)


def test_fewer_than_one_thread_is_refused(model_path: Path) -> None:
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        open_tones(model_path, threads=0)


def test_closed_backend_says_so(model_path: Path) -> None:
    backend = open_tones(model_path)
    backend.close()
    with pytest.raises(ValueError, match="closed"):
        backend.infer(np.zeros((20, 128), np.float32))


def test_name_tells_backend_and_precision(tone_bundle: Bundle) -> None:
    assert open_backend(tone_bundle).name == "onnx (fp32)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_shape": (21, 128)}, r"input is fbank \(1, 20, 128\).*wants fbank \(1, 21, 128\)"),
        ({"input_shape": (20, 64)}, r"input is fbank \(1, 20, 128\).*wants fbank \(1, 20, 64\)"),
        ({"num_labels": 4}, r"output is logits \(1, 3\).*wants logits \(1, 4\)"),
    ],
)
def test_model_of_another_shape_is_refused(
    model_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        open_tones(model_path, **changes)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("audio", TensorProto.FLOAT, r"input is audio .*wants fbank"),
        ("fbank", TensorProto.DOUBLE, r"input is fbank \(1, 20, 128\) tensor\(double\)"),
    ],
)
def test_model_with_another_input_is_refused(
    tmp_path: Path, name: str, kind: int, message: str
) -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], ["logits"])],
        "other",
        [helper.make_tensor_value_info(name, kind, [1, 20, 128])],
        [helper.make_tensor_value_info("logits", kind, [1, 20, 128])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(BundleError, match=message):
        open_tones(tmp_path / "model.onnx")


def test_model_file_that_is_not_there_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot open the model") as caught:
        open_tones(tmp_path / "model.onnx")
    assert "\n" not in str(caught.value)


def test_first_model_that_can_be_run_is_opened(tone_bundle: Bundle) -> None:
    engine = ModelFile(backend="later", precision="fp16", file="model.engine")
    bundle = replace(tone_bundle, models=(engine, *tone_bundle.models))
    assert open_backend(bundle).name == "onnx (fp32)"


@pytest.mark.parametrize(("kind", "wanted"), [("auto", "onnx"), ("later", "later")])
def test_bundle_without_a_fitting_model_says_what_it_holds(
    tone_bundle: Bundle, kind: str, wanted: str
) -> None:
    engine = ModelFile(backend="other", precision="fp16", file="model.engine")
    with pytest.raises(BackendMissing, match=f"backend {wanted}, the bundle holds: other"):
        open_backend(replace(tone_bundle, models=(engine,)), kind=kind)


def test_absent_onnx_runtime_says_what_to_install(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendMissing, match="pip install onnxruntime"):
        open_tones(model_path)


def test_import_needs_no_onnx_runtime() -> None:
    code = "import sys; sys.modules['onnxruntime'] = None; import ssast_edge.backends.onnx"
    subprocess.run([sys.executable, "-c", code], check=True)
