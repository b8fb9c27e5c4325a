"""How much lower other speech and silence have to score for clips to be told right."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from ssast_edge import load_bundle
from ssast_edge.audio import read_audio
from ssast_edge.evaluation.clips import WORD_TAIL_S, labelled_clips, score_clips
from ssast_edge.evaluation.recordings import Recording
from tests.train.test_interpolation import make
from train.__main__ import main
from train.balance import choose_offsets, clip_logits
from train.checkpoint import load_checkpoint, load_tagger
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


def test_conditions_count_alike_and_offsets_may_be_negative() -> None:
    clean, truth = table((0, 1, 2.0), (1, UNKNOWN, -0.7), (UNKNOWN, 0, 3.0), (SILENCE, 0, -0.3))
    noisy, _ = table((0, UNKNOWN, -1.7), (1, 0, 2.0), (UNKNOWN, 0, 3.0), (SILENCE, 0, 2.0))
    found = choose_offsets({"clean": clean, "noisy": noisy}, truth, UNKNOWN, SILENCE)
    assert (found.unknown, found.silence) == (2.0, -0.5)
    assert found.clips == (2, 1, 1)
    assert found.after == {"clean": (1.0, 1.0, 1.0), "noisy": (1.0, 1.0, 1.0)}


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
    assert "background noise at 10 dB: words" in result.output
    assert "chosen on 3 words, 1 other words and 1 silences" in result.output
    before, after = (load_checkpoint(path) for path in (run, tmp_path / "balanced"))
    told = after.progress["balanced"]
    offsets = torch.tensor([0.0, 0.0, told["_unknown_"], told["_silence_"]])
    bias = "head.1.bias"
    torch.testing.assert_close(after.average[bias], before.average[bias] + offsets)
    for name in before.average.keys() - {bias}:
        assert torch.equal(after.average[name], before.average[name])
    export_bundle(tmp_path / "balanced", tmp_path / "bundle")
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.provenance["balanced"] == told
    again = call(tmp_path / "balanced", tiny_data, tmp_path / "x")
    assert again.exit_code == 1
    assert "is balanced already" in again.output
    # A clip's logits are those of the runtime.
    model, _ = load_tagger(tmp_path / "balanced")
    clips = labelled_clips(
        bundle, [Recording(tiny_data / "wake_words/alexa/0.ogg", "keyword", "alexa")], sounds=False
    )
    scores = score_clips(bundle, clips, tail_s=WORD_TAIL_S).tables["last"][0]
    logits = clip_logits(model, recipe, read_audio(clips.recordings[0].path))
    expected = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(scores, expected, atol=2e-3)


def test_what_does_not_tell_clips_is_refused(
    recipe: StreamRecipe, tiny_data: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x"
    wake = make(tmp_path / "wake", dataclasses.replace(recipe, labels=LABELS[:2]), LABELS[:2])
    run = make(tmp_path / "run", recipe, LABELS)
    for folder, data, message in (
        (wake, tiny_data, "labels are alexa, jarvis; wanted _unknown_ and _silence_"),
        (tiny_checkpoint, tiny_data, "task is 'keywords', wanted 'stream'"),
        (tmp_path / "none", tiny_data, "no checkpoint"),
        (run, tmp_path, "has no clips below"),
    ):
        result = call(folder, data, out)
        assert result.exit_code == 1, result.output
        assert message in result.output
        assert result.output.count("\n") == 1
        assert not out.exists()
    assert "is there already" in call(run, tiny_data, run).output
