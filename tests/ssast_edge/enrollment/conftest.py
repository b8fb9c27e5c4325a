"""A bundle that can be taught words: its embedding is the mean log-mel of stretches of time.

No trained model: the graph is written by hand, its background made of noise and of synthetic
sentences, so that the tests need neither torch nor a bundle that ships.
"""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ssast_edge.audio import read_audio
from ssast_edge.backends import open_backend
from ssast_edge.bundle import Bundle, bundle_parts, load_bundle, rewrite_bundle, write_bundle
from ssast_edge.enrollment.background import ARRAYS, STEP, Background, packed
from ssast_edge.enrollment.stretches import PARTS
from ssast_edge.fbank import FbankConfig, fbank
from ssast_edge.trigger import TriggerConfig

FloatArray = NDArray[np.float32]

RATE, BINS, FRAMES, HOP_MS = 16_000, 128, 140, 80
SEGMENTS, RANK = 10, 12
LABELS = ("low_tone", "high_tone")
NOISE = 3e-3  # of a room; digital silence would be told from any other by itself
SENTENCES = (
    "the weather will be mild and dry tomorrow with some clouds in the afternoon",
    "he opened the second window and looked at the garden behind the old house",
    "please read the first paragraph again before you answer any of the questions",
    "a hundred and twenty people came to see the match although it was raining",
)
VOICES = ("en-us+m1", "en-us+m3", "en-gb+m7", "en-us+f2", "en-gb+m5", "en-us+m2")


def graph() -> onnx.ModelProto:
    """Logits of two bands, and (1, SEGMENTS, BINS) means over time, less the window's own mean."""
    weights = np.zeros((BINS, len(LABELS)), np.float32)
    weights[18:28, 0] = weights[78:88, 1] = 0.1
    weights -= 1 / BINS
    constants = {
        "weights": weights,
        "bias": np.full(len(LABELS), -5, np.float32),
        "shape": np.array([1, SEGMENTS, FRAMES // SEGMENTS, BINS], np.int64),
    }
    nodes = [
        helper.make_node("ReduceMean", ["fbank"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Gemm", ["mean", "weights", "bias"], ["logits"]),
        helper.make_node("ReduceMean", ["fbank"], ["level"], axes=[1, 2], keepdims=1),
        helper.make_node("Sub", ["fbank", "level"], ["levelled"]),
        helper.make_node("Reshape", ["levelled", "shape"], ["stretches"]),
        helper.make_node("ReduceMean", ["stretches"], ["embedding"], axes=[2], keepdims=0),
    ]

    def port(name: str, *shape: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    made = helper.make_graph(
        nodes,
        "voices",
        [port("fbank", 1, FRAMES, BINS)],
        [port("logits", 1, len(LABELS)), port("embedding", 1, SEGMENTS, BINS)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="session")
def say(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., FloatArray]:
    """Makes a recording of a text in a voice of espeak-ng, with quiet around it."""
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed: apt install espeak-ng")
    folder = tmp_path_factory.mktemp("voices")
    made: dict[tuple[str, str, int], FloatArray] = {}

    def speak(text: str, voice: str = VOICES[0], speed: int = 160) -> FloatArray:
        key = text, voice, speed
        if key not in made:
            path = folder / f"{len(made)}.wav"
            subprocess.run(
                ["espeak-ng", "-v", voice, "-s", str(speed), "-w", str(path), text], check=True
            )
            samples = np.pad(0.5 * read_audio(path), RATE // 3)
            rng = np.random.default_rng(len(made))
            made[key] = (samples + NOISE * rng.standard_normal(len(samples))).astype(np.float32)
        return made[key]

    return speak


@pytest.fixture(scope="session")
def bare_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a bundle with an embedding and without a background; not to be changed."""
    folder = tmp_path_factory.mktemp("bare")
    onnx.save(graph(), folder / "model.onnx")
    golden = np.random.default_rng(1).normal(-5, 3, (FRAMES, BINS)).astype(np.float32)
    weights, bias = (numpy_helper.to_array(w) for w in graph().graph.initializer[:2])
    manifest: dict[str, Any] = {
        "name": "voices",
        "version": "1.0",
        "task": "keyword-spotting",
        "labels": list(LABELS),
        "fbank": FbankConfig(),
        "normalization": {"mean": 0.0, "std": 0.5},
        "window_frames": FRAMES,
        "hop_ms": HOP_MS,
        "activation": "sigmoid",
        "models": [{"backend": "onnx", "precision": "fp32", "file": "model.onnx"}],
        "triggers": dict.fromkeys(LABELS, TriggerConfig(threshold=0.8)),
        "provenance": {"made": "by hand"},
        "data": [
            {"name": "none", "licence": "CC0-1.0", "attribution": "nobody", "source": "nowhere"}
        ],
        "licence": "Apache-2.0",
        "embedding": {"segments": SEGMENTS, "width": BINS},
    }
    return write_bundle(
        folder / "bundle",
        manifest,
        {"model.onnx": folder / "model.onnx"},
        golden_fbank=golden,
        golden_logits=golden.mean(axis=0) @ weights + bias,
        model_card="# Voices\n",
    ).path


@pytest.fixture(scope="session")
def voice_folder(
    bare_folder: Path, say: Callable[..., FloatArray], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Folder of the same bundle with a background; not to be changed."""
    bundle = load_bundle(bare_folder)
    texts = [(text, voice) for text in SENTENCES for voice in VOICES]
    speech = np.concatenate([say(text, voice) for text, voice in texts])
    rng = np.random.default_rng(3)
    noise = rng.standard_normal(20 * RATE).astype(np.float32) * np.repeat(
        10 ** rng.uniform(-3.5, -1, 20), RATE
    ).astype(np.float32)
    features = fbank(np.concatenate([speech, noise]))
    backend = open_backend(bundle, embeds=True)
    stops = range(FRAMES, len(features), 13)
    rows = [
        backend.infer_both(np.ascontiguousarray(features[stop - FRAMES : stop]))[1]
        for stop in stops
    ]
    folder = tmp_path_factory.mktemp("voice")
    np.savez_compressed(folder / "background.npz", **background_arrays(np.stack(rows)))
    manifest, files = bundle_parts(bundle)
    manifest["embedding"]["background"] = "background.npz"
    files["background.npz"] = folder / "background.npz"
    return rewrite_bundle(bundle, folder / "bundle", manifest, files).path


@pytest.fixture
def voices(voice_folder: Path, tmp_path: Path) -> Bundle:
    """A copy of that bundle of the test's own."""
    shutil.copytree(voice_folder, tmp_path / "voices")
    return load_bundle(tmp_path / "voices")


def background_arrays(embeddings: FloatArray) -> dict[str, NDArray[Any]]:
    """Principal directions of the rows of embeddings (N, SEGMENTS, BINS)."""
    embeddings = np.random.default_rng(4).permutation(embeddings)
    rows = embeddings.reshape(-1, BINS)
    spread, vectors = np.linalg.eigh(np.cov(rows.T))
    basis = vectors[:, ::-1][:, :RANK] / np.sqrt(spread[::-1][:RANK])
    arrays = packed(
        Background(
            mean=rows.mean(axis=0),
            basis=basis,
            within=np.eye(PARTS * RANK, dtype=np.float32),
            windows=(embeddings - rows.mean(axis=0)) @ basis,
        )
    )
    assert set(arrays) == {*ARRAYS, STEP}
    return arrays
