"""`python -m train`: a mistake is one line, and what was there stays."""

import json
import shutil
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from ssast_edge import load_bundle
from train.__main__ import main
from train.errors import one_line_errors

RECIPE = """
task = "keywords"
name = "tones"
labels = ["alexa", "jarvis"]
[data]
packs = ["wake_words", "librispeech", "background_noise"]
synthetic = false
[optimizer]
steps = 1
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tones.toml"
    path.write_text(RECIPE)
    return path


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def only_line(result: Result) -> str:
    assert result.exit_code == 1, result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    return str(lines[0])


@pytest.mark.parametrize("command", ["finetune", "export"])
def test_help(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert "--data" in result.output


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    assert "no such recipe" in only_line(invoke("finetune", tmp_path / "none.toml"))


def test_a_data_folder_that_is_not_there(recipe: Path, tmp_path: Path) -> None:
    result = invoke("finetune", recipe, "--data", tmp_path / "none", "--out", tmp_path / "run")
    assert "pack wake_words has no clips below" in only_line(result)
    assert not (tmp_path / "run").exists()


def test_clips_of_which_none_decodes(recipe: Path, tiny_data: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_data, tmp_path / "data")
    for path in [*(tmp_path / "data").rglob("*.ogg"), *(tmp_path / "data").rglob("*.flac")]:
        path.write_bytes(b"no audio")
    out = tmp_path / "runs" / "tones"
    result = invoke("finetune", recipe, "--data", tmp_path / "data", "--out", out, "--jobs", 1)
    assert result.exit_code == 1
    assert "training clips could be used, the first: " in result.stderr.splitlines()[-1]
    assert list((tmp_path / "runs" / "pool").iterdir()) == []


@pytest.mark.filterwarnings("ignore")  # torch's exporter warns of its own parts
def test_an_export_brings_the_triggers_of_the_validation_track(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path
) -> None:
    card = tmp_path / "card.md"
    card.write_text("# Tones\n")
    result = invoke(
        "export", tiny_checkpoint, "--bundle", tmp_path / "b", "--data", tiny_data,
        "--model-card", card,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    bundle = load_bundle(tmp_path / "b")
    report = bundle.provenance["validation"]
    assert set(report["triggers"]) == set(bundle.triggers) == {"alexa", "jarvis"}
    assert report["clean"]["words"] == report["10 dB"]["words"] > 2
    for label, trigger in bundle.triggers.items():
        assert report["triggers"][label]["threshold"] == trigger.threshold
    # The noises, a part of Speech Commands, are in the recipe: they are attributed.
    assert "Google Speech Commands v0.02" in {source["name"] for source in bundle.data}
    assert json.loads((tmp_path / "b" / "bundle.json").read_text())["model_card"]


@pytest.mark.filterwarnings("ignore")
def test_an_export_that_fails_leaves_the_bundle_as_it_was(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    result = invoke("export", tiny_checkpoint, "--bundle", bundle, "--data", tmp_path / "none")
    assert result.exit_code == 1
    assert "wake_words" in result.stderr.splitlines()[-1]
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before


def test_a_checkpoint_that_is_not_there(tmp_path: Path) -> None:
    result = invoke("export", tmp_path / "none", "--bundle", tmp_path / "bundle")
    assert "no checkpoint" in only_line(result)
    assert not (tmp_path / "bundle").exists()


def test_a_full_disk_is_one_line_and_our_own_mistake_is_not() -> None:
    with pytest.raises(click.ClickException, match="No space left"), one_line_errors():
        raise OSError(28, "No space left on device", "model.safetensors")
    with pytest.raises(KeyError), one_line_errors():
        raise KeyError("ours")
