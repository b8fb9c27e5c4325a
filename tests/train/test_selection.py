"""The best checkpoint is the one that misses least on a validation track."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from ssast_edge.bundle import load_bundle
from ssast_edge.evaluation.scores import run_bundle
from ssast_edge.evaluation.track import build_track
from train.checkpoint import load_checkpoint, load_classifier
from train.config import EngineConfig
from train.keywords import train_keywords
from train.recipe import KeywordRecipe, SelectionConfig
from train.selection import HeardTrack, log_mel
from train.triggers import as_recording, track_clips

from .conftest import ONE_CORE


def test_scores_are_those_of_the_runtime(
    tiny_checkpoint: Path, tiny_bundle: Path, tiny_data: Path, tiny_recipe: KeywordRecipe
) -> None:
    clips = track_clips(tiny_data, "val", tiny_recipe.labels)
    track = build_track([as_recording(c, tiny_recipe.labels) for c in clips], seed=0)
    model, _ = load_classifier(tiny_checkpoint)
    heard = HeardTrack(track, log_mel(tiny_recipe, track.samples))
    with torch.no_grad():
        ours = heard.scores(model.eval(), tiny_recipe, torch.device("cpu"))
    theirs = run_bundle(load_bundle(tiny_bundle), track.samples[:])
    assert np.allclose(ours.times_s, theirs.times_s)
    assert np.abs(ours.scores - theirs.scores).max() < 0.01  # features in half precision


def test_a_run_keeps_the_best_weights(
    tiny_data: Path, tiny_recipe: KeywordRecipe, tmp_path: Path
) -> None:
    recipe = dataclasses.replace(
        tiny_recipe,
        selection=SelectionConfig(false_accepts_per_hour=20.0),
        engine=EngineConfig(precision="32-true", validate_every_steps=6),
    )
    out = tmp_path / "run"
    train_keywords(recipe, data=tiny_data, synthetic=(), out=out, machine=ONE_CORE, jobs=1)
    rows = list(csv.DictReader((out / "validation.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [6, 12]
    assert {"missed", "missed_clean", "missed_noisy"} <= set(rows[0])
    best = min(rows, key=lambda row: float(row["missed"]))
    assert load_checkpoint(out / "best").step == int(best["step"])


def test_a_rate_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="0 or more"):
        SelectionConfig(false_accepts_per_hour=-1)
