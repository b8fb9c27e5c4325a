"""INT8: observers, the calibration cache, Q/DQ in the graph, and what it costs."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

for _module in ("torch", "onnx", "soundfile"):
    pytest.importorskip(_module, reason=f"{_module} is not installed (extra: optimize)")

import soundfile  # noqa: E402
import torch  # noqa: E402

from optimize.__main__ import main  # noqa: E402
from optimize.quantization.calibration import (  # noqa: E402
    CalibrationError,
    calibrate,
    linear_layers,
    run_graph,
)
from optimize.quantization.observers import BINS, METHODS, AbsHistogram, entropy, mse, percentile  # noqa: E402
from optimize.quantization.qdq import quantize_graph, quantize_weight  # noqa: E402
from ssast_edge.bundle import write_bundle  # noqa: E402
from train.encoder import Encoder, EncoderConfig  # noqa: E402
from train.model import Classifier  # noqa: E402
from train.onnx_graph import build_graph  # noqa: E402

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def graph() -> onnx.ModelProto:
    torch.manual_seed(0)
    config = EncoderConfig(
        num_frames=64, num_mel_bins=128, dim=64, depth=2, num_heads=2,
        patch_bins=128, patch_frames=4, stride_bins=128, stride_frames=4,
    )  # fmt: skip
    model = Classifier(Encoder(config), 3, mean=-4.0, std=4.0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return build_graph(model)


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    return RNG.normal(-4, 4, (12, 64, 128)).astype(np.float32)


@pytest.fixture(scope="module")
def path(graph: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("model") / "model.onnx"
    onnx.save(graph, target)
    return target


def histogram(values: np.ndarray) -> AbsHistogram:
    top = float(np.abs(values).max())
    return AbsHistogram(np.histogram(np.abs(values), BINS, (0, top))[0], top)


def rounding_error(values: np.ndarray, threshold: float) -> float:
    scale = threshold / 127
    kept = np.clip(np.round(values / scale), -127, 127) * scale
    return float(np.square(values - kept).mean())


def test_observers_keep_the_bulk_and_drop_a_lonely_peak() -> None:
    seen = histogram(np.append(RNG.standard_normal(200_000), 60.0))
    assert METHODS["min-max"](seen) == 60
    assert 3 < percentile(seen) < 12
    assert 3 < entropy(seen) < 12
    assert 3 < mse(seen) < 40, "a peak of 60 costs its square"


def test_the_mse_observer_errs_least() -> None:
    values = RNG.laplace(size=100_000)
    seen = histogram(values)
    errors = {name: rounding_error(values, method(seen)) for name, method in METHODS.items()}
    assert min(errors, key=lambda name: errors[name]) == "mse"


def test_without_outliers_all_observers_keep_nearly_everything() -> None:
    seen = histogram(RNG.uniform(-2, 2, 100_000))
    for name, method in METHODS.items():
        assert method(seen) > 1.8, name


@pytest.mark.parametrize("axis", [0, 1])
def test_weights_have_a_scale_for_each_output_channel(axis: int) -> None:
    weight = RNG.standard_normal((6, 5)).astype(np.float32)
    weight[:, 2] *= 100
    values, scales = quantize_weight(weight, axis)
    spread = scales[:, None] if axis == 0 else scales[None]
    assert len(scales) == weight.shape[axis]
    assert np.abs(values).max() == 127
    assert (np.abs(values * spread - weight) <= spread / 2 + 1e-6).all()


def test_only_linear_layers_are_quantised(
    graph: onnx.ModelProto, path: Path, windows: np.ndarray
) -> None:
    seen = calibrate(path, windows)
    changed = quantize_graph(graph, seen.thresholds("mse"), ["head"])
    onnx.checker.check_model(changed)
    layers = [layer.name for layer in linear_layers(graph)]
    assert len(layers) == 2 * 4 + 1
    count = [n.op_type for n in changed.graph.node].count
    assert count("QuantizeLinear") == 8
    assert count("DequantizeLinear") == 16
    zeros = [w for w in changed.graph.initializer if w.name.endswith("zero")]
    assert all(not onnx.numpy_helper.to_array(zero).any() for zero in zeros)
    assert all(w.data_type == onnx.TensorProto.INT8 for w in zeros)
    kept = {w.name for w in changed.graph.initializer}
    assert "head.weight" in kept
    assert "blocks.0.attn.qkv.weight" not in kept, "the float weights are gone"
    assert "blocks.0.attn.qkv.bias" in kept, "the bias stays float"
    wanted = [v[0] for v in run_graph(graph, windows, ["logits"])]
    found = [v[0] for v in run_graph(changed, windows, ["logits"])]
    scale = np.abs(wanted).max()
    assert 0 < np.abs(np.array(found) - np.array(wanted)).max() < 0.1 * scale


def test_a_cache_is_read_again_and_anothers_is_refused(
    path: Path, windows: np.ndarray, tmp_path: Path
) -> None:
    cache = tmp_path / "calibration.json"
    made = calibrate(path, windows, cache)
    before = cache.stat().st_mtime_ns
    again = calibrate(path, windows, cache)
    assert cache.stat().st_mtime_ns == before
    assert again.thresholds("entropy") == made.thresholds("entropy")
    calibrate(path, windows[:6], cache)  # other audio: made anew
    assert cache.stat().st_mtime_ns > before
    other = onnx.load(path)
    other.producer_version = "another"
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(CalibrationError, match="calibrated for another model"):
        calibrate(tmp_path / "other.onnx", windows, cache)
    cache.write_text('{"format": 2}')
    with pytest.raises(CalibrationError, match="damaged calibration cache"):
        calibrate(path, windows, cache)


def test_silent_or_absent_audio_is_refused(path: Path, windows: np.ndarray) -> None:
    for bad, message in (
        (windows[:0], "no calibration audio"),
        (np.zeros_like(windows), "silent"),
        (np.full_like(windows, np.nan), "silent or broken"),
    ):
        with pytest.raises(CalibrationError, match=message):
            calibrate(path, bad)


@pytest.fixture(scope="module")
def bundle(graph: onnx.ModelProto, path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    fbank = RNG.normal(-4, 4, (64, 128)).astype(np.float32)
    (logits,) = next(run_graph(graph, fbank[None], ["logits"]))
    folder = tmp_path_factory.mktemp("bundle") / "b"
    front_end = {
        "sample_rate": 16000, "num_mel_bins": 128, "window_ms": 25.0, "hop_ms": 10.0,
        "low_hz": 20.0, "preemphasis": 0.97,
    }  # fmt: skip
    write_bundle(
        folder,
        {
            "name": "noises", "version": "0.1.0", "task": "audio-tagging",
            "labels": ["a", "b", "c"], "fbank": front_end,
            "normalization": {"mean": -4.0, "std": 4.0}, "window_frames": 64, "hop_ms": 100,
            "activation": "softmax", "triggers": {}, "provenance": {}, "data": [],
            "models": [{"backend": "onnx", "precision": "fp32", "file": "model.onnx"}],
            "licence": "none",
        },
        {"model.onnx": path}, golden_fbank=fbank, golden_logits=logits[0],
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audio")
    (folder / "noise").mkdir()
    for i in range(10):
        soundfile.write(folder / "noise" / f"{i}.wav", 0.1 * RNG.standard_normal(9000), 16000)
    (folder / "noise" / "broken.wav").write_bytes(b"RIFF")
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_writes_graph_cache_and_report(
    bundle: Path, audio: Path, tmp_path: Path
) -> None:
    result = run("quantize", bundle, "--audio", audio, "--out", tmp_path / "int8")
    assert result.exit_code == 0, result.output
    names = {path.name for path in (tmp_path / "int8").iterdir()}
    assert names == {
        "model.int8.onnx", "model.int8-trt.onnx", "calibration.json", "quantization.json",
        "quantization.md",
    }  # fmt: skip
    report = json.loads((tmp_path / "int8" / "quantization.json").read_text())
    assert (report["calibrated"], report["judged"]) == (8, 2)
    assert set(report["observers"]) == set(METHODS)
    assert len(report["sensitivity"]) == 1 + 2 * 4
    assert report["judgement"]["difference"]["mean"] <= report["logit_budget"]
    assert report["int8_bytes"] < 0.5 * report["float_bytes"]


def test_sensitive_layers_stay_float_until_the_budget_is_met(
    bundle: Path, audio: Path, tmp_path: Path
) -> None:
    run("quantize", bundle, "--audio", audio, "--out", tmp_path / "all", "--budget", 9)
    whole = json.loads((tmp_path / "all" / "quantization.json").read_text())
    budget = whole["judgement"]["difference"]["mean"] / 2
    run("quantize", bundle, "--audio", audio, "--out", tmp_path / "some", "--budget", budget)
    some = json.loads((tmp_path / "some" / "quantization.json").read_text())
    assert not whole["excluded"]
    assert some["excluded"]
    assert some["judgement"]["difference"]["mean"] <= budget
    result = run("quantize", bundle, "--audio", audio, "--out", tmp_path / "n", "--budget", 1e-9)
    assert result.exit_code == 1
    assert "cannot be met" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "n" / "model.int8.onnx").exists()


def test_a_mistake_is_one_line(bundle: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ((tmp_path, "--audio", tmp_path), "not a bundle folder"),
        ((bundle, "--audio", tmp_path / "none.csv"), "no such manifest"),
    ):
        result = run("quantize", *arguments, "--out", tmp_path / "out")
        assert result.exit_code == 1
        assert message in result.stderr.splitlines()[-1]
