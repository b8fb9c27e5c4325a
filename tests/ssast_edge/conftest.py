"""A tiny real bundle: which of two tones is in the audio, told from mean band energies.

Its ONNX graph is written by hand (mean over the frames, one matrix), so the tests of the
runtime need neither torch nor a trained model.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ssast_edge.bundle import Bundle, load_bundle, write_bundle
from ssast_edge.fbank import FbankConfig
from ssast_edge.trigger import TriggerConfig

FloatArray = NDArray[np.float32]

SAMPLE_RATE = 16_000
NUM_BINS = 128
WINDOW_FRAMES = 20
HOP_MS = 40
LABELS = ("low_tone", "high_tone", "other")
LOW_HZ, HIGH_HZ = 440.0, 3000.0
# Mel bins around the two tones.
BANDS = {"low_tone": slice(18, 28), "high_tone": slice(78, 88)}


def _weights() -> tuple[FloatArray, FloatArray]:
    """Mean energy of a label's band above the mean of all bands; "other" is always unlikely."""
    weights = np.zeros((NUM_BINS, len(LABELS)), np.float32)
    for index, label in enumerate(LABELS):
        if label in BANDS:
            weights[:, index] = -1 / NUM_BINS
            weights[BANDS[label], index] += 1 / 10
    return weights, np.array([-3, -3, -6], np.float32)


def _onnx_model(num_labels: int = len(LABELS)) -> onnx.ModelProto:
    weights, bias = (array[..., :num_labels] for array in _weights())
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["fbank"], ["mean"], axes=[1], keepdims=0),
            helper.make_node("Gemm", ["mean", "weights", "bias"], ["logits"]),
        ],
        "tones",
        [helper.make_tensor_value_info("fbank", TensorProto.FLOAT, [1, WINDOW_FRAMES, NUM_BINS])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, num_labels])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _tone_logits(fbank: FloatArray) -> FloatArray:
    """What the graph computes, in numpy."""
    weights, bias = _weights()
    logits: FloatArray = fbank.mean(axis=0) @ weights + bias
    return logits


@pytest.fixture
def onnx_model() -> Callable[..., onnx.ModelProto]:
    """The tone model as an ONNX graph, of so many labels."""
    return _onnx_model


@pytest.fixture(scope="session")
def tone_logits() -> Callable[[FloatArray], FloatArray]:
    """The tone model in numpy: (frames, bins) to (labels,)."""
    return _tone_logits


@pytest.fixture(scope="session")
def tone_manifest() -> dict[str, Any]:
    """What `write_bundle` wants to know of the tone bundle; make a copy to change it."""
    trigger = TriggerConfig(threshold=0.5, smoothing_ms=80, min_hits=2, refractory_s=0.5)
    return {
        "name": "tones",
        "version": "1.2.3",
        "task": "keyword-spotting",
        "labels": list(LABELS),
        "fbank": FbankConfig(),
        "normalization": {"mean": 0.0, "std": 0.5},
        "window_frames": WINDOW_FRAMES,
        "hop_ms": HOP_MS,
        "activation": "sigmoid",
        "models": [{"backend": "onnx", "precision": "fp32", "file": "model.onnx"}],
        "triggers": {"low_tone": trigger, "high_tone": trigger},
        "provenance": {"made": "by hand", "seed": 1},
        "data": [
            {"name": "none", "licence": "CC0-1.0", "attribution": "nobody", "source": "nowhere"}
        ],
        "licence": "Apache-2.0",
    }


@pytest.fixture(scope="session")
def write_tones(
    tmp_path_factory: pytest.TempPathFactory, tone_manifest: dict[str, Any]
) -> Callable[..., Bundle]:
    """Write a tone bundle into a folder, with some keys of the manifest changed."""
    model = tmp_path_factory.mktemp("model") / "model.onnx"
    model.write_bytes(_onnx_model().SerializeToString())

    def write(folder: Path, **changes: Any) -> Bundle:
        golden = np.random.default_rng(1).normal(-5, 3, (WINDOW_FRAMES, NUM_BINS))
        return write_bundle(
            folder,
            {**tone_manifest, **changes},
            {"model.onnx": model},
            golden_fbank=golden.astype(np.float32),
            golden_logits=_tone_logits(golden.astype(np.float32)),
            model_card="# Tones\n",
        )

    return write


@pytest.fixture(scope="session")
def tone_folder(
    tmp_path_factory: pytest.TempPathFactory, write_tones: Callable[..., Bundle]
) -> Path:
    """Folder of the tone bundle; not to be changed."""
    return write_tones(tmp_path_factory.mktemp("bundles") / "tones").path


@pytest.fixture(scope="session")
def tone_bundle(tone_folder: Path) -> Bundle:
    """The tone bundle, loaded."""
    return load_bundle(tone_folder)


@pytest.fixture(scope="session")
def tone_audio() -> Callable[..., FloatArray]:
    """Makes audio: quiet noise with tones at (start_s, end_s, hz)."""

    def make(length_s: float, *tones: tuple[float, float, float]) -> FloatArray:
        rng = np.random.default_rng(2)
        samples = 1e-3 * rng.standard_normal(round(length_s * SAMPLE_RATE))
        time_s = np.arange(len(samples)) / SAMPLE_RATE
        for start_s, end_s, hz in tones:
            within = (time_s >= start_s) & (time_s < end_s)
            samples[within] += 0.3 * np.sin(2 * np.pi * hz * time_s[within])
        return samples.astype(np.float32)

    return make
