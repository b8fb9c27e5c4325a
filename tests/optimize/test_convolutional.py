"""Convolutional teachers: they train and resume, teach a transformer, and never ship."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from optimize.pruning.distill import distill
from optimize.pruning.prune import PruneConfig, prune
from optimize.pruning.recovery import DistillConfig, load_teacher
from tests.optimize.conftest import ONE_CORE
from train.checkpoint import CheckpointError, load_checkpoint, load_classifier, load_teaching
from train.config import ModelConfig
from train.convolutional import ConvolutionalClassifier, ConvolutionConfig
from train.export import export_bundle
from train.keywords import train_keywords
from train.recipe import KeywordRecipe, RecipeError, SelectionConfig, load_recipe
from train.task import Places

RECIPES = Path(__file__).parents[2] / "train" / "recipes"


@pytest.fixture(scope="module")
def recipe(tiny_recipe: KeywordRecipe) -> KeywordRecipe:
    return replace(
        tiny_recipe, name="teacher", model=ModelConfig(),
        convolution=ConvolutionConfig(widths=(4, 8, 8)),
        optimizer=replace(tiny_recipe.optimizer, steps=6),
        engine=replace(tiny_recipe.engine, save_every_steps=3),
    )  # fmt: skip


@pytest.fixture(scope="module")
def places(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Places:
    pool = tmp_path_factory.mktemp("pool")
    return Places(data=tiny_data, synthetic=None, pool=pool, jobs=1)


@pytest.fixture(scope="module")
def teacher(
    recipe: KeywordRecipe, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A checkpoint, not to be changed."""
    out = tmp_path_factory.mktemp("teacher") / "run"
    return run(recipe, tiny_data, out)


def run(recipe: KeywordRecipe, data: Path, out: Path, init: Path | None = None) -> Path:
    return train_keywords(
        recipe, data=data, synthetic=None, out=out, machine=ONE_CORE, jobs=1, init=init
    )


def test_windows_of_any_length_and_level_give_logits(teacher: Path) -> None:
    model, state = load_teaching(teacher)
    assert isinstance(model, ConvolutionalClassifier)
    for frames in (17, 152, 304):
        fbank = torch.from_numpy(np.random.default_rng(0).normal(-9, 4, (2, frames, 128)))
        logits = model(fbank.float())
        assert logits.shape == (2, len(state.classes))
        assert torch.isfinite(logits).all()
    assert torch.isfinite(model(torch.zeros(1, 152, 128))).all()


def test_it_resumes_to_the_bit_running_statistics_included(
    recipe: KeywordRecipe, teacher: Path, tiny_data: Path, tmp_path: Path
) -> None:
    started = replace(recipe, engine=replace(recipe.engine, save_every_steps=100))
    constant = replace(
        started.optimizer, steps=3, warmup_steps=0, schedule="steps", decay_from_epoch=100
    )
    half = replace(started, optimizer=constant)
    whole = replace(half, optimizer=replace(half.optimizer, steps=6))
    at_once = load_checkpoint(run(whole, tiny_data, tmp_path / "whole"))
    run(half, tiny_data, tmp_path / "parts")
    checkpoint = tmp_path / "parts" / "last" / "checkpoint.json"
    checkpoint.write_text(checkpoint.read_text().replace('"steps": 3', '"steps": 6'))
    in_parts = load_checkpoint(run(whole, tiny_data, tmp_path / "parts"))
    for name in ("model", "average"):
        one, other = getattr(at_once, name), getattr(in_parts, name)
        assert any("running_mean" in key for key in one)
        differing = {
            k: float((one[k] - other[k]).abs().max())
            for k in one
            if not torch.equal(one[k], other[k])
        }
        assert not differing


def test_a_transformer_learns_what_it_says(
    tiny_recipe: KeywordRecipe, teacher: Path, places: Places, tmp_path: Path
) -> None:
    student = replace(
        tiny_recipe,
        optimizer=replace(tiny_recipe.optimizer, steps=60, learning_rate=3e-3),
    )

    def apart(model: torch.nn.Module) -> float:
        fbank = torch.from_numpy(np.random.default_rng(0).normal(-9, 4, (64, 96, 128))).float()
        teacher_says, _ = load_teacher(teacher, student, student.labels)(fbank)
        with torch.no_grad():
            return float((model(fbank).sigmoid() - teacher_says.sigmoid()).abs().mean())

    config = DistillConfig(teacher_share=1.0)
    short = replace(student, optimizer=replace(student.optimizer, steps=1, warmup_steps=0))
    before, after = (
        load_classifier(
            distill(r, teacher, tmp_path / name, config, places=places, machine=ONE_CORE)
        )[0]
        for name, r in (("before", short), ("after", student))
    )
    assert apart(after) < 0.7 * apart(before)


@pytest.mark.parametrize(
    "work",
    [
        lambda teacher, out: export_bundle(teacher, out / "bundle"),
        lambda teacher, out: prune(
            teacher, out / "pruned", PruneConfig(macs=0.5), places=Places(), machine=ONE_CORE,
        ),
    ],
    ids=["export", "prune"],
)  # fmt: skip
def test_what_only_teaches_is_one_line(
    teacher: Path, tmp_path: Path, work: Callable[[Path, Path], object]
) -> None:
    with pytest.raises((CheckpointError, RecipeError), match="only teaches, distil from it"):
        work(teacher, tmp_path)
    assert not list(tmp_path.iterdir())


def test_it_starts_from_no_encoder(recipe: KeywordRecipe, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"--init .* \[convolution\] has none"):
        run(recipe, tiny_data, tmp_path / "run", init=RECIPES.parents[1] / "encoders/edge-frame")


def test_nothing_starts_from_it(
    tiny_recipe: KeywordRecipe, teacher: Path, tiny_data: Path, tmp_path: Path
) -> None:
    with pytest.raises((CheckpointError, RecipeError), match="only teaches"):
        run(tiny_recipe, tiny_data, tmp_path / "run", init=teacher)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ModelConfig(dim=64)}, r"\[model\] and \[convolution\] exclude"),
        ({"selection": SelectionConfig(false_accepts_per_hour=1.0)}, "only teaches"),
    ],
)
def test_recipes_that_mean_two_things_are_refused(
    recipe: KeywordRecipe, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(recipe, **changes)


def test_widths_that_make_no_network_are_one_line() -> None:
    with pytest.raises(RecipeError, match=r"sounds_teacher\.toml: convolution: widths must be"):
        load_recipe(RECIPES / "sounds_teacher.toml", ("convolution.widths=[16]",))
