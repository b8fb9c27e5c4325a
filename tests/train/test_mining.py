"""Windows that a model gets wrong, collected for its next round."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ssast_edge.evaluation.scores import HopScores
from ssast_edge.evaluation.track import Track, Word
from train.__main__ import main
from train.keywords import train_keywords
from train.mining import MinedWindows, load_mined, mine_checkpoint, training_clips
from train.mining import _false_times as false_times
from train.mining import _target as target_of
from train.recipe import KeywordRecipe, RecipeError

from .conftest import ONE_CORE

LABELS = ("alexa", "jarvis")


def a_track(*words: Word) -> Track:
    return Track(np.zeros(16000 * 60, np.float32), words, ())


def test_a_false_peak_is_found_and_a_hit_is_none() -> None:
    track = a_track(Word("alexa", 10.0, 10.6, "a"), Word("jarvis", 30.0, 30.6, "b"))
    times = np.arange(0, 60, 0.08)
    scores = np.zeros((len(times), 2), np.float32)
    scores[(times > 10.2) & (times < 11.0), 0] = 0.9  # the word itself
    scores[(times > 20.0) & (times < 20.5), 0] = 0.9  # nobody says anything
    scores[(times > 30.2) & (times < 31.0), 0] = 0.9  # another word
    found = false_times(HopScores(LABELS, times, scores), track)
    assert any(20.0 < t < 20.5 for t in found)
    assert any(30.2 < t < 31.0 for t in found)
    assert not any(10.0 < t < 11.1 for t in found)


def test_a_window_is_labelled_with_the_word_that_has_just_ended() -> None:
    track = a_track(Word("jarvis", 10.0, 10.6, "a"))
    assert target_of(LABELS, track, 10.8, 1.5).tolist() == [0, 1]  # type: ignore[union-attr]
    assert target_of(LABELS, track, 11.25, 1.5).tolist() == [0, 0]  # type: ignore[union-attr]
    assert target_of(LABELS, track, 10.1, 1.5).tolist() == [0, 0]  # type: ignore[union-attr]
    assert target_of(LABELS, track, 10.5, 1.5) is None  # nearly all of it: nobody could tell
    assert target_of(LABELS, track, 11.1, 1.5) is None
    assert target_of(LABELS, track, 40.0, 1.5).tolist() == [0, 0]  # type: ignore[union-attr]


def test_what_is_mined_trains_the_next_round(
    tiny_checkpoint: Path, tiny_data: Path, tiny_recipe: KeywordRecipe, tmp_path: Path
) -> None:
    clips = training_clips(tiny_checkpoint, tiny_data, ())
    assert {clip.split for clip in clips} == {"train"}
    found = mine_checkpoint(tiny_checkpoint, clips, hours=0.01, snrs_db=(10.0,), seed=0)
    assert found.labels == tiny_recipe.labels
    frames = tiny_recipe.windows.num_frames
    assert found.windows.shape[1:] == (frames, 128)
    path = tmp_path / "mined.npz"
    found.save(path)
    windows, targets = load_mined([path, path], (*LABELS, "bed"), frames) or (None, None)
    assert windows is not None
    assert targets is not None
    assert len(windows) == 2 * len(found.windows)
    assert targets.shape[1] == 3
    mined = dataclasses.replace(
        tiny_recipe, windows=dataclasses.replace(tiny_recipe.windows, mined=0.5)
    )
    out = tmp_path / "run"
    with pytest.raises(RecipeError, match=r"windows\.mined is above 0"):
        train_keywords(mined, data=tiny_data, synthetic=(), out=out, machine=ONE_CORE, jobs=1)
    train_keywords(
        mined, data=tiny_data, synthetic=(), out=out, machine=ONE_CORE, jobs=1,
        init=tiny_checkpoint, mined=(path,),
    )  # fmt: skip


def test_other_windows_are_refused(tmp_path: Path) -> None:
    windows = np.zeros((2, 50, 128), np.float16)
    MinedWindows(("cat",), windows, np.zeros((2, 1), np.float32)).save(tmp_path / "m.npz")
    with pytest.raises(RecipeError, match=r"50 frames.*wants 96 frames.*no cat"):
        load_mined([tmp_path / "m.npz"], LABELS, 96)
    (tmp_path / "junk.npz").write_bytes(b"junk")
    with pytest.raises(RecipeError, match="no mined windows"):
        load_mined([tmp_path / "junk.npz"], LABELS, 96)
    assert load_mined([], LABELS, 96) is None


def test_the_command_refuses_what_is_no_keyword_checkpoint(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["mine", str(tmp_path / "no"), "--out", str(tmp_path / "m")])
    assert result.exit_code == 1
    assert result.output.count("\n") == 1
