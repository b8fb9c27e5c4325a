"""The benchmarks of keyword training run on something tiny; no figure is judged here."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: train)")

from benchmarks import keyword_rounds, noise_draws, sound_triggers, sounds_folds, word_draws  # noqa: E402
from ssast_edge.bundle import load_bundle  # noqa: E402
from train.checkpoint import load_checkpoint  # noqa: E402
from train.export import export_bundle  # noqa: E402
from train.keywords import train_keywords  # noqa: E402
from train.phone_alignment import PHONES, PhoneLabels  # noqa: E402
from train.recipe import KeywordRecipe, StreamRecipe, load_recipe  # noqa: E402
from train.streaming import train_stream  # noqa: E402
from train.triggers import SOUND_TRIGGER  # noqa: E402

from .conftest import ONE_CORE  # noqa: E402


def test_rounds_are_measured_on_one_track(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path
) -> None:
    names = [f"{name}={tiny_checkpoint}" for name in ("one", "other")]
    figure, kept = tmp_path / "figures" / "rounds.png", tmp_path / "rounds.json"
    result = CliRunner().invoke(
        keyword_rounds.main,
        [*names, "--data", str(tiny_data), "--figure", str(figure), "--json", str(kept)],
    )
    assert result.exit_code == 0, result.output
    found = json.loads(kept.read_text())["missed_at_false_accepts_per_hour"]
    assert found["one"] == found["other"]
    assert set(found["one"]) == {"clean", "noisy"}
    assert figure.stat().st_size > 1000


def test_words_of_bundles_are_counted_over_draws_at_every_threshold(
    tiny_bundle: Path, tiny_data: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "draws.json"
    options = ["--data", tiny_data, "--synthetic", tmp_path, "--draws", 2, "--out", kept]

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(word_draws.main, [str(a) for a in (*arguments, *options)])

    refused = call(tiny_bundle, "--label", "hush")
    assert refused.exit_code == 1
    assert "no trigger of hush in all of" in refused.stderr
    assert not kept.exists()
    (tmp_path / "manifest.csv").write_text("path,text,keyword,kind,speaker,split\n")
    found = call(tiny_bundle, tiny_bundle)
    assert found.exit_code == 0, found.output
    one, other = json.loads(kept.read_text())["bundles"]
    assert one == other
    assert one["labels"] == list(load_bundle(tiny_bundle).triggers)
    assert one["curve"][0]["words_clean"] == one["curve"][0]["words_10 dB"] > 0
    missed = [point["missed_clean"] for point in one["curve"]]
    assert missed == sorted(missed)


def test_a_checkpoint_without_a_name_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(keyword_rounds.main, [str(tmp_path)])
    assert result.exit_code == 1
    assert "NAME=CHECKPOINT" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_model_of_sounds_is_scored_on_the_fold_that_it_did_not_hear(
    tiny_data: Path, tiny_recipe: KeywordRecipe, tmp_path: Path
) -> None:
    recipe = dataclasses.replace(
        tiny_recipe,
        labels=("rain", "alexa"),
        data=dataclasses.replace(
            tiny_recipe.data,
            packs=("wake_words", "librispeech", "background_noise", "esc10"),
            esc10_test_fold=2,
        ),
        windows=dataclasses.replace(tiny_recipe.windows, labelled_sound=0.5),
    )
    out = tmp_path / "run"
    last = train_keywords(recipe, data=tiny_data, synthetic=(), out=out, machine=ONE_CORE, jobs=1)
    export_bundle(last, tmp_path / "bundle")
    bundle = load_bundle(tmp_path / "bundle")
    clips, scores, wanted = sounds_folds.score_fold(bundle, tiny_data, 2, ["rain"])
    assert [clip.path.name for clip in clips.recordings] == ["2.ogg"]
    assert scores.shape == (1, 1)
    assert wanted.tolist() == [0]
    right = scores.argmax(axis=1) == wanted
    figures = sounds_folds.figures([right, ~right], [["2"], ["3"]], seed=0)
    assert figures["clips"] == 2
    assert figures["by_fold"] == [1.0, 0.0]


def test_a_trigger_of_sounds_is_judged_by_misses_confusions_and_speech(
    tiny_data: Path, tiny_bundle: Path
) -> None:
    track = sound_triggers.fold_track(tiny_data, 2, seed=0)
    assert [(word.label, word.kind) for word in track.words] == [("rain", "sound")]
    assert {source.kind for source in track.sources} == {"sound", "speech"}
    bundle = load_bundle(tiny_bundle)
    heard = sound_triggers.listen(bundle, track, "fold 2")
    assert 0 < heard.speech_hours < track.hours
    labels = bundle.labels[:2]
    never = dataclasses.replace(SOUND_TRIGGER, threshold=0.999)
    always = dataclasses.replace(SOUND_TRIGGER, threshold=1e-6)
    silent = sound_triggers.count([heard, heard], labels, never)
    assert (silent.sounds, silent.missed, silent.fired_at) == (2, 2, {})
    assert silent.cost == 1.0
    eager = sound_triggers.count([heard], labels, always).to_json()
    assert eager["fired_in_speech"] + eager["taken_for_another"] > 0
    costs = [counts.cost for _, counts in sound_triggers.tried([heard], labels)]
    assert costs == sorted(costs)


def test_draws_of_noise_are_added_up_setting_by_setting(tmp_path: Path) -> None:
    def report(seed: int, *counts: tuple[float, int, int]) -> str:
        points = [
            {"setting": setting, "words": 10, "missed": missed, "false_accepts": false_accepts,
             "duplicates": 0}
            for setting, missed, false_accepts in counts
        ]  # fmt: skip
        result = {"detector": "wake-words", "condition": "10dB", "hours": 2.0, "curve": points}
        path = tmp_path / f"{seed}-{len(list(tmp_path.iterdir()))}.json"
        path.write_text(json.dumps({"data": {"seed": seed}, "results": [result]}))
        return str(path)

    one = report(0, (-1.0, 0, 3), (0.0, 1, 1), (1.0, 4, 0))
    other = report(1, (-1.0, 1, 0), (0.0, 1, 0), (1.0, 2, 0))
    kept = tmp_path / "kept"
    result = CliRunner().invoke(noise_draws.main, [one, other, "--out", str(kept)])
    assert result.exit_code == 0, result.output
    found = json.loads(kept.read_text())
    assert found["hours"] == 4.0
    assert found["ships_by_draw"] == [
        {"missed": 1, "false_accepts": 1}, {"missed": 1, "false_accepts": 0},
    ]  # fmt: skip
    at = found["at_most_per_hour"]
    assert (at["0"]["missed"], at["0"]["words"]) == (6, 20)
    assert (at["0.4"]["missed"], at["0.4"]["false_accepts"]) == (2, 1), "one in four hours"
    assert at["1"]["missed"] == 1

    same = CliRunner().invoke(noise_draws.main, [one, report(0, (0.0, 1, 1))])
    assert same.exit_code == 1
    assert "seed of its own" in same.stderr


FOLDS_RECIPE = """
task = "stream"
name = "folds"
labels = ["rain", "alexa"]
window_frames = 100
[data]
packs = ["wake_words", "librispeech", "background_noise", "esc10"]
synthetic = false
renderings_keyword = 1
renderings_other = 1
renderings_sound = 1
[model]
dim = 16
depth = 1
num_heads = 2
patch_frames = 8
stride_frames = 4
context = 6
[sequences]
num_frames = 160
[optimizer]
steps = 2
batch_size = 2
learning_rate = 1e-3
warmup_steps = 1
"""


def test_a_fold_is_tested_by_the_mean_of_runs_drawn_back(tiny_data: Path, tmp_path: Path) -> None:
    recipe, phones = tmp_path / "folds.toml", tmp_path / "phones.npz"
    recipe.write_text(FOLDS_RECIPE)
    PhoneLabels(PHONES, {"nothing": np.zeros(1, np.uint8)}).save(phones)
    loaded = load_recipe(recipe, ("data.esc10_test_fold=2",))
    assert isinstance(loaded, StreamRecipe)
    start = train_stream(
        loaded, data=tiny_data, synthetic=(), phones=phones, out=tmp_path / "start",
        machine=ONE_CORE, jobs=1,
    )  # fmt: skip
    out, kept = tmp_path / "runs", tmp_path / "folds.json"
    command = [
        "--recipe", recipe, "--init", start, "--data", tiny_data, "--phones", phones,
        "--synthetic", tmp_path, "--out", out, "--fold", 2, "--fold", 3, "--seeds", 2,
        "--share", 0.25, "--threads", 1, "--json", kept,
    ]  # fmt: skip
    result = CliRunner().invoke(sounds_folds.main, [str(part) for part in command])
    assert result.exit_code == 0, result.output
    found = json.loads(kept.read_text())
    assert (found["clips"], found["seeds"], found["share"]) == (2, 2, 0.25)
    name = "head.1.weight"
    first, second, its, between = (
        load_checkpoint(path).average[name]
        for path in (
            out / "fold-2" / "last", out / "fold-2-1" / "last", start,
            out / "fold-2" / "interpolated-2-0.25",
        )
    )  # fmt: skip
    torch.testing.assert_close(between, 0.75 * (first + second) / 2 + 0.25 * its)
    result = CliRunner().invoke(
        sounds_folds.main, ["--recipe", "train/recipes/windows/sounds.toml", "--seeds", "2"]
    )
    assert result.exit_code == 1
    assert "are for recipes of task 'stream'" in result.output
