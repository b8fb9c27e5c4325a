"""Manifests for `ssast-edge eval` out of the packs, and a trained bundle measured on one."""

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ssast_edge.cli import main as ssast_edge
from ssast_edge.evaluation.manifest import read_recordings
from train.__main__ import main as train
from train.packs import read_packs
from train.triggers import EVALUATION_PACKS

NAMES = ("wake_words", "commands", "commands_clips", "sounds")


@pytest.fixture(scope="module")
def manifests(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("manifests")
    arguments = ["prepare", "eval", "--root", str(tiny_data), "--manifests", str(folder)]
    ran = CliRunner().invoke(train, arguments)
    assert ran.exit_code == 0, ran.output
    return folder


def test_a_manifest_holds_the_clips_of_its_split_once_each(
    manifests: Path, tiny_data: Path
) -> None:
    for split in ("val", "test"):
        wanted = {
            c.path.resolve() for c in read_packs(tiny_data, EVALUATION_PACKS) if c.split == split
        }
        for name in ("wake_words", "commands", "sounds"):
            found = read_recordings(manifests / f"eval_{name}_{split}.csv")
            played = [r.path.resolve() for r in found if r.kind != "noise"]
            assert len(played) == len(set(played))
            if name == "commands":  # speech that may say one of them is left out
                assert set(played) < wanted
                assert not [path for path in played if path.parent.name == "librispeech"]
            else:
                assert set(played) == wanted
            assert {r.split for r in found} == {split}
            assert any(r.kind == "noise" for r in found)


def test_kinds_and_labels_are_those_of_what_is_measured(manifests: Path) -> None:
    kinds: dict[str, set[tuple[str, str]]] = {}
    for name in NAMES:
        with (manifests / f"eval_{name}_test.csv").open(newline="") as file:
            kinds[name] = {(row["kind"], row["label"]) for row in csv.DictReader(file)}
    assert {("keyword", "alexa"), ("keyword", "jarvis"), ("speech", "bed")} <= kinds["wake_words"]
    assert {("speech", "alexa"), ("speech", "bed")} <= kinds["commands"]
    assert ("sound", "rain") in kinds["sounds"]
    assert not any(kind == "keyword" for kind, _ in kinds["sounds"])
    assert ("noise", "rain") not in kinds["sounds"], "what is to be found may not lie under all"


def test_a_pack_that_is_missing_is_one_line(tmp_path: Path) -> None:
    arguments = ["prepare", "eval", "--root", str(tmp_path), "--manifests", str(tmp_path / "out")]
    ran = CliRunner().invoke(train, arguments)
    assert ran.exit_code == 1
    assert len(ran.stderr.splitlines()) == 1
    assert "wake_words" in ran.stderr
    assert not (tmp_path / "out").exists()


def test_a_trained_bundle_is_measured_on_its_track(
    manifests: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    data = manifests / "eval_wake_words_val.csv"
    arguments = ["eval", tiny_bundle, "--data", data, "--out", tmp_path / "out"]
    arguments += ["--condition", "clean", "--condition", "10dB"]
    ran = CliRunner().invoke(ssast_edge, [str(a) for a in arguments])
    assert ran.exit_code == 0, ran.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [r["condition"] for r in report["results"]] == ["clean", "10dB"]
    for result in report["results"]:
        at, parts = result["at"], result["at_by_keyword"]
        assert set(parts) == {"alexa", "jarvis"}
        for key in ("words", "missed", "false_accepts", "duplicates"):
            assert at[key] == sum(part[key] for part in parts.values())
        assert at["words"] > 0
        assert len(result["misses"]) == at["missed"]
        assert len(result["false_accepts"]) == at["false_accepts"]
        shipped = next(point for point in result["curve"] if point["setting"] == 0)
        assert shipped == {**at, "setting": 0.0}
    assert sum(report["data"]["hours_by_pack"].values()) == pytest.approx(
        report["data"]["hours"], abs=0.001
    )
