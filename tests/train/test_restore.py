"""A bundle becomes a checkpoint again, and that checkpoint the same bundle."""

import dataclasses
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from ssast_edge.bundle import Bundle, load_bundle
from train.checkpoint import CheckpointError, load_classifier
from train.export import export_bundle
from train.recipe import RecipeError, load_recipe
from train.restore import restore

RECIPE = Path(__file__).parents[2] / "train" / "recipes" / "windows" / "wake_words.toml"


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return load_bundle("wake-words")


@pytest.fixture(scope="module")
def restored(shipped: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return restore(shipped, tmp_path_factory.mktemp("restored") / "last")


def test_a_restored_model_gives_the_bundles_logits(shipped: Bundle, restored: Path) -> None:
    model, checkpoint = load_classifier(restored)
    assert checkpoint.classes == shipped.labels
    with torch.no_grad():
        logits = model(torch.from_numpy(shipped.golden.fbank)[None])[0].numpy()
    np.testing.assert_allclose(logits, shipped.golden.logits, atol=1e-4)


def test_licences_survive_the_round_trip_and_so_do_weights(
    shipped: Bundle, restored: Path, tmp_path: Path
) -> None:
    export_bundle(restored, tmp_path / "bundle", triggers=shipped.triggers)
    again = load_bundle(tmp_path / "bundle")
    assert again.data == shipped.data
    assert again.licence == shipped.licence
    twice = restore(again, tmp_path / "twice")  # this one tells its recipe itself
    model = load_classifier(twice)[0]
    window = (
        np.random.default_rng(0).normal(-9, 5, (1, again.window_frames, 128)).astype(np.float32)
    )
    with torch.no_grad():
        logits = model(torch.from_numpy(window)).numpy()
    session = onnxruntime.InferenceSession(again.path / "model.onnx")
    np.testing.assert_allclose(logits, session.run(None, {"fbank": window})[0], atol=1e-4)


def test_what_does_not_belong_together_is_one_line(
    shipped: Bundle, restored: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="is there already: not replaced"):
        restore(shipped, restored)
    with pytest.raises(RecipeError, match="--recipe gives another"):
        restore(dataclasses.replace(shipped, provenance={}), tmp_path / "a")
    other = load_recipe(RECIPE)  # of the first round, another shape
    with pytest.raises(CheckpointError, match="weights do not fit"):
        restore(shipped, tmp_path / "a", other)
    assert not (tmp_path / "a").exists()
