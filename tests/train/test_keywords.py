"""The whole training path on a tiny data set: pool, windows, resume, export, runtime."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from ssast_edge import Spotter, load_bundle
from ssast_edge.backends import open_backend
from ssast_edge.trigger import TriggerConfig
from tests.train.conftest import ONE_CORE, TONES_HZ, tone
from train.checkpoint import (
    CheckpointError,
    build_model,
    has_checkpoint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from train.export import export_bundle
from train.keywords import prepare_pool, train_keywords
from train.recipe import KeywordRecipe, RecipeError
from train.restore import restore
from train.windows import WindowSampler


def run(recipe: KeywordRecipe, data: Path, out: Path) -> Path:
    return train_keywords(recipe, data=data, synthetic=(), out=out, machine=ONE_CORE, jobs=1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_resumed_run_equals_an_uninterrupted_one(
    tiny_data: Path, tiny_recipe: KeywordRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_checkpoint(run(tiny_recipe, tiny_data, tmp_path / "whole"))

    class KilledError(Exception):
        """Stands for kill -9: nothing after the second checkpoint is kept."""

    saves = []

    def save_then_die(*arguments: object) -> None:
        save_checkpoint(*arguments)  # type: ignore[arg-type]
        saves.append(1)
        if len(saves) == 2:
            raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr("train.engine.save_checkpoint", save_then_die)
        with pytest.raises(KilledError):
            run(tiny_recipe, tiny_data, tmp_path / "parts")
    assert load_checkpoint(tmp_path / "parts" / "last").step == 8
    parts = load_checkpoint(run(tiny_recipe, tiny_data, tmp_path / "parts"))
    assert parts.step == whole.step == 12
    for name in ("model", "average", "optimizer"):
        one, other = getattr(whole, name), getattr(parts, name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_another_recipe_does_not_go_on_with_a_checkpoint(
    tiny_data: Path, tiny_recipe: KeywordRecipe, tmp_path: Path
) -> None:
    run(tiny_recipe, tiny_data, tmp_path / "run")
    with pytest.raises(RecipeError, match="another recipe"):
        run(replace(tiny_recipe, seed=1), tiny_data, tmp_path / "run")


def test_a_recipe_that_wants_synthetic_speech_says_how_to_make_it(
    tiny_data: Path, tiny_recipe: KeywordRecipe, tmp_path: Path
) -> None:
    data = replace(tiny_recipe.data, synthetic=True)
    with pytest.raises(RecipeError, match=r"train\.synthesize"):
        run(replace(tiny_recipe, data=data), tiny_data, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's exporter warns of its own parts
def test_a_trained_model_spots_its_words_on_the_device(
    tiny_data: Path, tiny_recipe: KeywordRecipe, tmp_path: Path
) -> None:
    optimizer = replace(tiny_recipe.optimizer, steps=250, batch_size=32)
    recipe = replace(tiny_recipe, optimizer=optimizer)
    folder = run(recipe, tiny_data, tmp_path / "run")
    triggers = {label: TriggerConfig(threshold=0.6, min_hits=2) for label in recipe.labels}
    export_bundle(folder, tmp_path / "bundle", triggers=triggers)
    bundle = load_bundle(tmp_path / "bundle")
    assert b"train/" not in (tmp_path / "bundle" / "model.onnx").read_bytes()
    assert bundle.labels == tuple(TONES_HZ)
    assert {source["licence"] for source in bundle.data} >= {"Apache-2.0", "CC-BY-4.0"}

    rng = np.random.default_rng(3)
    quiet = 1e-3 * rng.standard_normal(2 * 16000)
    said = np.concatenate([quiet, tone(120, 0.5), quiet, tone(900, 0.5), quiet])
    heard = [(d.label, d.time_s) for d in Spotter(bundle).push(said)]
    assert [label for label, _ in heard] == ["alexa", "jarvis"]
    assert 2.0 < heard[0][1] < 3.5
    assert 4.5 < heard[1][1] < 6.0


def test_a_bundle_may_tell_some_of_the_labels(tiny_checkpoint: Path, tmp_path: Path) -> None:
    export_bundle(tiny_checkpoint, tmp_path / "all")
    export_bundle(tiny_checkpoint, tmp_path / "one", labels=["jarvis"], name="one")
    whole, one = load_bundle(tmp_path / "all"), load_bundle(tmp_path / "one")
    assert (one.name, one.labels) == ("one", ("jarvis",))
    fbank = np.random.default_rng(0).normal(-5, 2, (one.window_frames, 128)).astype(np.float32)
    wanted = open_backend(whole).infer(fbank)[whole.labels.index("jarvis")]
    assert open_backend(one).infer(fbank)[0] == pytest.approx(wanted, abs=1e-4)
    restore(one, tmp_path / "again")
    export_bundle(tmp_path / "again", tmp_path / "once-more")
    again = load_bundle(tmp_path / "once-more")
    assert again.labels == ("jarvis",)
    assert open_backend(again).infer(fbank)[0] == pytest.approx(wanted, abs=1e-3)
    with pytest.raises(ValueError, match="no label 'hal' in .*, it has: alexa, jarvis"):
        export_bundle(tiny_checkpoint, tmp_path / "none", labels=["hal"])
    assert not (tmp_path / "none").exists()


def test_batches_depend_on_the_step_alone(
    tiny_data: Path, tiny_recipe: KeywordRecipe, tmp_path: Path
) -> None:
    pool = prepare_pool(tiny_recipe, tiny_data, (), tmp_path / "pool", jobs=1)
    samplers = [
        WindowSampler(
            pool, tiny_recipe.labels, tiny_recipe.windows, tiny_recipe.log_mel_augment,
            seed=5, fill=-9.0,
        )
        for _ in range(2)
    ]  # fmt: skip
    samplers[0].batch(0, 16)
    one, other = (sampler.batch(3, 16) for sampler in samplers)
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])
    assert one[0].shape == (16, 96, 128)
    assert torch.isfinite(one[0]).all()
    assert one[1].sum(dim=1).max() <= 1


def test_a_label_without_a_recording_is_named(
    tiny_data: Path, tiny_recipe: KeywordRecipe, tmp_path: Path
) -> None:
    recipe = replace(tiny_recipe, labels=("alexa", "snowboy"))
    with pytest.raises(ValueError, match="no training recording of snowboy"):
        run(recipe, tiny_data, tmp_path / "run")


def test_a_clip_that_does_not_decode_is_left_out(
    tiny_data: Path, tiny_recipe: KeywordRecipe, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    broken = data / "librispeech" / "102-1-0000.ogg"
    broken.write_bytes(b"OggS but no more")
    pool = prepare_pool(tiny_recipe, data, (), tmp_path / "pool", jobs=1)
    rendered = {pool.clips[i].path for i in pool.rows["clip"]}
    assert broken not in rendered
    assert len(rendered) > 15


@pytest.mark.parametrize("missing", ["model.safetensors", "checkpoint.json"])
def test_a_damaged_checkpoint_is_one_clear_error(
    tiny_data: Path, tiny_recipe: KeywordRecipe, tmp_path: Path, missing: str
) -> None:
    folder = run(tiny_recipe, tiny_data, tmp_path / "run")
    (folder / missing).write_bytes(b"\0" * 5)
    with pytest.raises(CheckpointError, match="damaged checkpoint"):
        load_checkpoint(folder)
    (folder / missing).unlink()
    with pytest.raises(CheckpointError, match=f"{missing} is missing|no checkpoint"):
        load_checkpoint(folder)


def test_a_failed_save_keeps_the_last_checkpoint(
    tiny_data: Path, tiny_recipe: KeywordRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(tiny_recipe, tiny_data, tmp_path / "run")
    before = load_checkpoint(folder)

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("train.checkpoint.save_file", full_disk)
        with pytest.raises(OSError, match="No space"):
            save_checkpoint(folder, replace(before, step=99))
    assert load_checkpoint(folder).step == before.step
    assert [p.name for p in folder.parent.iterdir() if p.name.startswith(".")] == []


def test_a_full_disk_while_tensors_are_written_is_one_clear_error(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "last"
    shutil.copytree(tiny_checkpoint, folder)
    before = load_checkpoint(folder)

    def full_disk(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("train.checkpoint.save_file", full_disk)
        with pytest.raises(CheckpointError, match="the last one is kept: .*No space"):
            save_checkpoint(folder, replace(before, step=99))
    assert load_checkpoint(folder).step == before.step


def test_a_kill_between_the_two_renames_loses_nothing(
    tiny_checkpoint: Path, tiny_data: Path, tiny_recipe: KeywordRecipe, tmp_path: Path
) -> None:
    folder = tmp_path / "run" / "last"
    shutil.copytree(tiny_checkpoint, folder)
    folder.rename(folder.with_name(".last.old"))
    (folder.parent / ".last.tmp").mkdir()  # the checkpoint that was to take its place
    assert has_checkpoint(folder)
    assert run(tiny_recipe, tiny_data, tmp_path / "run") == folder
    assert not (folder.parent / "log.csv").exists()  # the last step was there: no step is run
    save_checkpoint(folder, load_checkpoint(folder))
    assert [path.name for path in folder.parent.iterdir()] == ["last"]


def test_the_log_of_a_resumed_run_has_each_step_once(
    tiny_data: Path, tiny_recipe: KeywordRecipe, tmp_path: Path
) -> None:
    folder = run(tiny_recipe, tiny_data, tmp_path / "run")
    log = folder.parent / "log.csv"
    assert log.read_text().startswith("step,epoch,loss,learning_rate,seconds_per_step\n4,")
    with log.open("a") as file:
        file.write("100,0.1,0.5,1e-3,7\n200,0.4")  # steps that a kill lost, the last cut short
    save_checkpoint(folder, replace(load_checkpoint(folder), step=0))
    run(tiny_recipe, tiny_data, tmp_path / "run")
    assert [line.split(",")[0] for line in log.read_text().splitlines()] == [
        "step", "4", "8", "12",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [(b'{"format": 2}', "checkpoint.json has no recipe"), (b"\xff\xfe", "damaged"),
     (b'{"format": 1}', "checkpoint format 1, this version reads 2")],
)  # fmt: skip
def test_a_foreign_checkpoint_json_is_one_clear_error(
    tiny_checkpoint: Path, tmp_path: Path, content: bytes, message: str
) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "last")
    (tmp_path / "last" / "checkpoint.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "last")


def test_weights_of_another_shape_name_what_differs(
    tiny_checkpoint: Path, tiny_recipe: KeywordRecipe
) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    wider = replace(tiny_recipe, model=replace(tiny_recipe.model, dim=64))
    with pytest.raises(CheckpointError, match=r"patch_embed.* is \(32, .*, wanted \(64, "):
        load_weights(
            build_model(wider, tuple(TONES_HZ), 0.0, 1.0), checkpoint.model, tiny_checkpoint
        )


def test_the_average_follows_the_weights_and_then_lags(tiny_checkpoint: Path) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    weights = [key for key in checkpoint.model if key not in ("mean", "std")]
    assert any(not torch.equal(checkpoint.model[k], checkpoint.average[k]) for k in weights)
    for key in ("mean", "std"):
        torch.testing.assert_close(checkpoint.average[key], checkpoint.model[key])
