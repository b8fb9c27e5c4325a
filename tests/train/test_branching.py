"""Two models that share their first blocks become one; each label scores as in its own."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result

from ssast_edge import load_bundle
from train.__main__ import main
from train.branching import join
from train.checkpoint import (
    Checkpoint,
    CheckpointError,
    build_model,
    load_checkpoint,
    load_classifier,
    load_tagger,
    save_checkpoint,
)
from train.config import ModelConfig
from train.export import export_bundle
from train.initial import fingerprint_of, read_any
from train.recipe import KeywordRecipe, RecipeError, StreamRecipe, parse_recipe, recipe_table
from train.restore import restore
from train.sequences import SequenceConfig

WORDS, SOUNDS = ("alexa", "jarvis"), ("dog", "rain")
FIRST, SECOND = (*WORDS, "bed"), (*WORDS, "bed", *SOUNDS)


@pytest.fixture(scope="module")
def recipe(tiny_recipe: KeywordRecipe) -> StreamRecipe:
    return StreamRecipe(
        name="words",
        labels=WORDS,
        auxiliary_labels=("bed",),
        optimizer=tiny_recipe.optimizer,
        data=tiny_recipe.data,
        model=ModelConfig(
            dim=16, depth=3, num_heads=2, mlp_ratio=2.0, patch_frames=8, stride_frames=4, context=6
        ),
        sequences=SequenceConfig(num_frames=160),
        window_frames=100,
    )


def save(folder: Path, recipe: StreamRecipe, classes: tuple[str, ...], **changes: Any) -> Path:
    """A checkpoint of random weights; what `changes` names is put in their place."""
    torch.manual_seed(len(classes))
    weights = {
        name: value + 0.2 * torch.randn(value.shape) if "." in name else value
        for name, value in build_model(recipe, classes, -5.0, 4.0).state_dict().items()
    } | changes.pop("weights", {})
    state = {"mean": -5.0, "std": 4.0, "progress": {"sources": ["wake_words"]}, **changes}
    save_checkpoint(
        folder,
        Checkpoint(recipe=recipe, classes=classes, step=6, model=weights, average=weights,
                   optimizer={}, **state),
    )  # fmt: skip
    return folder


def trunk(path: Path, blocks: int) -> dict[str, torch.Tensor]:
    begin = ("encoder.patch_embed.", *(f"encoder.blocks.{i}." for i in range(blocks)))
    return {k: v for k, v in load_checkpoint(path).average.items() if k.startswith(begin)}


@pytest.fixture(scope="module")
def first(recipe: StreamRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("branch") / "first", recipe, FIRST)


@pytest.fixture(scope="module")
def heard(recipe: StreamRecipe) -> StreamRecipe:
    """Of the second."""
    return dataclasses.replace(
        recipe, name="sounds", labels=(*WORDS, *SOUNDS), auxiliary_labels=("bed",), frozen_blocks=1
    )


@pytest.fixture(scope="module")
def second(heard: StreamRecipe, first: Path) -> Path:
    changes = {"progress": {"sources": ["wake_words", "esc10"]}, "weights": trunk(first, 1)}
    return save(first.parent / "second", heard, SECOND, **changes)


@pytest.fixture(scope="module")
def joined(first: Path, second: Path) -> Path:
    out = first.parent / "joined"
    result = call("join", first, second, "--name", "both", "--out", out)
    assert result.exit_code == 0, result.output
    assert result.output == f"shared blocks: 1; {out}\n"
    return out


def call(*command: object) -> Result:
    return CliRunner().invoke(main, [str(part) for part in command])


def refusal(*command: object) -> str:
    result = call(*command)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


def test_each_label_scores_as_in_its_own_model(first: Path, second: Path, joined: Path) -> None:
    sequences = torch.randn(2, 160, 128, generator=torch.Generator().manual_seed(0)) * 4 - 5
    with torch.no_grad():
        ours, its, both = (load_tagger(path)[0](sequences) for path in (first, second, joined))
    assert load_checkpoint(joined).classes == (*WORDS, *SOUNDS)
    torch.testing.assert_close(both[..., :2], ours[..., :2], rtol=0, atol=1e-5)
    torch.testing.assert_close(both[..., 2:], its[..., 3:], rtol=0, atol=1e-5)
    assert both.std(dim=(0, 1)).min() > 0.01, "or equal scores would tell nothing"


def test_what_is_shared_is_there_once(first: Path, second: Path, joined: Path) -> None:
    def blocks(path: Path) -> int:
        return len(load_tagger(path)[0].encoder.blocks)

    assert (blocks(first), blocks(second), blocks(joined)) == (3, 3, 5)
    model = load_checkpoint(joined).recipe.model
    assert (model.depth, model.branch_from, model.branch_depth) == (3, 1, 2)


def test_a_label_of_the_second_can_be_left_out(first: Path, second: Path, tmp_path: Path) -> None:
    out = tmp_path / "rain"
    result = call("join", first, second, "--name", "rainy", "--label", "rain", "--out", out)
    assert result.exit_code == 0, result.output
    sequences = torch.randn(1, 160, 128, generator=torch.Generator().manual_seed(0)) * 4 - 5
    with torch.no_grad():
        its, rainy = (load_tagger(path)[0](sequences) for path in (second, out))
    torch.testing.assert_close(rainy[..., 2], its[..., 4], rtol=0, atol=1e-5)


def test_its_bundle_tells_what_it_is_of_and_can_be_restored(joined: Path, tmp_path: Path) -> None:
    export_bundle(joined, tmp_path / "bundle")
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.labels == (*WORDS, *SOUNDS)
    told = bundle.provenance["joined"]
    assert told["shared_blocks"] == 1
    assert [told[one]["recipe"]["name"] for one in ("first", "second")] == ["words", "sounds"]
    assert len(bundle.data) == 2
    again = restore(bundle, tmp_path / "restored")
    assert load_checkpoint(again).progress["joined"] == told
    window = torch.randn(1, 100, 128, generator=torch.Generator().manual_seed(0)) * 4 - 5
    with torch.no_grad():
        wanted, found = (load_classifier(path)[0](window) for path in (joined, again))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    names = {node.name for node in onnx.load(bundle.path / "model.onnx").graph.node}
    assert {"branch_norm", "branch_head", "blocks.4.attn.qkv"} <= names
    some = tmp_path / "some"
    export_bundle(joined, some, labels=("jarvis", "dog"))
    with torch.no_grad():
        logits = load_classifier(joined)[0](torch.from_numpy(bundle.golden.fbank)[None])[0]
    np.testing.assert_allclose(load_bundle(some).golden.logits, logits[[1, 2]], atol=1e-4)
    fewer = restore(load_bundle(some), tmp_path / "fewer")
    assert load_checkpoint(fewer).recipe.branch_labels == ("dog",)  # type: ignore[union-attr]
    refused = ((WORDS, "of the branch's"), (("dog", "alexa"), "own order"), (("dog",) * 2, "once"))
    for labels, message in refused:
        with pytest.raises(ValueError, match=message):
            export_bundle(joined, tmp_path / "none", labels=labels)


def test_what_cannot_be_joined_is_one_line(
    recipe: StreamRecipe, heard: StreamRecipe, first: Path, second: Path, joined: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    end = ("--name", "x", "--out", tmp_path / "x")
    assert "knows no label that" in refusal("join", second, first, *end)
    assert "share no first block: train the second by --init" in refusal(
        "join", first, save(tmp_path / "other", heard, SECOND), *end
    )
    moved = save(tmp_path / "moved", heard, SECOND, weights=trunk(first, 1), mean=-4.0)
    assert "share no first block" in refusal("join", first, moved, *end)
    wide = dataclasses.replace(
        heard, model=dataclasses.replace(recipe.model, num_heads=1), frozen_blocks=0
    )
    wide_run = save(tmp_path / "wide", wide, SECOND)
    assert "encoders of other shapes" in refusal("join", first, wide_run, *end)
    longer = save(tmp_path / "long", dataclasses.replace(heard, window_frames=108), SECOND)
    assert "from 100 frames and" in refusal("join", first, longer, *end)
    assert "label 'cat' has to be one of" in refusal("join", first, second, "--label", "cat", *end)
    assert "label 'bed' has to be" in refusal("join", first, second, "--label", "bed", *end)
    assert "joined of two already" in refusal("join", joined, second, *end)
    assert "no checkpoint" in refusal("join", first, tmp_path / "none", *end)
    assert "is there already" in refusal("join", first, second, "--name", "x", "--out", joined)
    assert not (tmp_path / "x").exists()


def test_weights_of_a_joined_model_are_changed_before_it_is_joined(
    first: Path, joined: Path, tmp_path: Path
) -> None:
    end = ("--out", tmp_path / "x")
    for command in (["average", joined, first], ["interpolate", joined, "--start", first]):
        assert "is joined of two: give these" in refusal(*command, *end)
    assert "is joined of two: balance one" in refusal("balance", joined, *end)
    with pytest.raises(CheckpointError, match="is joined of two: give one of the models"):
        read_any(joined)
    assert not (tmp_path / "x").exists()


def test_what_lies_between_models_of_one_trunk_has_it_too(
    recipe: StreamRecipe, heard: StreamRecipe, first: Path, tmp_path: Path
) -> None:
    weights = load_checkpoint(first).average
    encoder = {k.removeprefix("encoder."): v for k, v in weights.items() if "encoder." in k}
    known = {"start": fingerprint_of(encoder), "start_classes": list(WORDS)}
    changes = {"progress": {"sources": [], **known}, "weights": trunk(first, 1)}
    runs = [
        save(tmp_path / f"run-{seed}", dataclasses.replace(heard, seed=seed), SECOND, **changes)
        for seed in range(3)
    ]
    assert call("average", *runs, "--out", tmp_path / "mean").exit_code == 0
    back = call("interpolate", runs[0], "--start", first, "--out", tmp_path / "back")
    assert back.exit_code == 0, back.output
    for between in ("mean", "back"):
        assert join(first, tmp_path / between, name="x").progress["joined"]["shared_blocks"] == 1


def test_pruned_blocks_keep_their_widths(
    recipe: StreamRecipe, heard: StreamRecipe, tmp_path: Path
) -> None:
    narrow = dataclasses.replace(
        recipe.model, head_dim=8, block_heads=(2, 1, 0), block_hidden=(20, 0, 24)
    )
    first = save(tmp_path / "first", dataclasses.replace(recipe, model=narrow), FIRST)
    other = dataclasses.replace(heard, model=narrow)
    second = save(tmp_path / "second", other, SECOND, weights=trunk(first, 2))
    joined = join(first, second, name="x")
    assert isinstance(joined.recipe, StreamRecipe)
    assert joined.recipe.encoder_config().heads == (2, 1, 0, 0)
    save_checkpoint(tmp_path / "joined", joined)
    load_tagger(tmp_path / "joined")


def test_a_recipe_of_a_branch_names_its_labels(joined: Path) -> None:
    table = json.loads(json.dumps(recipe_table(load_checkpoint(joined).recipe)))
    assert parse_recipe(table, "joined") == load_checkpoint(joined).recipe
    no_labels: list[str] = []
    for wrong in (no_labels, ["alexa"]):
        with pytest.raises(RecipeError, match="branch_labels must be the last labels"):
            parse_recipe({**table, "branch_labels": wrong}, "joined")
    model = {**table["model"], "branch_from": 4}
    with pytest.raises(RecipeError, match="branch_from 0 to depth, .* got 2 and 4 of 3"):
        parse_recipe({**table, "model": model}, "joined")
    without = {**table, "model": {**table["model"], "branch_depth": 0}, "branch_labels": []}
    with pytest.raises(RecipeError, match="without a branch 0, got 0 and 1 of 3"):
        parse_recipe(without, "joined")
