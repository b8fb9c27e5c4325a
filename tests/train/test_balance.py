"""How much lower other speech and silence have to score for clips to be told right."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from ssast_edge import load_bundle
from tests.train.test_interpolation import make
from train.__main__ import main
from train.balance import choose_offsets
from train.checkpoint import load_checkpoint
from train.config import ModelConfig
from train.export import export_bundle
from train.recipe import DataConfig, KeywordRecipe, StreamRecipe
from train.sequences import SequenceConfig

LABELS = ("alexa", "jarvis", "_unknown_", "_silence_")
UNKNOWN, SILENCE = 2, 3


def table(*rows: tuple[int, int, float]) -> tuple[np.ndarray, np.ndarray]:
    """Logits (clips, 4) and what the clips are; rows: (truth, other label that rivals it, lead)."""
    logits = np.full((len(rows), 4), -9.0, np.float32)
    for number, (truth, rival, lead) in enumerate(rows):
        logits[number, [truth, rival]] = lead, 0.0
    return logits, np.array([row[0] for row in rows], np.intp)


def test_offsets_are_the_lowest_that_tell_the_most_right() -> None:
    words = [(0, UNKNOWN, -1.2), (0, 1, 2.0), (1, SILENCE, -0.2), (1, SILENCE, 3.0)]
    logits, truth = table(*words, (UNKNOWN, 0, 3.0), (SILENCE, 0, 2.0))
    found = choose_offsets({"clean": logits}, truth, UNKNOWN, SILENCE)
    assert (found.unknown, found.silence) == (1.5, 0.5)
    assert found.before["clean"] == (0.5, 1.0, 1.0)
    assert found.after["clean"] == (1.0, 1.0, 1.0)


def test_one_word_in_many_does_not_pay_for_all_other_words() -> None:
    words = [(0, 1, 2.0)] * 19 + [(0, UNKNOWN, -1.2)]
    logits, truth = table(*words, (UNKNOWN, 0, 1.0), (SILENCE, 0, 2.0))
    found = choose_offsets({"clean": logits}, truth, UNKNOWN, SILENCE)
    assert (found.unknown, found.silence) == (0.0, 0.0)
    assert found.after == found.before


@pytest.fixture(scope="module")
def recipe(tiny_recipe: KeywordRecipe) -> StreamRecipe:
    return StreamRecipe(
        name="stream", labels=LABELS, optimizer=tiny_recipe.optimizer,
        data=DataConfig(packs=("wake_words", "speech_commands"), synthetic=False),
        model=ModelConfig(
            dim=16, depth=1, num_heads=2, patch_frames=8, stride_frames=4, context=6
        ),
        sequences=SequenceConfig(num_frames=160), window_frames=100,
    )  # fmt: skip


def call(run: Path, data: Path, out: Path) -> Result:
    """Synthetic voices are an empty folder's: none."""
    synthetic = data.parent / "no-voices"
    synthetic.mkdir(exist_ok=True)
    (synthetic / "manifest.csv").write_text("path,text,keyword,kind,speaker,split\n")
    command = ["balance", run, "--data", data, "--synthetic", synthetic, "--out", out]
    return CliRunner().invoke(main, [str(part) for part in command])


def test_only_other_speech_and_silence_change(
    recipe: StreamRecipe, tiny_data: Path, tmp_path: Path
) -> None:
    run = make(tmp_path / "run", recipe, LABELS)
    result = call(run, tiny_data, tmp_path / "balanced")
    assert result.exit_code == 0, result.output
    assert "10dB: words" in result.output
    before, after = (load_checkpoint(path) for path in (run, tmp_path / "balanced"))
    told = after.progress["balanced"]
    offsets = torch.tensor([0.0, 0.0, told["_unknown_"], told["_silence_"]])
    bias = "head.1.bias"
    torch.testing.assert_close(after.average[bias], before.average[bias] + offsets)
    for name in before.average.keys() - {bias}:
        assert torch.equal(after.average[name], before.average[name])
    export_bundle(tmp_path / "balanced", tmp_path / "bundle")
    assert load_bundle(tmp_path / "bundle").provenance["balanced"] == told


def test_what_does_not_tell_clips_is_refused(
    recipe: StreamRecipe, tiny_data: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x"
    wake = make(tmp_path / "wake", dataclasses.replace(recipe, labels=LABELS[:2]), LABELS[:2])
    run = make(tmp_path / "run", recipe, LABELS)
    for folder, data, message in (
        (wake, tiny_data, "labels are alexa, jarvis; wanted a model of task 'stream'"),
        (tiny_checkpoint, tiny_data, "wanted a model of task 'stream'"),
        (tmp_path / "none", tiny_data, "no checkpoint"),
        (run, tmp_path, "has no clips below"),
    ):
        result = call(folder, data, out)
        assert result.exit_code == 1, result.output
        assert message in result.output
        assert result.output.count("\n") == 1
        assert not out.exists()
    assert "is there already" in call(run, tiny_data, run).output
