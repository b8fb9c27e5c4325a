"""Every bundle that ships opens, answers as when it was made, and says what it was made of."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ssast_edge
from ssast_edge import Spotter, load_bundle
from ssast_edge.backends import Backend, open_backend

FOLDER = Path(ssast_edge.__file__).parent / "bundles"
NAMES = sorted(path.name for path in FOLDER.iterdir() if (path / "bundle.json").is_file())


def test_these_ship() -> None:
    assert NAMES == ["commands", "joint", "sounds", "wake-words"]


@pytest.mark.parametrize("name", NAMES)
def test_it_answers_as_when_it_was_made(name: str) -> None:
    bundle = load_bundle(name)
    assert (bundle.models[0].backend, bundle.models[0].precision) == ("onnx", "int8")
    for model in bundle.models:
        if model.backend == "onnx":
            backend = open_backend(bundle, kind="onnx", precision=model.precision)
            logits = backend.infer(bundle.golden.fbank)
            allowed = model.tolerance or bundle.golden.tolerance
            assert np.abs(logits - bundle.golden.logits).max() <= allowed


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_was_made_of_and_nothing_is_non_commercial(name: str) -> None:
    bundle = load_bundle(name)
    assert bundle.data
    assert not any("NC" in source["licence"].split("-") for source in bundle.data)
    assert all(source["attribution"] for source in bundle.data)
    assert bundle.model_card
    card = (bundle.path / bundle.model_card).read_text(encoding="utf-8")
    assert card.startswith(f"# {name}\n")


@pytest.mark.parametrize("name", NAMES)
def test_silence_fires_nothing(name: str) -> None:
    assert Spotter(load_bundle(name)).push(np.zeros(16000 * 8, np.float32)) == []


@pytest.mark.parametrize("name", ["joint", "sounds"])
def test_sounds_have_a_trigger_each(name: str) -> None:
    bundle = load_bundle(name)
    assert set(bundle.triggers) == set(bundle.labels)


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_joint_tells_what_wake_words_and_sounds_tell(precision: str) -> None:
    """They share their first blocks: nothing is lost by computing these once."""
    joint, words, sounds = (load_bundle(name) for name in ("joint", "wake-words", "sounds"))
    assert joint.labels == (*words.labels, *sounds.labels)
    assert joint.triggers == {**words.triggers, **sounds.triggers}
    one, *two = (
        open_backend(bundle, kind="onnx", precision=precision) for bundle in (joint, words, sounds)
    )
    whole = joint.golden.fbank
    for window in (whole, whole[::-1], np.roll(whole, 40, axis=0)):
        _told_alike(one, two, window, None)
    stream = np.concatenate([whole, whole[::-1], 0.5 * whole])
    for stop in range(len(whole), len(stream) + 1, 8):  # keys and values are kept from hop to hop
        _told_alike(one, two, stream[stop - len(whole) : stop], 8 if stop > len(whole) else None)


def _told_alike(one: Backend, two: list[Backend], window: Any, new_frames: int | None) -> None:
    window = np.ascontiguousarray(window)
    wanted = np.concatenate([backend.infer(window, new_frames=new_frames) for backend in two])
    np.testing.assert_allclose(one.infer(window, new_frames=new_frames), wanted, rtol=0, atol=1e-4)
