"""The trade-off benchmark on tones: every arm, figures and picture; no figure is judged here."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import pruning_tradeoff
from train.task import Places


def test_every_arm_is_measured_and_drawn_and_nothing_is_trained_twice(
    dense: Path, places: Places, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments: list[object] = [
        dense, "--out", out, "--macs", 0.6, "--seeds", 2, "--rounds", 1, "--final-steps", 2,
        "--samples", 6, "--manifests", places.manifests, "--cache", places.cache,
        "--accelerator", "cpu", "--workers", 0, "--arm", "pruned", "--arm", "from scratch",
        "--test",
    ]  # fmt: skip
    ran = CliRunner().invoke(pruning_tradeoff.main, [str(a) for a in arguments])
    assert ran.exit_code == 0, ran.output
    table = json.loads((out / "result.json").read_text())
    assert (table["judged_on"], table["metric"]) == ("test", "accuracy")
    assert [row["arm"] for row in table["runs"]] == ["dense", *["pruned", "from scratch"] * 2]
    for row in table["runs"][1:]:
        assert row["macs_share"] <= 0.6
        assert 0 <= row["test"]["low"] <= row["test"]["accuracy"] <= row["test"]["high"] <= 1
        assert "accuracy" in row["validation"]
        assert row["cpu_ms"] > 0
    points = {point["arm"]: point for point in table["summary"]}
    assert points["pruned"]["seeds"] == 2
    assert points["pruned"]["accuracy"]["low"] is not None
    assert points["dense"]["accuracy"]["low"] is None
    assert (out / "tradeoff.png").stat().st_size > 5000
    weights = out / "pruned" / "macs-0.6-seed-1" / "last" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    ran = CliRunner().invoke(pruning_tradeoff.main, [str(a) for a in arguments])
    assert ran.exit_code == 0, ran.output
    assert weights.stat().st_mtime_ns == before


def test_a_checkpoint_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    ran = CliRunner().invoke(
        pruning_tradeoff.main, [str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    )
    assert ran.exit_code == 1
    assert len(ran.stderr.splitlines()) == 1
    assert "no checkpoint" in ran.stderr


@pytest.mark.parametrize("arm", ["magnitude", "random depth"])
def test_the_other_arms_train(arm: str, dense: Path, places: Places, tmp_path: Path) -> None:
    from optimize.pruning.prune import PruneConfig
    from tests.optimize.conftest import ONE_CORE
    from train.checkpoint import load_checkpoint

    config = PruneConfig(rounds=1, final_steps=1, samples=6)
    experiment = pruning_tradeoff.Experiment(dense, tmp_path, config, places, ONE_CORE)
    shape = load_checkpoint(experiment.train(arm, 0.7, 0, print)).recipe.encoder_config()
    if arm == "random depth":
        assert (shape.depth, shape.heads, shape.hidden) == (1, (2,), (64,))
    else:
        assert shape.depth == 2
