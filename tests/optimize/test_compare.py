"""Comparison of models: figures against hand computation, latencies, tracks, the command."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

for _module in ("torch", "lightning_fabric", "safetensors", "matplotlib", "scipy", "onnx"):
    pytest.importorskip(_module, reason=f"{_module} is not installed (extra: optimize)")

from optimize.__main__ import main  # noqa: E402
from optimize.chain.keeper import Chain, ChainError  # noqa: E402
from optimize.comparison.clips import decisions, logit_differences  # noqa: E402
from optimize.comparison.latency import interleaved  # noqa: E402
from optimize.comparison.tables import change  # noqa: E402
from optimize.comparison.tracks import clips_right  # noqa: E402
from optimize.comparison.verdict import targets  # noqa: E402
from optimize.recipe import CompareConfig, load_optimize_recipe  # noqa: E402
from ssast_edge import Detection  # noqa: E402
from ssast_edge.evaluation.det import DetPoint, miss_rate_at  # noqa: E402
from ssast_edge.evaluation.matching import match  # noqa: E402
from ssast_edge.evaluation.track import Source, Track, Word  # noqa: E402
from train.export import export_bundle  # noqa: E402
from train.task import Places  # noqa: E402

RECIPES = Path(__file__).parents[2] / "optimize" / "recipes"


def test_logits_are_compared_as_by_hand() -> None:
    wanted = np.array([[1.0, 0.0], [0.0, 2.0]], np.float32)
    found = np.array([[0.0, 0.5], [0.0, 2.0]], np.float32)
    difference = logit_differences(wanted, found, "softmax")
    assert difference["windows"] == 2
    assert difference["max_difference"] == 1.0
    assert difference["mean_difference"] == pytest.approx(1.5 / 4)
    assert difference["cosine"] == pytest.approx(4 / math.sqrt(5 * 4.25))
    assert difference["top1_agreement"] == 0.5


def test_independent_labels_may_decide_for_none() -> None:
    logits = np.array([[-1.0, -2.0], [0.5, 1.0], [0.1, -3.0]], np.float32)
    assert decisions(logits, "sigmoid").tolist() == [-1, 1, 0]
    assert decisions(logits, "softmax").tolist() == [0, 1, 0]


def test_latencies_are_ratios_to_the_first() -> None:
    def work(count: int) -> float:
        return sum(math.sqrt(i) for i in range(count))

    found = interleaved(
        {"one": lambda: work(2000), "three": lambda: work(6000), "same": lambda: work(2000)},
        rounds=12,
    )
    assert found["one"].ratio == 1
    assert 2 < found["three"].ratio < 4.5
    assert 0.6 < found["same"].ratio < 1.6
    assert found["three"].ratio_low <= found["three"].ratio <= found["three"].ratio_high
    assert found["one"].median_ms <= found["one"].p95_ms


@pytest.mark.parametrize(("calls", "rounds"), [({}, 8), ({"a": lambda: None}, 1)])
def test_nothing_to_time_is_refused(calls: dict[str, object], rounds: int) -> None:
    with pytest.raises(ValueError, match="wanted one"):
        interleaved(calls, rounds=rounds)  # type: ignore[arg-type]


def test_misses_at_equal_false_accepts_are_the_least_within_them() -> None:
    curve = [DetPoint(-1, 4.0, 0.0), DetPoint(0, 1.0, 0.1), DetPoint(1, 0.5, 0.3)]
    assert miss_rate_at(curve, 4) == 0
    assert miss_rate_at(curve, 3.9) == 0.1
    assert miss_rate_at(curve, 0.5) == 0.3
    assert math.isnan(miss_rate_at(curve, 0.4))


def test_a_clip_is_right_without_misses_and_false_accepts() -> None:
    words = (Word("a", 1.0, 1.5, "x"), Word("a", 11.0, 11.5, "y"))
    sources = tuple(Source(at, "p", name) for at, name in ((0.5, "x"), (5.0, "noise"), (10.5, "y")))
    track = Track(np.zeros(16000 * 20, np.float32), words, sources)
    events = [Detection("a", 1.4, 0.9), Detection("a", 6.0, 0.9)]
    score = match(words, events, hours=track.hours)
    assert clips_right(track, score).tolist() == [1, 0, 0]


def row(name: str, ratio: float, lost: float, miss: float | None = None) -> dict[str, Any]:
    estimate = {"value": lost, "low": lost - 0.01, "high": lost + 0.01}
    entry: dict[str, object] = {"lost": estimate}
    if miss is not None:
        entry["lost_at_equal"] = {"value": miss, "low": miss, "high": miss}
    measured = {"track": {"clean": entry}} if miss is not None else entry
    return {"name": name, "latency": {"ratio": ratio}, "precision": "int8", **measured}


def test_targets_are_judged_by_what_ships() -> None:
    models: list[dict[str, Any]] = [
        row("dense onnx fp32", 1.0, 0.0, 0.0),
        row("small onnx int8", 0.3, 0.004, 0.02),
        row("small onnx fp32", 0.6, 0.001, 0.0),
        {"name": "torch eager fp32", "latency": {"ratio": 4.0}},
    ]
    found = {target.name: target for target in targets(models, CompareConfig())}
    met = [target.is_met for target in found.values()]
    assert met == [True, True, True, False], found
    eager = next(target for name, target in found.items() if "eager" in name)
    assert eager.found == "0.075"
    miss = next(target for name, target in found.items() if "miss rate" in name)
    assert miss.found.startswith("2.00 (95 %")


def test_a_step_is_done_once_and_a_failing_one_keeps_the_others(tmp_path: Path) -> None:
    said: list[str] = []
    calls: list[str] = []

    def work(folder: Path) -> dict[str, object]:
        calls.append(folder.name)
        (folder / "made").write_text("x")
        return {"made": "made"}

    def fail(folder: Path) -> dict[str, object]:
        (folder / "half").write_text("x")
        raise ValueError("the audio is\nsilent")

    first = Chain(tmp_path, said.append).do("one", {"a": 1}, work)
    assert not first.was_kept
    chain = Chain(tmp_path, said.append)
    again = chain.do("one", {"a": 1}, work)
    assert again.was_kept
    assert again.result == {"made": "made"}
    with pytest.raises(ChainError, match="step two failed: the audio is silent; kept in .*: one;"):
        chain.do("two", {"one": again.key}, fail)
    assert (again.folder / "made").is_file()
    found: list[list[str]] = []
    chain.do("two", {"one": again.key}, lambda f: {"seen": [p.name for p in f.iterdir()]})
    found.append(chain.done["two"].result["seen"])
    assert found == [["half"]], "a killed step finds what it had written"
    assert Chain(tmp_path, said.append).do("one", {"a": 2}, work).key != first.key
    assert len(calls) == 2
    assert "two: goes on" in said
    (first.folder / "step.json").write_text("{")
    assert not Chain(tmp_path, said.append).do("one", {"a": 1}, work).was_kept


def test_the_command_compares_a_bundle_with_itself(
    dense: Path, places: Places, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        export_bundle(dense, tmp_path / name)
    arguments = [
        "compare", tmp_path / "a", tmp_path / "b", "--manifests", places.manifests, "--cache",
        places.cache, "--rounds", 4, "--out", tmp_path / "out", "--eager", dense,
    ]  # fmt: skip
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    first, second, eager = json.loads((tmp_path / "out" / "comparison.json").read_text())["models"]
    assert (first["clips"], first["bundle"]) == (9, "tones")
    assert second["name"] == "tones 2 onnx fp32"
    assert second["logits"] == first["logits"]
    assert second["logits"]["cosine"] == pytest.approx(1)
    assert second["lost"]["value"] == 0
    assert second["macs"] == first["macs"] > 0
    assert second["bytes"] == first["bytes"]
    assert eager["latency"]["median_ms"] > 0
    assert "| tones 2 onnx fp32 |" in result.stdout
    assert (tmp_path / "out" / "comparison.html").is_file()


def test_what_cannot_be_compared_is_one_line(dense: Path, tmp_path: Path) -> None:
    export_bundle(dense, tmp_path / "a")
    for arguments, words in (
        ([tmp_path / "a", "wake-words", "--latency-only"], "its labels"),
        ([tmp_path / "none"], "no bundle"),
        ([tmp_path / "a", "--manifests", tmp_path], "no such manifest"),
    ):
        result = CliRunner().invoke(main, ["compare", *map(str, arguments)])
        assert result.exit_code == 1
        line = result.stderr.strip().splitlines()
        assert len(line) == 1
        assert words in line[0]


def test_keywords_are_compared_on_a_track(
    tiny_keywords: tuple[Path, Places], tmp_path: Path
) -> None:
    checkpoint, places = tiny_keywords
    export_bundle(checkpoint, tmp_path / "a")
    arguments = [
        "compare", tmp_path / "a", tmp_path / "a", "--data", places.data, "--rounds", 4,
        "--out", tmp_path / "out", "--condition", "clean",
    ]  # fmt: skip
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    first, second = json.loads((tmp_path / "out" / "comparison.json").read_text())["models"]
    assert first["track"] == second["track"]
    clean = first["track"]["clean"]
    assert clean["words"] == first["words"] > 0
    assert clean["lost"]["value"] == 0
    assert clean["accuracy"]["low"] <= clean["accuracy"]["value"] <= clean["accuracy"]["high"]
    assert clean["miss_rate_at_equal"] <= clean["miss_rate"]
    assert len(clean["curve"]) == 33
    assert 0 <= first["window_accuracy"]["value"] <= 1
    assert len(list((tmp_path / "out" / "scores").iterdir())) == 1, "scores of a model are kept"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_recipes_of_the_project_are_valid(path: Path) -> None:
    recipe = load_optimize_recipe(path)
    assert recipe.prune is None or recipe.prune.has_goal
    assert recipe.quantize is not None


@pytest.mark.parametrize(
    ("lost", "text"),
    [
        ({"value": 0.0076, "low": -0.001, "high": 0.0157}, "loses 0.76 (-0.10 to 1.57) points"),
        ({"value": -0.0076, "low": -0.0157, "high": 0.0}, "gains 0.76 (0.00 to 1.57) points"),
        ({"value": -0.01}, "gains 1.00 points"),
        ({"value": 0.0}, "loses 0.00 points"),
    ],
)
def test_what_accuracy_did_is_told_in_words(lost: dict[str, float], text: str) -> None:
    assert change(lost) == f"{text} of accuracy"
