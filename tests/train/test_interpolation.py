"""Weights that lie between others: a run and its start, several runs with the same start."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from ssast_edge import load_bundle
from train.__main__ import main
from train.checkpoint import Checkpoint, build_model, load_checkpoint, save_checkpoint
from train.export import export_bundle
from train.initial import fingerprint_of
from train.recipe import KeywordRecipe, StreamRecipe
from train.sequences import SequenceConfig

QKV, HEAD = "encoder.blocks.0.attn.qkv.weight", "head.1.weight"
LABELS = ("alexa", "jarvis")


@pytest.fixture(scope="module")
def recipe(tiny_recipe: KeywordRecipe) -> StreamRecipe:
    return StreamRecipe(
        name="stream",
        labels=LABELS,
        optimizer=tiny_recipe.optimizer,
        data=tiny_recipe.data,
        model=dataclasses.replace(tiny_recipe.model, stride_frames=4, context=6),
        sequences=SequenceConfig(num_frames=160),
        window_frames=100,
    )


def make(folder: Path, recipe: StreamRecipe, classes: tuple[str, ...], **progress: Any) -> Path:
    """A checkpoint of random weights."""
    torch.manual_seed(recipe.seed)
    model = build_model(recipe, classes, -5.0 - recipe.seed, 4.0)
    weights = {
        name: value + 0.1 * torch.randn(value.shape) if "." in name else value
        for name, value in model.state_dict().items()
    }
    save_checkpoint(
        folder,
        Checkpoint(
            recipe=recipe, classes=classes, mean=-5.0 - recipe.seed, std=4.0, step=6,
            model=weights, average=weights, optimizer={},
            progress={"sources": ["wake_words"], **progress},
        ),
    )  # fmt: skip
    return folder


@pytest.fixture
def start(recipe: StreamRecipe, tmp_path: Path) -> Path:
    return make(tmp_path / "start", recipe, LABELS)


@pytest.fixture
def known(start: Path) -> dict[str, Any]:
    """What a run remembers of the start."""
    weights = load_checkpoint(start).average
    encoder = {k.removeprefix("encoder."): v for k, v in weights.items() if "encoder." in k}
    return {"start": fingerprint_of(encoder), "start_classes": list(LABELS)}


@pytest.fixture
def run(recipe: StreamRecipe, known: dict[str, Any], tmp_path: Path) -> Path:
    """A run that began with the start, and learns a third class."""
    return make(tmp_path / "run", dataclasses.replace(recipe, seed=1), (*LABELS, "bed"), **known)


def call(*command: object) -> Result:
    return CliRunner().invoke(main, [str(part) for part in command])


def test_a_run_is_drawn_back_towards_what_it_started_from(
    start: Path, run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "between"
    result = call("interpolate", run, "--start", start, "--share", 0.25, "--out", out)
    assert result.exit_code == 0, result.output
    found, its, ours = (load_checkpoint(path).average for path in (out, start, run))
    assert load_checkpoint(out).progress["sources"] == ["wake_words"]
    torch.testing.assert_close(found[QKV], 0.75 * ours[QKV] + 0.25 * its[QKV])
    torch.testing.assert_close(found[HEAD][:2], 0.75 * ours[HEAD][:2] + 0.25 * its[HEAD])
    assert torch.equal(found[HEAD][2:], ours[HEAD][2:])
    export_bundle(out, tmp_path / "bundle")
    told = load_bundle(tmp_path / "bundle").provenance["interpolated"]
    assert told == {"start": "stream", "start_step": 6, "share": 0.25}


def test_drawing_back_refuses_what_is_no_start(
    recipe: StreamRecipe, known: dict[str, Any], start: Path, run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x"

    def refusal(of: Path, towards: Path, share: float = 0.3, to: Path = out) -> str:
        result = call("interpolate", of, "--start", towards, "--share", share, "--out", to)
        assert result.exit_code == 1
        assert not out.exists()
        return result.output

    assert "did not start from" in refusal(run, run)
    assert "no checkpoint" in refusal(run, tmp_path / "none")
    assert "is there already" in refusal(run, start, to=run)
    (tmp_path / "file").touch()
    assert "file cannot be written in" in refusal(run, start, to=tmp_path / "file" / "of" / "x")
    assert "share must be between 0 and 1, got nan" in refusal(run, start, share=float("nan"))
    # The start was more than the bundle that it was restored from.
    known["start_classes"] = ["alexa", "bed"]
    unknown = make(tmp_path / "unknown", recipe, (*LABELS, "bed"), **known)
    assert "lacks bed, whose head" in refusal(unknown, start)
    del known["start_classes"]  # as earlier versions trained it
    headless = make(tmp_path / "headless", recipe, (*LABELS, "bed"), **known)
    assert "did not go on with the head" in refusal(headless, start)


def test_the_mean_of_runs_can_be_drawn_back_and_tells_what_it_is_of(
    recipe: StreamRecipe, known: dict[str, Any], start: Path, run: Path, tmp_path: Path
) -> None:
    warped = SequenceConfig(num_frames=160, warp=(0.9, 1.1))
    others = [
        make(
            tmp_path / f"run-{seed}",
            dataclasses.replace(recipe, seed=seed, sequences=warped),
            (*LABELS, "bed"),
            **known,
        )
        for seed in (2, 3)
    ]
    out, back = tmp_path / "mean", tmp_path / "back"
    result = call("average", run, *others, "--out", out)
    assert result.exit_code == 0, result.output
    found, ours = load_checkpoint(out), load_checkpoint(run)
    its = [load_checkpoint(path).average for path in (run, *others)]
    for name in (QKV, HEAD):
        torch.testing.assert_close(found.average[name], sum(one[name] for one in its) / 3)
    assert (found.mean, found.recipe, found.classes) == (ours.mean, ours.recipe, ours.classes)
    assert torch.equal(found.average["mean"], ours.average["mean"])
    result = call("interpolate", out, "--start", start, "--out", back)
    assert result.exit_code == 0, result.output
    export_bundle(back, tmp_path / "bundle")
    told = load_bundle(tmp_path / "bundle").provenance
    warp = {"sequences.warp": "[0.9, 1.1]"}
    assert told["averaged"] == [
        {"run": f"{tmp_path.name}/run", "step": 6},
        {"run": f"{tmp_path.name}/run-2", "step": 6, "seed": 2, **warp},
        {"run": f"{tmp_path.name}/run-3", "step": 6, "seed": 3, **warp},
    ]  # fmt: skip
    assert told["interpolated"]["share"] == 0.3


def test_a_mean_of_unlike_runs_is_refused(
    recipe: StreamRecipe, known: dict[str, Any], start: Path, run: Path, tmp_path: Path
) -> None:
    known_classes = (*LABELS, "bed")

    def other(name: str, classes: tuple[str, ...] = known_classes, **changes: Any) -> Path:
        changed = dataclasses.replace(recipe, seed=2, **changes)
        return make(tmp_path / name, changed, classes, **known)

    elsewhere = make(tmp_path / "elsewhere", recipe, known_classes, start="0123456789abcdef")
    shape = dataclasses.replace(recipe.model, mlp_ratio=2.0)
    front_end = dataclasses.replace(recipe.fbank, window_ms=20.0)
    broken = other("broken")
    checkpoint = load_checkpoint(broken)
    checkpoint.average[HEAD][0, 0] = float("nan")
    save_checkpoint(broken, checkpoint)
    lacking = other("lacking")
    checkpoint = load_checkpoint(lacking)
    del checkpoint.average[QKV]
    save_checkpoint(lacking, checkpoint)
    out = tmp_path / "x"
    for runs, message in (
        ((run,), "wants two or more"),
        ((run, other("plain"), run), "is given twice"),
        ((run, elsewhere), "did not start from the same encoder"),
        ((elsewhere, run), "did not start from the same encoder"),
        ((run, other("classes", (*LABELS, "cat"))), "differ in bed, cat: only models of the same"),
        ((run, other("order", (*LABELS[::-1], "bed"))), "differ in their order"),
        ((run, other("labels", labels=(*LABELS, "bed"))), "differ in their order"),
        ((run, other("shape", model=shape)), "encoders of other shapes"),
        ((run, other("front-end", fbank=front_end)), "other front ends"),
        ((run, broken), "holds what is no number"),
        ((run, lacking), QKV),
        ((run, tmp_path / "none"), "no checkpoint"),
    ):
        result = call("average", *runs, "--out", out)
        assert result.exit_code == 1
        assert message in result.output
        assert result.output.count("\n") == 1
        assert not out.exists()
    assert "is there already" in call("average", run, start, "--out", run).output
    file = tmp_path / "file"
    file.touch()
    assert "is a file" in call("average", run, start, "--out", file).output


def test_what_is_no_run_any_more_is_refused(
    recipe: StreamRecipe, known: dict[str, Any], start: Path, run: Path, tmp_path: Path
) -> None:
    """Its weights would no longer be what the provenance says."""
    out = tmp_path / "x"
    for name in ("averaged", "interpolated", "balanced"):
        made = make(tmp_path / name, recipe, (*LABELS, "bed"), **known, **{name: {}})
        result = call("average", run, made, "--out", out)
        assert result.exit_code == 1
        assert "is balanced" in result.output or "lies between others already" in result.output
    result = call("interpolate", tmp_path / "balanced", "--start", start, "--out", out)
    assert result.exit_code == 1
    assert "is balanced: give what it was made from" in result.output
    assert not out.exists()


def test_a_restored_bundle_tells_how_its_weights_were_made(
    recipe: StreamRecipe, tmp_path: Path
) -> None:
    """What export drops of the recipe is told as well."""
    recipe = dataclasses.replace(recipe, auxiliary_labels=("bed",))
    balanced = {"_unknown_": -1.0, "_silence_": 0.0}
    made = make(tmp_path / "made", recipe, (*LABELS, "bed"), balanced=balanced)
    export_bundle(made, tmp_path / "bundle")
    assert call("restore", tmp_path / "bundle", "--out", tmp_path / "restored").exit_code == 0
    export_bundle(tmp_path / "restored", tmp_path / "again")
    first, second = (load_bundle(tmp_path / name).provenance for name in ("bundle", "again"))
    assert first == second
    assert second["balanced"] == balanced
    assert second["recipe"]["auxiliary_labels"] == ["bed"]
